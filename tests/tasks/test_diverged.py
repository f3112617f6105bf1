"""What is not finite is never kept, chosen or exported, whatever is trained and however."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mlm_pretrain.cli import main
from mlm_pretrain.config import TaskConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.runtime.bad_loss import Diverged, first_not_finite_in
from mlm_pretrain.tasks.fit.finetune import finetune
from tests.tasks.conftest import conll, separable_sentences, separable_texts

ABSURD = 1e38
"""A learning rate after which no weight is of use; float32 ends above it."""
RECIPE = {"max_steps": 6, "bf16": False, "per_device_train_batch_size": 8, "seeds": [4], "learning_rate": 3e-3}
# PEFT asks transformers for gradient checkpointing under its old name.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def strict(text: str) -> Any:
    """JSON, and nothing that only Python takes for it."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def task_of(kind: str, folder: Path, **keys: Any) -> TaskConfig:
    if kind == "ner":
        (folder / "words.conll").write_text(conll(separable_sentences(40, seed=1)), encoding="utf-8")
        return TaskConfig(task=kind, name="toy", train=str(folder / "words.conll"), **{**RECIPE, **keys})
    rows = separable_texts(40, seed=1)
    if kind == "regression":
        rows = [{**row, "label": len(row["text"]) / 10} for row in rows]  # type: ignore[dict-item]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return TaskConfig(task=kind, name="toy", train=str(folder / "rows.jsonl"), **{**RECIPE, **keys})


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["classification", "regression", "ner"])
@pytest.mark.parametrize("how", ["full", "lora", "frozen"])
def test_a_seed_that_diverges_is_named_and_what_was_there_before_stays(
    kind: str, how: str, encoder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "tasks" / "toy"
    finetune(task_of(kind, tmp_path), encoder, out)
    before = contents(out)
    with pytest.raises(Diverged, match=r"^toy seed 4 lr 1e\+38: .*not finite.* step \d.*take a lower learning_rate"):
        finetune(task_of(kind, tmp_path, encoder=how, learning_rate=ABSURD), encoder, out)
    assert contents(out) == before
    assert first_not_finite_in(out) is None


def test_weights_that_the_last_step_has_ruined_are_not_exported(encoder: Path, tmp_path: Path) -> None:
    # No loss comes after it that could tell.
    with pytest.raises(Diverged, match="are not finite after step 1; take a lower learning_rate"):
        finetune(task_of("classification", tmp_path, learning_rate=1e39, max_steps=1), encoder, tmp_path / "toy")
    assert not (tmp_path / "toy").exists()


@pytest.mark.parametrize("trials", [None, 8])
def test_a_sweep_never_chooses_a_trial_that_diverged(trials: int | None, encoder: Path, tmp_path: Path) -> None:
    sweep = {"learning_rate": [ABSURD, 3e-3], "num_train_epochs": [1.0], "n_trials": trials}
    if trials:
        sweep["learning_rate"] = [1e37, 1e-6]
    figures = strict(
        json.dumps(finetune(task_of("regression", tmp_path, sweep=sweep), encoder, tmp_path / "toy", sweep=True))
    )
    ended = [trial for trial in figures["sweep"]["trials"] if trial["pearson"] is not None]
    assert 0 < len(ended) < len(figures["sweep"]["trials"])
    assert figures["learning_rate"] in [trial["learning_rate"] for trial in ended]
    assert first_not_finite_in(tmp_path / "toy") is None


def test_a_sweep_of_which_all_diverged_says_so(encoder: Path, tmp_path: Path) -> None:
    sweep = {"learning_rate": [ABSURD, 2e38], "num_train_epochs": [1.0]}
    with pytest.raises(Diverged, match="all 2 trials of the sweep diverged"):
        finetune(task_of("classification", tmp_path, sweep=sweep), encoder, tmp_path / "toy", sweep=True)


def test_random_weights_are_trained_at_a_rate_that_comes_to_an_end(encoder: Path, tmp_path: Path) -> None:
    task = task_of("classification", tmp_path, scratch_learning_rates=[ABSURD, 3e-3])
    figures = finetune(task, encoder, tmp_path / "toy")
    assert figures["scratch_learning_rate"] == 3e-3
    assert figures["scratch_sweep"]["1e+38"] is None
    strict(json.dumps(figures))
    with pytest.raises(Diverged, match="scratch_learning_rates: all of them diverged"):
        finetune(task.model_copy(update={"scratch_learning_rates": [ABSURD]}), encoder, tmp_path / "other")


def ruined(folder: Path, target: Path, factor: float) -> Path:
    """A copy of a checkpoint whose weights are so many times as large."""
    target.mkdir()
    for file in folder.iterdir():
        if file.name != "manifest.json":
            (target / file.name).write_bytes(file.read_bytes())
    weights = {name: tensor * factor for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


def test_an_encoder_whose_weights_are_not_finite_is_refused_by_name(encoder: Path, tmp_path: Path) -> None:
    broken = ruined(encoder, tmp_path / "broken", float("nan"))
    with pytest.raises(UserError, match=rf"^{broken}: its weights .* are not finite; take another encoder"):
        finetune(task_of("classification", tmp_path), broken, tmp_path / "toy")


def test_a_model_whose_scores_are_not_finite_predicts_nothing(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finetune(task_of("classification", tmp_path), encoder, tmp_path / "toy")
    broken = ruined(tmp_path / "toy", tmp_path / "broken", 1e30)
    labelled = str(tmp_path / "rows.jsonl")
    for call in (
        ["predict", str(broken), labelled, "--output", str(tmp_path / "out.jsonl")],
        ["evaluate", str(broken), "--data", labelled, "--out", str(tmp_path / "scores")],
    ):
        capsys.readouterr()
        assert main(call) == 2
        assert f"error: {broken}: gives logits that are not finite" in capsys.readouterr().err
    assert main(["embed", str(broken), labelled, "--output", str(tmp_path / "vectors.npy")]) == 2
    assert f"error: {broken}: gives vectors that are not finite" in capsys.readouterr().err
    assert not [name for name in ("out.jsonl", "scores", "vectors.npy") if (tmp_path / name).exists()]


def test_the_weights_of_a_folder_are_looked_at_one_by_one(tmp_path: Path) -> None:
    good = {"a": torch.zeros(3), "b": torch.ones(2, dtype=torch.int64), "c": torch.zeros(0)}
    save_file(good, tmp_path / "model.safetensors")
    assert first_not_finite_in(tmp_path) is None
    save_file({"d": torch.tensor([1.0, float("-inf")], dtype=torch.bfloat16)}, tmp_path / "more.safetensors")
    assert first_not_finite_in(tmp_path) == "d of more.safetensors"
