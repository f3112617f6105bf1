"""The fine-tuning loop from files to an exported folder, on sets that a tiny random encoder can learn."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer, pipeline

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.tasks.adapter import TASKS
from mlm_pretrain.tasks.export import export
from mlm_pretrain.tasks.fit.finetune import finetune
from mlm_pretrain.tasks.fit.loop import batches_from
from mlm_pretrain.tasks.inference.logits import logits_of
from tests.tasks.conftest import conll, separable_sentences, separable_texts

RECIPE = {"num_train_epochs": 10, "learning_rate": 5e-3, "bf16": False, "per_device_train_batch_size": 8}


@pytest.fixture
def texts(tmp_path: Path) -> TaskConfig:
    for split, count in (("train", 64), ("test", 40)):
        rows = separable_texts(count, seed=len(split))
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "test")}
    return TaskConfig(task="classification", name="toy", **files, **RECIPE)


@pytest.fixture
def sentences(tmp_path: Path) -> TaskConfig:
    for split, count in (("train", 48), ("test", 20)):
        (tmp_path / f"{split}.conll").write_text(conll(separable_sentences(count, seed=len(split))))
    files = {split: str(tmp_path / f"{split}.conll") for split in ("train", "test")}
    return TaskConfig(task="ner", name="toy", **files, **{**RECIPE, "max_length": 12, "stride": 2})


def without_time(figures: dict) -> dict:
    return {key: value for key, value in figures.items() if key not in ("seconds", "examples_per_second")}


def test_classification_end_to_end(texts: TaskConfig, encoder: Path, tmp_path: Path) -> None:
    task = texts.model_copy(update={"seeds": [0, 1], "scratch_learning_rates": [1.0, 5e-3]})
    out = tmp_path / "tasks" / "toy"
    figures = finetune(task, encoder, out)
    assert figures["metric"] == "accuracy"
    assert figures["pretrained"] >= 0.95
    assert figures["pretrained"] == pytest.approx(np.mean(figures["pretrained_seeds"]))
    assert figures["pretrained_std"] == pytest.approx(np.std(figures["pretrained_seeds"], ddof=1))
    assert figures["majority"] == 0.5
    assert figures["scratch_learning_rate"] == 5e-3
    assert figures["scratch_sweep"]["1"] < figures["scratch_sweep"]["0.005"]
    assert len(figures["scratch_seeds"]) == 2
    assert figures["labels"] == ["bad", "good"]
    # Texts that stand twice go to one side together, so that the share is about a tenth.
    assert figures["train_examples"] + figures["validation_examples"] == 64 and figures["validation_examples"] >= 6
    json.dumps(figures)

    assert sorted(file.name for file in out.parent.iterdir()) == ["toy", "toy.errors.jsonl"]
    classify = pipeline("text-classification", model=str(out))
    assert [row["label"] for row in classify(["the river Berlin", "people Mombasa at"])] == ["good", "bad"]


def test_same_seed_same_figures(texts: TaskConfig, encoder: Path, tmp_path: Path) -> None:
    task = texts.model_copy(update={"seeds": [3], "num_train_epochs": 1.0})
    first = finetune(task, encoder, tmp_path / "out")
    weights = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").state_dict()
    torch.rand(3)  # what happened before must not matter
    random.random()
    again = finetune(task, encoder, tmp_path / "out")  # replaces what stood there
    assert without_time(again) == without_time(first)
    for name, value in AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").state_dict().items():
        assert torch.equal(value, weights[name])


def test_ner_end_to_end(sentences: TaskConfig, encoder: Path, tmp_path: Path) -> None:
    task = sentences.model_copy(update={"seeds": [0]})
    figures = finetune(task, encoder, tmp_path / "out")
    assert figures["metric"] == "f1"
    assert figures["pretrained"] >= 0.95
    assert figures["pretrained_std"] == 0.0
    assert figures["majority"] == 1.0  # in this toy set the word alone tells the tag
    assert figures["labels"] == ["O", "B-LOC", "I-LOC"]
    assert figures["details"]["by_type"]["LOC"]["f1"] == pytest.approx(figures["pretrained"])
    assert "scratch" not in figures
    tag = pipeline("ner", model=str(tmp_path / "out"))
    assert {found["entity"] for found in tag("the Berlin Spree train")} <= {"B-LOC", "I-LOC"}


def test_exported_folder_has_the_logits_of_the_pipeline(sentences: TaskConfig, encoder: Path, tmp_path: Path) -> None:
    finetune(sentences.model_copy(update={"seeds": [0], "max_steps": 3}), encoder, tmp_path / "out")
    model = AutoModelForTokenClassification.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    text = "the Berlin Spree train"
    adapter = TASKS["ner"](["O", "B-LOC", "I-LOC"], tokenizer, 64)
    features = adapter.encode([{"tokens": text.split()}])
    ours = logits_of(adapter, model, features, 1)[0]
    pipe = pipeline("ner", model=str(tmp_path / "out"))
    theirs: list[torch.Tensor] = []
    pipe.model.register_forward_hook(lambda _module, _inputs, output: theirs.append(output.logits[0]))
    pipe(text)
    np.testing.assert_allclose(ours, theirs[0].numpy(), rtol=1e-5, atol=1e-6)


def test_more_than_one_process_is_refused(
    texts: TaskConfig, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="one process"):
        finetune(texts, encoder, tmp_path / "out")


def test_unknown_tasks_name_the_nearest(texts: TaskConfig, encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"tasks\.task: no task is named 'clasification'; did you mean 'classification'"
    ):
        finetune(texts.model_copy(update={"task": "clasification"}), encoder, tmp_path / "out")


def test_a_failed_export_leaves_what_stood(encoder: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    model = AutoModelForSequenceClassification.from_pretrained(encoder)
    out = tmp_path / "out"
    export(model.save_pretrained, tokenizer, out)
    before = {file.name: file.read_bytes() for file in out.iterdir()}

    class Broken:
        def save_pretrained(self, folder: Path) -> None:
            raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="out: can't write the model: No space left"):
        export(model.save_pretrained, Broken(), out)  # type: ignore[arg-type]
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_batches_take_every_row_once_an_epoch() -> None:
    rng = random.Random(0)
    features = [{"input_ids": [0] * rng.randint(1, 100), "number": number} for number in range(100)]
    stream = batches_from(features, 16, seed=0, pool=4)
    epochs = [[next(stream) for _ in range(7)] for _ in range(2)]
    for epoch in epochs:
        assert sorted(feature["number"] for batch in epoch for feature in batch) == list(range(100))
        padded = sum(len(batch) * max(len(feature["input_ids"]) for feature in batch) for batch in epoch)
        # Batches drawn from all rows come to 1.9 times.
        assert padded < 1.4 * sum(len(feature["input_ids"]) for feature in features)
    numbers = [[sorted(feature["number"] for feature in batch) for batch in epoch] for epoch in epochs]
    assert sorted(numbers[0]) != sorted(numbers[1])  # not only the order of the batches changes
