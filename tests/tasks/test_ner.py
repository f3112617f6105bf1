"""Named entities: ids are those of the raw text, any scheme is learnt and told, mistakes are listed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForTokenClassification, PreTrainedTokenizerFast

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.models.encoder import load_tokenizer
from mlm_pretrain.runtime.loss import IGNORE_INDEX
from mlm_pretrain.tasks.fit.finetune import finetune
from mlm_pretrain.tasks.inference.logits import logits_of
from mlm_pretrain.tasks.kinds.ner import TokenClassification
from mlm_pretrain.tasks.kinds.registered import TASKS
from mlm_pretrain.tasks.labels.schemes import convert
from tests.tasks.conftest import conll, separable_sentences

TOY = TaskConfig(task="ner", name="toy")
BIOES = TaskConfig(task="ner", name="toy", tagging_scheme="BIOES")
LABELS = ["O", "B-x", "I-x"]
BIOES_LABELS = ["O", "B-x", "I-x", "E-x", "S-x"]


def tagged(words: list[str]) -> dict:
    return {"tokens": words, "tags": [LABELS[number % 3] for number in range(len(words))]}


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


def logits_for(
    adapter: TokenClassification, features: list[dict], tags: list[list[str]], size: int
) -> list[np.ndarray]:
    """Logits that say the given tags, with rows padded as batches are."""
    rows = []
    for feature in features:
        row = np.zeros((size, len(adapter.labels)), dtype=np.float32)
        for position, word in feature["words"]:
            row[position, adapter.labels.index(tags[feature["example"]][word])] = 5.0
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


def test_labels_come_from_train() -> None:
    train = [{"tokens": ["a"], "tags": ["B-x"], "place": "train:1"}]
    assert TokenClassification.label_names(train, TOY) == LABELS
    with pytest.raises(UserError, match="a:1: every training tag is O"):
        TokenClassification.label_names([{"tokens": ["a"], "tags": ["O"], "place": "a:1"}], TOY)


def test_majority_is_each_words_commonest_tag(bpe: PreTrainedTokenizerFast) -> None:
    train = [
        {"tokens": ["New", "York", "is", "new"], "tags": ["B-x", "I-x", "O", "O"]},
        {"tokens": ["New", "York"], "tags": ["B-x", "I-x"]},
        {"tokens": ["New"], "tags": ["O"]},
    ]
    adapter = TokenClassification(LABELS, bpe, 20)
    (prediction,) = adapter.majority(train, [{"tokens": ["York", "and", "New", "York", "new"]}])
    assert prediction["tags"] == ["B-x", "O", "B-x", "I-x", "O"]


# -- schemes -----------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    tags=st.lists(st.sampled_from(BIOES_LABELS), max_size=12),
    labels=st.sampled_from(
        [LABELS, BIOES_LABELS, ["O", "B-x", "I-x", "L-x", "U-x"], ["B-x", "M-x", "E-x", "W-x", "O"]]
    ),
)
def test_predictions_are_iob2_in_whatever_scheme_the_model_is(
    bpe: PreTrainedTokenizerFast, tags: list[str], labels: list[str]
) -> None:
    adapter = TokenClassification(labels, bpe, 12, stride=1)
    own = {"E-x": "L-x", "S-x": "U-x"} if "U-x" in labels else {"I-x": "M-x", "S-x": "W-x"} if "W-x" in labels else {}
    said = convert(tags, "BIO") if labels is LABELS else [own.get(tag, tag) for tag in tags]
    example = {"tokens": ["people"] * len(tags), "tags": convert(tags, "BIO")}
    features = adapter.encode([example])
    (prediction,) = adapter.predictions([example], features, logits_for(adapter, features, [said], 12))
    assert prediction["tags"] == convert(tags, "BIO")
    # The labels that the model learns are those that say these tags.
    learnt = {word: row["labels"][position] for row in features for position, word in row["words"]}
    scheme = "BIO" if labels is LABELS else "BIOES"
    assert [labels[learnt[word]] for word in range(len(tags))] == [own.get(tag, tag) for tag in convert(tags, scheme)]


def test_bioes_from_the_config_to_the_finished_model(encoder: Path, tmp_path: Path) -> None:
    (tmp_path / "train.conll").write_text(conll(separable_sentences(64, seed=0)))
    task = BIOES.model_copy(
        update={
            "train": str(tmp_path / "train.conll"),
            "label_all_tokens": True,
            "num_train_epochs": 8,
            "load_best_model_at_end": False,
            "learning_rate": 5e-3,
            "bf16": False,
            "seeds": [0],
        }
    )
    figures = finetune(task, encoder, tmp_path / "out")
    assert figures["pretrained"] > 0.9
    config = AutoConfig.from_pretrained(tmp_path / "out")
    labels = [config.id2label[number] for number in range(config.num_labels)]
    assert labels == ["O", "B-LOC", "I-LOC", "E-LOC", "S-LOC"]
    assert [name for name in TASKS if TASKS[name].serves(config)] == ["ner"]
    tokenizer = load_tokenizer(tmp_path / "out")
    adapter = TASKS["ner"](labels, tokenizer, 32)
    text = "the Berlin Spree  train Berlin Spree"
    example = adapter.make_example({"text": text}, TOY, "f:1", labelled=False)
    features = adapter.encode([example])
    model = AutoModelForTokenClassification.from_pretrained(tmp_path / "out")
    (prediction,) = adapter.predictions([example], features, logits_of(adapter, model, features, 1))
    found = adapter.record(example, prediction)["entities"]
    assert [(row["start"], row["end"], row["text"], row["type"]) for row in found] == [
        (4, 16, "Berlin Spree", "LOC"),
        (24, 36, "Berlin Spree", "LOC"),
    ]
    with torch.inference_mode():
        chances = model(**tokenizer(text, return_tensors="pt")).logits[0].softmax(-1).max(-1).values
    first_tokens = {word: position for position, word in features[0]["words"]}
    means = [(chances[first_tokens[word]] + chances[first_tokens[word + 1]]).item() / 2 for word in (1, 4)]
    assert [row["score"] for row in found] == pytest.approx(means, rel=1e-4)


def test_labels_tell_the_task() -> None:
    def served(*labels: str) -> list[str]:
        names = dict(enumerate(labels))
        config = AutoConfig.for_model("bert", architectures=["BertForTokenClassification"], id2label=names)
        return [name for name in TASKS if TASKS[name].serves(config)]

    assert served("O", "B-PER", "I-PER") == served("O", "U-a b", "L-a b") == served("B-NP", "I-NP") == ["ner"]
    assert served("NOUN", "VERB") == served("O", "PER", "LOC") == served("LABEL_0", "LABEL_1") == ["tagging"]


def test_a_label_that_the_model_does_not_know_is_missed(bpe: PreTrainedTokenizerFast) -> None:
    adapter = TokenClassification(LABELS, bpe, 20)
    (feature,) = adapter.encode([{"tokens": ["a", "a"], "tags": ["B-y", "B-x"]}])
    assert [feature["labels"][position] for position, _ in feature["words"]] == [IGNORE_INDEX, 1]


# -- mistakes ----------------------------------------------------------------------------------------------------


def test_mistakes_are_listed(bpe: PreTrainedTokenizerFast) -> None:
    adapter = TokenClassification(LABELS, bpe, 20)
    tokens = ["Ann", "Lee", "met", "Bob", "in", "New", "York", "near", "Oslo"]
    tags = ["B-P", "I-P", "O", "B-P", "O", "B-L", "I-L", "O", "B-L"]
    predicted = ["B-P", "O", "B-P", "B-L", "O", "B-L", "I-L", "B-L", "O"]
    example = {"tokens": tokens, "tags": tags, "place": "f:3"}
    errors = adapter.errors([example], [{"tags": predicted, "scores": [1.0] * 9}])
    context = " ".join(tokens)
    assert errors == [
        {
            "place": "f:3",
            "kind": "wrong_span",
            "type": "P",
            "text": "Ann Lee",
            "first": 0,
            "last": 1,
            "predicted_text": "Ann",
            "context": context,
        },
        {"place": "f:3", "kind": "invented", "type": "P", "text": "met", "first": 2, "last": 2, "context": context},
        {
            "place": "f:3",
            "kind": "wrong_type",
            "type": "P",
            "predicted_type": "L",
            "text": "Bob",
            "first": 3,
            "last": 3,
            "context": context,
        },
        {"place": "f:3", "kind": "invented", "type": "L", "text": "near", "first": 7, "last": 7, "context": context},
        {"place": "f:3", "kind": "missed", "type": "L", "text": "Oslo", "first": 8, "last": 8, "context": context},
    ]
    long = {"tokens": ["so"] * 99 + ["Oslo"] + ["so"] * 99, "place": "f:4", "tags": ["O"] * 99 + ["B-L"] + ["O"] * 99}
    (error,) = adapter.errors([long], [{"tags": ["O"] * 199}])
    assert error["context"].startswith("…") and error["context"].endswith("…") and "Oslo" in error["context"]
    assert 110 < len(error["context"]) < 130
    assert adapter.errors([long], [{"tags": long["tags"]}]) == []
