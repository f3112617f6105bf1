"""Tag schemes of named entities: IOB2 (called BIO), IOB1 and BIOES, read and written.

BILOU and BMEWO are BIOES in other letters and are read too. Examples and predictions have IOB2.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal

from mlm_pretrain.tasks.labels.unusable import BadExample

Scheme = Literal["BIO", "IOB1", "BIOES"]
Entity = tuple[str, int, int]
"""Type, first and last word (or token)."""

UNNAMED = "entity"
"""The type of entities whose tags name none."""
_UNTYPED = frozenset("BIESLUWM")
_TAG = re.compile(r"O|[BIESLUWM]-.+")
_LETTERS = {"L": "E", "U": "S", "W": "S", "M": "I"}


def is_tag(tag: str) -> bool:
    return _TAG.fullmatch(tag) is not None


def typed(tag: str, place: str, number: int) -> str:
    """A tag of any scheme; one without a type (B or I alone, in data with one kind of entity) gets `UNNAMED`.

    Args:
        place, number: of the sentence, and of the word in it from 1.

    Raises:
        BadExample: the tag is of no scheme.
    """
    if tag in _UNTYPED:
        return f"{tag}-{UNNAMED}"
    if tag.isdecimal():
        problem = f"'{tag}' is a number, not a tag of entities; label_names: [O, B-…, …] gives the tags in their order"
        raise BadExample(place, problem, "a tag that is a number", f"word {number}")
    if not is_tag(tag):
        problem = (
            f"'{tag}' is not a tag of entities; allowed are O, and B-, I-, E- or S- before the type "
            "(task: tagging takes any labels)"
        )
        raise BadExample(place, problem, "a tag of no scheme", f"word {number}")
    return tag


def canonical(tag: str) -> str:
    """A tag of BILOU or BMEWO in the letters of BIOES; others stay."""
    return _LETTERS.get(tag[:1], tag[:1]) + tag[1:] if tag[1:2] == "-" else tag


def entities_of(tags: Iterable[str]) -> list[Entity]:
    """The entities of tags of any scheme, in order, as conlleval and seqeval (its default mode) read them.

    An I- or E- that continues nothing starts an entity, and whatever doesn't continue one ends it.
    """
    found: list[Entity] = []
    previous = "O"
    for number, tag in enumerate(map(canonical, tags)):
        if _continues(previous, tag):
            found[-1] = (found[-1][0], found[-1][1], number)
        elif tag != "O":
            found.append((tag[2:], number, number))
        previous = tag
    return found


def tags_of(entities: Sequence[Entity], length: int, scheme: Scheme = "BIO") -> list[str]:
    """Entities as tags; the inverse of `entities_of`.

    Args:
        entities: none overlaps another, in order.
        length: how many words there are.
    """
    tags = ["O"] * length
    before = ("", -2, -2)
    for name, first, last in entities:
        touches = before[0] == name and before[2] == first - 1
        tags[first] = f"I-{name}" if scheme == "IOB1" and not touches else f"B-{name}"
        tags[first + 1 : last + 1] = [f"I-{name}"] * (last - first)
        if scheme == "BIOES":
            tags[last] = f"S-{name}" if first == last else f"E-{name}"
        before = (name, first, last)
    return tags


def convert(tags: Sequence[str], scheme: Scheme) -> list[str]:
    """Tags of any scheme in another; the entities stay those of `entities_of`."""
    return tags_of(entities_of(tags), len(tags), scheme)


def valid_iob2(tags: Iterable[str]) -> list[str]:
    """Tags of any scheme, broken or not, as the IOB2 tags of their entities."""
    return convert(list(tags), "BIO")


def spread(tag: str, count: int) -> list[str]:
    """The tags of the `count` tokens of a word, so that tokens too follow the scheme of the words."""
    letter, name = tag[:1], tag[1:]
    if letter == "O" or count == 1:
        return [tag] * count
    first = "B" if letter in "BS" else "I"
    last = "E" if letter in "ES" else "I"
    return [first + name, *[f"I{name}"] * (count - 2), last + name]


def scheme_of(sentences: Iterable[Sequence[str]]) -> Scheme:
    """The scheme of a file, told by the tags in it.

    BIOES has E- or S- (or their other letters). In IOB1 a B- follows an entity of its type, always.
    """
    found: Scheme = "IOB1"
    for tags in sentences:
        previous = "O"
        for tag in map(canonical, tags):
            if tag[0] in "ES":
                return "BIOES"
            if tag[0] == "B" and previous[1:] != tag[1:]:
                found = "BIO"
            previous = tag
    return found


def breaks(tags: Sequence[str], scheme: Scheme) -> list[int]:
    """Where tags break the rules of their scheme: the numbers of words whose tag continues or closes nothing, or
    (BIOES) opens an entity that is not closed."""
    if scheme == "IOB1":
        return []
    around = ["O", *map(canonical, tags), "O"]
    found = []
    for number, (previous, tag, following) in enumerate(zip(around, around[1:], around[2:], strict=False)):
        stray = tag[0] in "IE" and not _continues(previous, tag)
        unclosed = scheme == "BIOES" and tag[0] in "BI" and not _continues(tag, following)
        if stray or unclosed:
            found.append(number)
    return found


def _continues(previous: str, tag: str) -> bool:
    """Whether a tag goes on with the entity of the tag before it; both in the letters of BIOES."""
    return tag[0] in "IE" and previous[0] in "BI" and previous[1:] == tag[1:]
