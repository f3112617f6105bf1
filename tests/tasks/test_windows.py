"""Windows of long texts: no word is lost, no token is trained twice, labels stand on the right tokens."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.runtime.loss import IGNORE_INDEX
from mlm_pretrain.tasks.kinds.ner import TokenClassification

ALL_TOKENS = TaskConfig(task="ner", name="toy", label_all_tokens=True)
LABELS = ["O", "B-x", "I-x"]
BIOES_LABELS = ["O", "B-x", "I-x", "E-x", "S-x"]
WORDS = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs", "Zs", "Zl", "Zp", "Cc")), min_size=1, max_size=12
)
SENTENCES = st.lists(st.one_of(WORDS, st.sampled_from(["Berlin", "unbelievable", "don't", "", "\x85", "\u200b"])))


def tagged(words: list[str]) -> dict:
    return {"tokens": words, "tags": [LABELS[number % 3] for number in range(len(words))]}


def positions(features: list[dict], examples: list[dict]) -> list[dict[int, tuple[int, int]]]:
    """For every example: word → (row, position of its token)."""
    found: list[dict[int, tuple[int, int]]] = [{} for _ in examples]
    for number, feature in enumerate(features):
        for position, word in feature["words"]:
            assert word not in found[feature["example"]], "a word is labelled twice"
            found[feature["example"]][word] = (number, position)
    return found


@settings(max_examples=60, deadline=None)
@given(sentences=st.lists(SENTENCES, min_size=1, max_size=3), max_length=st.integers(6, 24), stride=st.integers(0, 3))
def test_windows_lose_no_word(
    any_tokenizer: PreTrainedTokenizerFast, sentences: list[list[str]], max_length: int, stride: int
) -> None:
    examples = [tagged(words) for words in sentences]
    cut = TokenClassification(LABELS, any_tokenizer, max_length, stride).encode(examples)
    # Windows too long to cut anything are the reference: the same words have a token, and the same one.
    whole = TokenClassification(LABELS, any_tokenizer, 100_000).encode(examples)
    assert len(whole) == len(examples)
    assert all(len(feature["input_ids"]) <= max_length for feature in cut)
    for ours, theirs in zip(positions(cut, examples), positions(whole, examples), strict=True):
        assert ours.keys() == theirs.keys()
        for word in ours:
            (row, position), (row_whole, position_whole) = ours[word], theirs[word]
            token = cut[row]["input_ids"][position]
            assert token == whole[row_whole]["input_ids"][position_whole]
            label = cut[row]["labels"][position]
            assert label == whole[row_whole]["labels"][position_whole] != IGNORE_INDEX
    labelled = sum(label != IGNORE_INDEX for feature in cut for label in feature["labels"])
    assert labelled == len({place for each in positions(cut, examples) for place in each.values()})


def tokens_by_number(features: list[dict], examples: list[dict], step: int) -> list[dict[int, tuple[int, int]]]:
    """For every example: number of a labelled token in the whole text → (its id, its label)."""
    found: list[dict[int, tuple[int, int]]] = [{} for _ in examples]
    windows = [0] * len(examples)
    for feature in features:
        number = feature["example"]
        for position, label in enumerate(feature["labels"]):
            token = windows[number] * step + position - 1  # [CLS] comes first
            if label != IGNORE_INDEX:
                assert token not in found[number], "a token is trained twice"
                found[number][token] = (feature["input_ids"][position], label)
        windows[number] += 1
    return found


@settings(max_examples=60, deadline=None)
@given(
    sentences=st.lists(SENTENCES, min_size=1, max_size=3),
    max_length=st.integers(6, 24),
    stride=st.integers(0, 3),
    scheme=st.sampled_from([LABELS, BIOES_LABELS]),
)
def test_all_tokens_are_trained_once(
    any_tokenizer: PreTrainedTokenizerFast, sentences: list[list[str]], max_length: int, stride: int, scheme: list[str]
) -> None:
    examples = [tagged(words) for words in sentences]
    adapter = TokenClassification(scheme, any_tokenizer, max_length, stride, ALL_TOKENS)
    cut = adapter.encode(examples)
    whole = TokenClassification(scheme, any_tokenizer, 100_000, task=ALL_TOKENS).encode(examples)
    assert tokens_by_number(cut, examples, max_length - 2 - stride) == tokens_by_number(whole, examples, 100_000)
    # Words are scored as ever: once, by the first token, which carries a label.
    first = TokenClassification(scheme, any_tokenizer, max_length, stride).encode(examples)
    assert [feature["words"] for feature in cut] == [feature["words"] for feature in first]
    for feature in cut:
        assert all(feature["labels"][position] != IGNORE_INDEX for position, _ in feature["words"])


@pytest.mark.parametrize("labels", [LABELS, BIOES_LABELS])
def test_all_tokens_of_a_word_carry_its_label(bpe: PreTrainedTokenizerFast, labels: list[str]) -> None:
    words = ["a", "xyzxyz", "qqq", "a"]
    example = {"tokens": words, "tags": ["O", "B-x", "I-x", "B-x"]}
    (feature,) = TokenClassification(labels, bpe, 100, task=ALL_TOKENS).encode([example])
    said = [labels[number] for number in feature["labels"] if number != IGNORE_INDEX]
    last = ["I-x", "B-x"] if labels is LABELS else ["E-x", "S-x"]
    # A token a letter, and tokens of blanks, which are no word's.
    assert said == ["O", "B-x", *["I-x"] * 5, *["I-x"] * 2, *last]
    assert {label == IGNORE_INDEX for label in feature["labels"]} == {True, False}


def test_every_ordinary_word_has_its_first_token(any_tokenizer: PreTrainedTokenizerFast) -> None:
    words = ["people", "travel", "between", "unbelievable", "Berlin", "internationalisation", "by", "train"]
    (feature,) = TokenClassification(LABELS, any_tokenizer, 1000).encode([tagged(words)])
    assert [word for _, word in feature["words"]] == list(range(len(words)))
    ids = feature["input_ids"]
    starts = [position for position, _ in feature["words"]] + [len(ids) - 1]
    for word, start, end in zip(words, starts, starts[1:], strict=False):
        decoded = any_tokenizer.decode(ids[start:end], clean_up_tokenization_spaces=False).replace("##", "")
        assert decoded.strip().lower().replace(" ", "") == word.lower()
    assert feature["labels"] == [
        starts.index(place) % 3 if place in starts[:-1] else IGNORE_INDEX for place in range(len(ids))
    ]


def test_a_word_is_read_where_most_context_is(bpe: PreTrainedTokenizerFast) -> None:
    words = ["a"] * 20  # a token each
    features = TokenClassification(LABELS, bpe, max_length=10, stride=4).encode([tagged(words)])
    # Windows of 8 tokens start at 0, 4, 8 and 12; the four inner tokens of each are its own.
    assert [[word for _, word in feature["words"]] for feature in features] == [
        [0, 1, 2, 3, 4, 5],
        [6, 7, 8, 9],
        [10, 11, 12, 13],
        [14, 15, 16, 17, 18, 19],
    ]
