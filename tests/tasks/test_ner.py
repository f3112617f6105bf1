"""Windows lose no word, labels stand on first tokens, ids are those of the raw text."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.tasks.ner import TokenClassification
from mlm_pretrain.training.loss import IGNORE_INDEX

TOY = TaskConfig(task="ner", name="toy")
LABELS = ["O", "B-x", "I-x"]
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


def test_ids_are_those_of_the_text(any_tokenizer: PreTrainedTokenizerFast) -> None:
    words = ["Nairobi", "is", "larger", ",", "don't", "stop"]
    adapter = TokenClassification(LABELS, any_tokenizer, 100)
    text = "Nairobi is  larger, don't stop"
    spans = [(0, 7), (8, 10), (12, 18), (18, 19), (20, 25), (26, 30)]
    joined, raw = adapter.encode([tagged(words), {"tokens": words, "text": text, "spans": spans}])
    assert joined["input_ids"] == any_tokenizer(" ".join(words))["input_ids"]
    assert raw["input_ids"] == any_tokenizer(text)["input_ids"]
    assert [word for _, word in raw["words"]] == list(range(6))
    assert set(raw["labels"]) == {IGNORE_INDEX}
    assert any_tokenizer.backend_tokenizer.truncation is None  # it would be saved with the tokenizer


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


def logits_for(
    adapter: TokenClassification, features: list[dict], tags: list[list[str]], size: int
) -> list[np.ndarray]:
    """Logits that say the given tags, with rows padded as batches are."""
    rows = []
    for feature in features:
        row = np.zeros((size, len(LABELS)), dtype=np.float32)
        for position, word in feature["words"]:
            row[position, LABELS.index(tags[feature["example"]][word])] = 5.0
        rows.append(row)
    return rows


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(["Berlin", "unbelievable", "a", ""])), min_size=1, max_size=3), st.integers(6, 20)
)
def test_predictions_come_back_word_by_word(
    bpe: PreTrainedTokenizerFast, sentences: list[list[str]], max_length: int
) -> None:
    adapter = TokenClassification(LABELS, bpe, max_length, stride=1)
    examples = [tagged(words) for words in sentences]
    features = adapter.encode(examples)
    predicted = adapter.predictions(
        examples, features, logits_for(adapter, features, [e["tags"] for e in examples], 32)
    )
    for example, prediction in zip(examples, predicted, strict=True):
        said = [tag if word else "O" for word, tag in zip(example["tokens"], example["tags"], strict=True)]
        # An I- after a word without token starts an entity of its own.
        assert [tag[-1:] for tag in prediction["tags"]] == [tag[-1:] for tag in said]
        assert len(prediction["scores"]) == len(example["tokens"])


def test_two_words_in_one_token_are_one_entity(bpe: PreTrainedTokenizerFast) -> None:
    adapter = TokenClassification(LABELS, bpe, 20)
    text = "a people"
    assert bpe(text, return_offsets_mapping=True)["offset_mapping"][2] == (1, 6)  # one token over two words
    example = {"text": text, "tokens": ["a", "pe", "op"], "spans": [(0, 1), (2, 4), (4, 6)]}
    features = adapter.encode([example])
    logits = logits_for(adapter, features, [["O", "B-x", "B-x"]], 20)
    assert adapter.predictions([example], features, logits)[0]["tags"] == ["O", "B-x", "I-x"]


def test_labels_come_from_train(capsys: pytest.CaptureFixture[str]) -> None:
    train = [{"tokens": ["a"], "tags": ["B-x"], "place": "train:1"}]
    other = [{"tokens": ["a"], "tags": ["I-z"], "place": "test:7"}]
    assert TokenClassification.label_names(train, [], TOY) == LABELS
    assert TokenClassification.label_names(train, other, TOY) == [*LABELS, "B-z", "I-z"]
    assert "test:7: no training example has the type 'z'" in capsys.readouterr().err
    with pytest.raises(UserError, match="a:1: every training tag is O"):
        TokenClassification.label_names([{"tokens": ["a"], "tags": ["O"], "place": "a:1"}], [], TOY)


def test_majority_is_each_words_commonest_tag(bpe: PreTrainedTokenizerFast) -> None:
    train = [
        {"tokens": ["New", "York", "is", "new"], "tags": ["B-x", "I-x", "O", "O"]},
        {"tokens": ["New", "York"], "tags": ["B-x", "I-x"]},
        {"tokens": ["New"], "tags": ["O"]},
    ]
    adapter = TokenClassification(LABELS, bpe, 20)
    (prediction,) = adapter.majority(train, [{"tokens": ["York", "and", "New", "York", "new"]}])
    assert prediction["tags"] == ["B-x", "O", "B-x", "I-x", "O"]
