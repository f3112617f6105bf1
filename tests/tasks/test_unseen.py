"""Labels that only validation or test have: counted as missed in every task, in fine-tuning and in evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.tasks.fit.finetune import finetune
from mlm_pretrain.tasks.labels.names import in_order
from mlm_pretrain.tasks.serve.evaluate import evaluate
from tests.tasks.conftest import separable_sentences, separable_texts, tiny_masked_lm

RECIPE = {"num_train_epochs": 8, "learning_rate": 5e-3, "bf16": False, "per_device_train_batch_size": 8, "seeds": [0]}


def rows_of(task: str, count: int, seed: int) -> list[dict[str, Any]]:
    if task in ("ner", "tagging"):
        return [{"tokens": tokens, "ner_tags": tags} for tokens, tags in separable_sentences(count, seed)]
    several = task == "multi_label_classification"
    return [{**row, "label": [row["label"]] if several else row["label"]} for row in separable_texts(count, seed)]


UNSEEN: dict[str, tuple[dict[str, Any], str]] = {
    "classification": ({"text": "Paris", "label": "odd"}, "odd"),
    "multi_label_classification": ({"text": "Paris", "label": ["odd"]}, "odd"),
    "ner": ({"tokens": ["Paris"], "ner_tags": ["B-ODD"]}, "ODD"),
    "tagging": ({"tokens": ["Paris"], "ner_tags": ["ODD"]}, "ODD"),
}


@pytest.fixture(scope="module")
def tiny(bpe: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    tiny_masked_lm("bert", len(bpe)).save_pretrained(folder)
    bpe.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("task", UNSEEN)
def test_they_count_as_missed(task: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd, name = UNSEEN[task]
    files = {}
    for split, count in (("train", 48), ("validation", 10), ("test", 20)):
        rows = rows_of(task, count, seed=len(split)) + [odd] * (0 if split == "train" else 5)
        files[split] = str(tmp_path / f"{split}.jsonl")
        Path(files[split]).write_text("".join(json.dumps(row) + "\n" for row in rows))
    figures = finetune(TaskConfig(task=task, name="toy", **files, **RECIPE), tiny, tmp_path / "out")
    assert f"1 label is unknown to the model, and counted as missed: '{name}' (10)" in capsys.readouterr().err
    assert not any(name in label for label in figures["labels"])
    assert figures["test_examples"] == 25
    classes = figures["details"].get("by_class") or figures["details"]["by_type"]
    assert (classes[name]["recall"], classes[name]["support"]) == (0.0, 5)
    again = evaluate(tmp_path / "out", Path(files["test"]), tmp_path / "scores")
    assert f"'{name}' (5)" in capsys.readouterr().err
    assert again["examples"] == 25
    assert again["metrics"][again["metric"]] == pytest.approx(figures["pretrained"])
    if task == "classification":
        assert again["metrics"]["accuracy"] <= 20 / 25
        assert again["confusion"]["labels"] == ["bad", "good", "odd"]
        assert sum(again["confusion"]["matrix"][2]) == 5 and not any(row[2] for row in again["confusion"]["matrix"])
    missed = [json.loads(line) for line in (tmp_path / "scores" / "errors.jsonl").read_text().splitlines()]
    assert sum("Paris" in str(row.get("text")) for row in missed) >= 5


def test_what_evaluation_drops_is_counted(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = tmp_path / "train.jsonl"
    train.write_text("".join(json.dumps(row) + "\n" for row in separable_texts(16, seed=2)))
    finetune(
        TaskConfig(task="classification", name="toy", train=str(train), **{**RECIPE, "num_train_epochs": 1}),
        tiny,
        tmp_path / "out",
    )
    data = tmp_path / "june.csv"
    data.write_text("text,label\nBerlin,good\nMombasa,\nParis,bad\n")
    figures = evaluate(tmp_path / "out", data, tmp_path / "scores", columns={"on_bad_examples": "drop"})
    assert figures["examples"] == 2 and figures["dropped_examples"] == {"no label": 1}


def test_the_order_of_names_is_always_the_same() -> None:
    assert in_order(["10", "2", "-1"]) == ["-1", "2", "10"]
    assert in_order(["1", "01", "1"]) == in_order(["01", "1"]) == ["01", "1"]
    assert in_order(["--5", "3"]) == ["--5", "3"]
    assert in_order(["9" * 5000, "3"]) == ["3", "9" * 5000]
