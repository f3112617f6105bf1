"""Labels of words without spans: learnt, counted word by word, told by the finished model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics
from transformers import AutoConfig, AutoModelForTokenClassification, PreTrainedTokenizerFast

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.models.encoder import load_tokenizer
from mlm_pretrain.tasks.fit.finetune import finetune
from mlm_pretrain.tasks.inference.logits import logits_of
from mlm_pretrain.tasks.kinds.registered import TASKS
from mlm_pretrain.tasks.kinds.tagging import Tagging
from tests.tasks.conftest import conll, separable_sentences
from tests.tasks.examples import read_examples

TOY = TaskConfig(task="tagging", name="toy", tags_column="upos")
TAGS = {"the": "DET", "train": "NOUN", "Berlin": "PROPN", "Spree": "PROPN"}


def sentences(count: int, seed: int) -> list[tuple[list[str], list[str]]]:
    return [(words, [TAGS[word] for word in words]) for words, _ in separable_sentences(count, seed)]


def test_from_the_file_to_the_finished_model(encoder: Path, tmp_path: Path) -> None:
    (tmp_path / "train.conll").write_text(conll(sentences(64, seed=0)))
    recipe = {
        "num_train_epochs": 12,
        "load_best_model_at_end": False,
        "learning_rate": 5e-3,
        "bf16": False,
        "seeds": [0],
        "label_all_tokens": True,
    }
    task = TOY.model_copy(update={"train": str(tmp_path / "train.conll"), **recipe})
    figures = finetune(task, encoder, tmp_path / "out")
    assert figures["metric"] == "accuracy" and figures["labels"] == ["DET", "NOUN", "PROPN"]
    assert figures["pretrained"] > 0.9 and figures["majority"] == 1.0  # every word has one tag
    config = AutoConfig.from_pretrained(tmp_path / "out")
    assert [name for name in TASKS if TASKS[name].serves(config)] == ["tagging"]
    adapter = Tagging(list(config.id2label.values()), load_tokenizer(tmp_path / "out"), 32)
    example = adapter.make_example({"text": "Berlin Spree the  train"}, TOY, "f:1", labelled=False)
    features = adapter.encode([example])
    model = AutoModelForTokenClassification.from_pretrained(tmp_path / "out")
    (prediction,) = adapter.predictions([example], features, logits_of(adapter, model, features, 1))
    rows = adapter.record(example, prediction)["words"]
    assert [(row["word"], row["start"], row["end"], row["tag"]) for row in rows] == [
        ("Berlin", 0, 6, "PROPN"),
        ("Spree", 7, 12, "PROPN"),
        ("the", 13, 16, "DET"),
        ("train", 18, 23, "NOUN"),
    ]
    assert all(0 < row["score"] <= 1 for row in rows)


def test_any_label_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text("# sent_id = 1\n1\tthe\tDT\n2\t5\tCD\n3\t.\t.\n4\t-\tB-\n")
    task = TOY.model_copy(update={"conll_columns": (1, 2)})
    assert read_examples(tmp_path / "a.conll", Tagging, task)[0]["tags"] == ["DT", "CD", ".", "B-"]
    (tmp_path / "a.jsonl").write_text('{"tokens": ["a"], "upos": ["X"]}\n{"tokens": ["a"], "upos": [null]}\n')
    with pytest.raises(UserError, match=r"a\.jsonl:2: upos must be a list of strings"):
        read_examples(tmp_path / "a.jsonl", Tagging, TOY)


def test_labels_are_those_of_train() -> None:
    assert Tagging.label_names([{"tokens": ["a", "b"], "tags": ["Y", "X"], "place": "train:1"}], TOY) == ["X", "Y"]
    with pytest.raises(UserError, match=r"train:1: every training tag is 'X'; two labels are needed"):
        Tagging.label_names([{"tokens": ["a"], "tags": ["X"], "place": "train:1"}], TOY)


def test_scores_are_of_words(bpe: PreTrainedTokenizerFast) -> None:
    adapter = Tagging(["X", "Y", "Z"], bpe, 20)
    examples = [
        {"tokens": ["a", "b", "c"], "tags": ["X", "Y", "X"], "place": "f:1"},
        {"tokens": ["d"], "tags": ["Z"], "place": "f:5"},
    ]
    predictions = [{"tags": ["X", "X", "X"]}, {"tags": ["Y"]}]
    scores = adapter.metrics(examples, predictions)
    gold, said = ["X", "Y", "X", "Z"], ["X", "X", "X", "Y"]
    assert scores["accuracy"] == sklearn.metrics.accuracy_score(gold, said)
    assert scores["macro_f1"] == pytest.approx(sklearn.metrics.f1_score(gold, said, average="macro", zero_division=0))
    assert adapter.errors(examples, predictions) == [
        {"place": "f:1", "number": 1, "text": "b", "tag": "Y", "predicted": "X", "context": "a b c"},
        {"place": "f:5", "number": 0, "text": "d", "tag": "Z", "predicted": "Y", "context": "d"},
    ]


def test_majority_is_each_words_commonest_label(bpe: PreTrainedTokenizerFast) -> None:
    train = [{"tokens": ["a", "a", "a", "b", "c"], "tags": ["X", "Y", "Y", "X", "X"]}]
    (prediction,) = Tagging(["X", "Y"], bpe, 20).majority(train, [{"tokens": ["c", "a", "new"]}])
    assert prediction["tags"] == ["X", "Y", "X"]


def test_words_without_a_token_have_a_label_too(bpe: PreTrainedTokenizerFast) -> None:
    adapter = Tagging(["X", "Y"], bpe, 20)
    example = {"tokens": ["a", "", "a"], "tags": ["Y", "Y", "Y"]}
    (feature,) = adapter.encode([example])
    assert [word for _, word in feature["words"]] == [0, 2]
    logits = [[[0.0, 5.0]] * len(feature["input_ids"])]
    (prediction,) = adapter.predictions([example], [feature], [np.array(rows, dtype=np.float32) for rows in logits])
    assert prediction["tags"] == ["Y", "X", "Y"] and prediction["scores"][1] == 0.0
