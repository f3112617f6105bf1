"""Tag schemes: whatever is written is read back, and what is broken is read as seqeval reads it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import IOB1, IOB2, IOBES, Entities

from mlm_pretrain.errors import UserError
from mlm_pretrain.tasks.labels.schemes import (
    Entity,
    Scheme,
    breaks,
    convert,
    entities_of,
    is_tag,
    scheme_of,
    spread,
    tags_of,
    typed,
    valid_iob2,
)

SCHEMES: tuple[Scheme, ...] = ("BIO", "IOB1", "BIOES")
REFERENCE = {"BIO": IOB2, "IOB1": IOB1, "BIOES": IOBES}
PIECES = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4), st.sampled_from(["LOC", "PER", "B-x", "a b"])))
BROKEN = st.lists(st.sampled_from(["O", *(f"{letter}-{name}" for letter in "BIES" for name in "ab")]))


def laid_out(pieces: list[tuple[int, int, str]]) -> tuple[list[Entity], int]:
    """Entities from (words before it, its words, its type), and how many words there are."""
    entities = []
    word = 0
    for gap, length, name in pieces:
        entities.append((name, word + gap, word + gap + length - 1))
        word += gap + length
    return entities, word


@pytest.mark.parametrize("scheme", SCHEMES)
@given(pieces=PIECES)
def test_what_is_written_is_read(scheme: Scheme, pieces: list[tuple[int, int, str]]) -> None:
    entities, length = laid_out(pieces)
    tags = tags_of(entities, length, scheme)
    assert len(tags) == length
    assert entities_of(tags) == entities
    assert breaks(tags, scheme) == []
    assert all(map(is_tag, tags))
    strict = Entities([tags], REFERENCE[scheme]).entities[0]  # seqeval's strict reading of each scheme
    assert [(entity.tag, entity.start, entity.end - 1) for entity in strict] == entities
    if entities:
        assert scheme_of([["O"], tags]) == scheme
    for other in SCHEMES:
        assert convert(convert(tags, other), scheme) == tags


@given(PIECES, st.sampled_from(["BILOU", "BMEWO"]))
def test_other_letters_of_bioes(pieces: list[tuple[int, int, str]], spelling: str) -> None:
    entities, length = laid_out(pieces)
    letters = {"BILOU": {"E": "L", "S": "U"}, "BMEWO": {"I": "M", "S": "W"}}[spelling]
    tags = [letters.get(tag[0], tag[0]) + tag[1:] for tag in tags_of(entities, length, "BIOES")]
    assert all(map(is_tag, tags))
    assert entities_of(tags) == entities and breaks(tags, "BIOES") == []
    if entities:
        assert scheme_of([tags]) == "BIOES"


@given(BROKEN)
def test_broken_tags_are_read_as_seqeval_reads_them(tags: list[str]) -> None:
    assert entities_of(tags) == get_entities(tags)
    repaired = valid_iob2(tags)
    assert breaks(repaired, "BIO") == []
    assert entities_of(repaired) == entities_of(tags)
    # Nothing is broken exactly where strict reading finds the same entities and no tag is left over.
    assert (breaks(tags, "BIOES") == []) == (convert(tags, "BIOES") == tags)


def test_breaks_are_named() -> None:
    assert breaks(["I-a", "I-a", "O", "B-a", "I-b"], "BIO") == [0, 4]
    assert breaks(["I-a", "I-a", "O", "B-a", "I-b"], "IOB1") == []
    assert breaks(["B-a", "O", "I-a", "E-a", "E-a", "S-a", "B-a"], "BIOES") == [0, 2, 4, 6]


def test_schemes_are_told_by_their_tags() -> None:
    assert scheme_of([["I-a", "B-a"], ["O", "I-b"]]) == "IOB1"
    assert scheme_of([["I-a", "B-a"], ["O", "B-b"]]) == "BIO"
    assert scheme_of([["B-a", "I-a"], ["U-a"]]) == "BIOES"


@given(PIECES, st.data(), st.sampled_from(SCHEMES[::2]))
def test_tokens_of_words_follow_the_scheme(
    pieces: list[tuple[int, int, str]], data: st.DataObject, scheme: Scheme
) -> None:
    entities, length = laid_out(pieces)
    tags = tags_of(entities, length, scheme)
    counts = [data.draw(st.integers(1, 4)) for _ in tags]
    tokens = [part for tag, count in zip(tags, counts, strict=True) for part in spread(tag, count)]
    starts = [sum(counts[:word]) for word in range(length + 1)]
    assert breaks(tokens, scheme) == []
    assert entities_of(tokens) == [(name, starts[first], starts[last + 1] - 1) for name, first, last in entities]
    # The first tokens alone tell the entities too.
    assert entities_of(tokens[start] for start in starts[:-1]) == entities


@pytest.mark.parametrize("tag", ["", "o", "PER", "B-", "B_PER", "X-PER", "-", "NN"])
def test_other_tags_are_refused(tag: str) -> None:
    with pytest.raises(UserError, match=r"f:1, word 1: '.*' is not a tag of entities; allowed are O, and B-"):
        typed(tag, "f:1", 1)
