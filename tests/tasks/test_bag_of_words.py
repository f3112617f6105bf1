"""Bags of words: what people would take in place of an encoder, scored as the encoder is."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.tasks.adapter import TASKS, Example
from mlm_pretrain.tasks.data.splits import LabelledData
from mlm_pretrain.tasks.fit.baselines import bag_of_words as score
from mlm_pretrain.tasks.fit.finetune import finetune
from mlm_pretrain.tasks.scores import bag_of_tags, bag_of_texts, bag_of_words
from mlm_pretrain.tasks.scores.bag_of_tags import shape
from mlm_pretrain.tasks.scores.bag_of_texts import words_of
from mlm_pretrain.tasks.scores.bag_of_words import NoBagOfWords, evenly
from tests.tasks.conftest import conll, make_tokenizer, separable_sentences, separable_texts

RECIPE: dict[str, Any] = {"max_steps": 2, "bf16": False, "seeds": [0], "per_device_train_batch_size": 8}


def data_of(train: list[Example], test: list[Example]) -> LabelledData:
    return LabelledData(train, test, test, test_is_validation=True)


def scored(kind: str, labels: list[str], train: list[Example], test: list[Example], metric: str, **task: Any) -> Any:
    adapter = TASKS[kind](labels, make_tokenizer("wordpiece"), 64, 0, TaskConfig(task=kind, name="toy", **task))
    adapter.learn(train)
    return score("toy", adapter, data_of(train, test), metric)


def tagged(count: int, seed: int) -> list[Example]:
    return [{"tokens": tokens, "tags": tags, "place": "f:1"} for tokens, tags in separable_sentences(count, seed)]


# -- texts -----------------------------------------------------------------------------------------------------------


def test_what_words_tell_is_learnt() -> None:
    train, test = separable_texts(64, 1), separable_texts(40, 2)
    found = scored("classification", ["bad", "good"], train, test, "accuracy")
    assert found["bag_of_words"] == 1.0
    details = found["bag_of_words_details"]
    assert details["accuracy"] == details["macro_f1"] == 1.0 and details["train_examples"] == 64
    pairs = [(first, second) for first in train for second in test[:8]]
    both = [{"text": f"{a['text']} {b['text']}", "label": sorted({a["label"], b["label"]})} for a, b in pairs]
    assert scored("multi_label_classification", ["bad", "good"], both, both[::3], "micro_f1")["bag_of_words"] == 1.0
    # The number of a word is what it is worth: a line through counts of words.
    sums = [{"text": row["text"], "label": 2.0 if row["label"] == "good" else -1.0} for row in train]
    assert scored("regression", ["score"], sums, sums, "pearson")["bag_of_words"] > 0.99


def test_of_pairs_what_both_share_is_seen() -> None:
    """Whether two texts have the same word: neither tells it alone."""
    rng = random.Random(0)
    words = [f"w{number}" for number in range(12)]
    rows = []
    for number in range(400):
        first = rng.choice(words)
        second = first if number % 2 else rng.choice([word for word in words if word != first])
        rows.append({"text": f"{first} a b", "text_pair": f"c d {second}", "label": "yn"[number % 2 == 0]})
    assert scored("classification", ["n", "y"], rows[:300], rows[300:], "accuracy")["bag_of_words"] == 1.0
    alone = [{"text": row["text"], "label": row["label"]} for row in rows]
    assert scored("classification", ["n", "y"], alone[:300], alone[300:], "accuracy")["bag_of_words"] < 0.8


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Die Straße, naïve!", ["die", "straße", ",", "naïve", "!"]),
        ("Ninakupenda sana", ["ninakupenda", "sana"]),
        ("我爱北京", ["我", "爱", "北", "京"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
    ],
)
def test_words_of_any_script(text: str, words: list[str]) -> None:
    assert words_of(text) == words


def test_the_weights_of_classes_are_the_encoders() -> None:
    """Nine of ten texts of one word are of class a: unweighted all are a; if class b weighs enough, all are b."""
    rows = [{"text": "word", "label": "b" if number % 10 == 0 else "a"} for number in range(100)]
    plain = scored("classification", ["a", "b"], rows, rows, "accuracy")
    assert plain["bag_of_words"] == 0.9
    weighted = scored("classification", ["a", "b"], rows, rows, "accuracy", class_weight={"b": 30.0})
    assert weighted["bag_of_words"] == 0.1


def test_the_metric_that_chooses_models_chooses_the_strength(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": "word" if number % 10 else "word other", "label": "ab"[number % 10 == 0]} for number in range(60)]
    monkeypatch.setattr(bag_of_texts, "STRENGTHS", (1e-9, 100.0))
    for metric in ("accuracy", "macro_f1"):
        found = scored("classification", ["a", "b"], rows, rows, metric)
        assert found["bag_of_words_details"]["strength"] == 100.0 and found["bag_of_words"] == 1.0


def test_two_thousand_classes_come_to_an_end() -> None:
    rng = random.Random(0)
    names = [f"c{number}" for number in range(2000)]
    rows = [{"text": f"{name} {rng.choice('abcdefgh')}", "label": name} for name in names]
    found = scored("classification", names, rows, rows[:500], "accuracy")
    assert found["bag_of_words"] > 0.9
    assert found["bag_of_words_details"]["strength"] == 10.0  # one alone is tried


def test_what_would_take_too_long_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(bag_of_words, "MOST_WORK", 10)
    found = scored("classification", ["bad", "good"], separable_texts(64, 1), separable_texts(9, 2), "accuracy")
    assert list(found) == ["bag_of_words_missing"] and found["bag_of_words_missing"].startswith("2 labels for ")
    assert f"toy: no bag of words to compare with: {found['bag_of_words_missing']}\n" in capsys.readouterr().err
    monkeypatch.setattr(bag_of_tags, "MOST_WORK", 10)
    assert list(scored("ner", ["O", "B-LOC", "I-LOC"], tagged(9, 1), tagged(3, 2), "f1")) == ["bag_of_words_missing"]


def test_texts_without_words_have_no_bag() -> None:
    rows = [{"text": "  ", "label": "ab"[number % 2]} for number in range(8)]
    with pytest.raises(NoBagOfWords, match="no words"):
        bag_of_texts.LabelBag(rows, ["a", "b"], several=False)


def test_of_very_many_examples_some_are_taken_from_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": "x" * 10, "number": number} for number in range(1000)]
    kept = evenly(rows, lambda row: len(row["text"]), 500)
    assert [row["number"] for row in kept] == list(range(0, 1000, 20))
    assert evenly(rows, lambda row: 1, 1000) is rows
    assert len(evenly(rows[:3], lambda row: 10**9, 5)) == 1
    # A file in the order of its labels, of which only a part is taken, teaches both of them.
    monkeypatch.setattr(bag_of_texts, "MOST_EXAMPLES", 20)
    ordered = sorted(separable_texts(200, 1), key=lambda row: row["label"])
    found = scored("classification", ["bad", "good"], ordered, separable_texts(40, 2), "accuracy")
    assert found["bag_of_words"] > 0.9 and found["bag_of_words_details"]["train_examples"] == 20


# -- words -----------------------------------------------------------------------------------------------------------


def test_entities_are_scored_as_the_task_scores_them(bpe: PreTrainedTokenizerFast) -> None:
    train, test = tagged(60, 1), tagged(20, 2)
    adapter = TASKS["ner"](["O", "B-LOC", "I-LOC"], bpe, 64)
    found = score("toy", adapter, data_of(train, test), "f1")
    assert found["bag_of_words"] == 1.0
    bag = adapter.bag_of_words(train)
    assert bag is not None
    said = bag.predict(bag.fit(1.0), bag.rows(test), test)
    assert [row["tags"] for row in said] == [row["tags"] for row in test]
    assert adapter.metrics(test, said)["f1"] == found["bag_of_words_details"]["f1"]


def test_tags_that_break_their_scheme_are_read_as_entities(bpe: PreTrainedTokenizerFast) -> None:
    bag = TASKS["ner"](["O", "B-LOC", "I-LOC"], bpe, 64).bag_of_words(tagged(9, 1))

    class Says:
        def predict(self, rows: Any) -> np.ndarray:
            return np.array(["I-LOC", "I-LOC", "O"])

    example = {"tokens": ["a", "b", "c"], "tags": ["O"] * 3}
    assert bag is not None
    assert bag.predict(Says(), bag.rows([example]), [example]) == [{"tags": ["B-LOC", "I-LOC", "O"]}]


def test_a_tag_that_only_the_neighbours_tell_is_learnt() -> None:
    """`saw` is a verb after `we` and a noun after `the`, which its commonest tag misses half the time."""
    rng = random.Random(3)

    def sentence() -> Example:
        first, tag = rng.choice([("we", "V"), ("the", "N")])
        return {"tokens": [first, "saw", rng.choice("xyz")], "tags": ["F", tag, "R"], "place": "f:1"}

    train, test = [sentence() for _ in range(80)], [sentence() for _ in range(30)]
    assert scored("tagging", ["F", "N", "R", "V"], train, test, "accuracy")["bag_of_words"] == 1.0


def test_sentences_do_not_see_each_other(bpe: PreTrainedTokenizerFast) -> None:
    train = tagged(20, 1)
    bag = TASKS["tagging"](["O", "B-LOC", "I-LOC"], bpe, 64).bag_of_words(train)
    assert bag is not None
    together = bag.rows(train[:3]).toarray()
    alone = np.concatenate([bag.rows([example]).toarray() for example in train[:3]])
    assert np.array_equal(together, alone)
    assert bag.rows([]).shape == (0, together.shape[1])


@pytest.mark.parametrize(
    ("word", "kinds"), [("Mr.", "Xx."), ("BRCA1-like", "X0-x"), ("2026", "0"), ("北京", "c"), ("straße", "x"), ("", "")]
)
def test_the_shape_of_a_word(word: str, kinds: str) -> None:
    assert shape(word) == kinds


# -- in fine-tuning --------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    for split, count in (("train", 64), ("test", 40)):
        rows = "".join(json.dumps(row) + "\n" for row in separable_texts(count, seed=len(split)))
        (tmp_path / f"{split}.jsonl").write_text(rows, encoding="utf-8")
        (tmp_path / f"{split}.conll").write_text(conll(separable_sentences(count, seed=len(split))), encoding="utf-8")
    return {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "test")}


def test_results_have_it_beside_the_encoders_for_every_share_of_train(
    files: dict[str, str], encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = TaskConfig(task="classification", name="toy", **files, **RECIPE, train_fractions=[0.1])
    figures = finetune(task, encoder, tmp_path / "out")
    assert figures["bag_of_words"] == 1.0 and figures["bag_of_words_details"]["accuracy"] == 1.0
    assert figures["bag_of_words_details"]["train_examples"] == figures["train_examples"]
    fewest, whole = figures["learning_curve"]
    assert fewest["bag_of_words_details"]["train_examples"] == fewest["examples"] < figures["train_examples"]
    assert whole["bag_of_words"] == figures["bag_of_words"]
    assert "toy: a bag of words has accuracy 1.000" in capsys.readouterr().err
    json.dumps(figures)
    without = finetune(task.model_copy(update={"bag_of_words": False}), encoder, tmp_path / "without")
    assert "bag_of_words" not in without and "bag_of_words" not in without["learning_curve"][0]


def test_a_frozen_encoder_is_compared_too(files: dict[str, str], encoder: Path, tmp_path: Path) -> None:
    conll_files = {split: file.replace(".jsonl", ".conll") for split, file in files.items()}
    task = TaskConfig(task="ner", name="toy", encoder="frozen", **conll_files, **RECIPE)
    assert finetune(task, encoder, tmp_path / "out")["bag_of_words"] == 1.0


def test_questions_have_none(bpe: PreTrainedTokenizerFast) -> None:
    adapter = TASKS["question_answering"]([], bpe, 64)
    assert adapter.bag_of_words([]) is None
    assert score("toy", adapter, data_of([], []), "f1") == {}


def test_every_process_has_the_same_scores(tmp_path: Path) -> None:
    """In texts and tags that can't all be got right, so that any difference of the weights would show."""
    code = """
import random, sys
from mlm_pretrain.tasks.scores.bag_of_tags import TagBag
from mlm_pretrain.tasks.scores.bag_of_texts import LabelBag
rng = random.Random(0)
words = [f"w{n}" for n in range(50)]
texts = [{"text": " ".join(rng.choices(words, k=6)), "label": rng.choice("abc")} for _ in range(300)]
bag = LabelBag(texts, list("abc"), several=False)
sentences = [{"tokens": row["text"].split(), "tags": rng.choices("xyz", k=6)} for row in texts]
tags = TagBag(sentences)
sums = [bag.fit(strength).weights.astype(float).sum() for strength in bag.strengths]
sums += [tags.fit(strength).coef_.astype(float).sum() for strength in tags.strengths]
print(*(each.hex() for each in sums))
"""
    said = [
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]
    assert said[0] == said[1] and len(said[0].split()) == 6
