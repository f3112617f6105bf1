"""The runs of a task: what is killed goes on, what is done isn't done again; sweeps and learning curves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

import mlm_pretrain.tasks.fit.finetune as finetune_module
import mlm_pretrain.tasks.fit.recipe as recipe_module
import mlm_pretrain.tasks.fit.scoring as scores_module
from mlm_pretrain.errors import UserError
from mlm_pretrain.io.whole import read_json, write_json
from mlm_pretrain.models.loading import Checkpoint
from mlm_pretrain.tasks.fit.finetune import finetune
from mlm_pretrain.tasks.fit.loop import Fit, Progress
from mlm_pretrain.tasks.fit.scoring import Scores
from mlm_pretrain.tasks.fit.setup import prepare
from mlm_pretrain.tasks.fit.trials import open_work
from mlm_pretrain.tasks.inference.logits import logits_of
from mlm_pretrain.tasks.serve.evaluate import evaluate
from tests.tasks.conftest import separable_texts
from tests.tasks.test_fit import Killed, recipe, same


@pytest.fixture
def start(bpe: PreTrainedTokenizerFast, tmp_path: Path) -> dict[str, Any]:
    """An encoder with dropout and the files of a task."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    BertForMaskedLM(BertConfig(vocab_size=len(bpe), **sizes)).save_pretrained(tmp_path / "encoder")
    bpe.save_pretrained(tmp_path / "encoder")
    for split, count in (("train", 40), ("validation", 20), ("test", 20)):
        rows = separable_texts(count, seed=len(split))
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "validation", "test")}
    return {**files, "num_train_epochs": 2, "seeds": [0, 1]}


def without_time(figures: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in figures.items() if key not in ("seconds", "examples_per_second")}


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, float, int]]:
    """Seed, learning rate and rows of every training from its beginning on."""
    found: list[tuple[int, float, int]] = []
    original = Fit.__init__

    def noting(self: Fit, *args: Any) -> None:
        original(self, *args)
        if self.progress.step == 0:
            found.append((self.seed, self.settings.learning_rate, len(self._features)))

    monkeypatch.setattr(Fit, "__init__", noting)
    return found


CHILD = """
import json, os, signal, sys
from pathlib import Path
import torch
from mlm_pretrain.config import TaskConfig
from mlm_pretrain.tasks.fit.finetune import finetune
from mlm_pretrain.tasks.fit.loop import Fit, Progress

torch.set_num_threads(1)
task, encoder, out = sys.argv[1:]
step = Fit._step

def dying(self, features):
    if (self.seed, self.progress.step) == (1, 13):
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, features)

Fit._step = dying
finetune(TaskConfig(**json.loads(task)), encoder, Path(out), inputs="a")
"""


def test_a_killed_process_is_continued_bit_by_bit(
    start: dict[str, Any], tmp_path: Path, fits: list[tuple[int, float, int]]
) -> None:
    task, encoder = recipe(**start, save_steps=3), tmp_path / "encoder"
    expected = finetune(task, encoder, tmp_path / "whole")
    fits.clear()
    out = tmp_path / "tasks" / "toy"
    child = [sys.executable, "-c", CHILD, task.model_dump_json(), str(encoder), str(out)]
    died = subprocess.run(child, check=False, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert not out.exists()
    assert [path.name for path in (tmp_path / "tasks" / ".toy.work").glob("*/step-*")] == ["step-00000012"]
    figures = finetune(task, encoder, out, inputs="a")
    assert fits == []  # the first seed stands, the second goes on
    assert without_time(figures) == without_time(expected)
    assert same(load_file(out / "model.safetensors"), load_file(tmp_path / "whole" / "model.safetensors"))
    assert sorted(path.name for path in out.parent.iterdir()) == ["toy", "toy.errors.jsonl"]


def test_finished_seeds_are_not_repeated_unless_something_changed(
    start: dict[str, Any], tmp_path: Path, fits: list[tuple[int, float, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    task, encoder, out = recipe(**{**start, "num_train_epochs": 1}), tmp_path / "encoder", tmp_path / "out"
    expected = without_time(finetune(task, encoder, out))
    original = finetune_module.run_once

    def interrupted(setup: Any, plan: Any, *rival: Any) -> Any:
        if plan.seed == 1:
            raise Killed
        return original(setup, plan, *rival)

    for change, inputs, again in (
        ({}, "a", [1]),
        ({}, "b", [0, 1]),
        ({}, None, [0, 1]),
        ({"learning_rate": 1e-3}, "a", [0, 1]),
    ):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(finetune_module, "run_once", interrupted)
            finetune(task, encoder, out, inputs="a")
        fits.clear()
        figures = finetune(task.model_copy(update=change), encoder, out, inputs=inputs)
        assert [seed for seed, _, _ in fits] == again
        assert (without_time(figures) == expected) == (not change)
        assert not (tmp_path / ".out.work").exists()


def test_a_sweep_tries_all_and_goes_on_with_the_best(
    start: dict[str, Any], tmp_path: Path, fits: list[tuple[int, float, int]]
) -> None:
    sweep = {"learning_rate": [1e-6, 1e-2], "num_train_epochs": [1, 12]}
    task = recipe(**{**start, "seeds": [3]}, sweep=sweep)
    figures = finetune(task, tmp_path / "encoder", tmp_path / "out", sweep=True)
    trials = figures["sweep"]["trials"]
    pairs = [(trial["learning_rate"], trial["num_train_epochs"]) for trial in trials]
    assert pairs == [(1e-6, 1.0), (1e-6, 12.0), (1e-2, 1.0), (1e-2, 12.0)]
    best = max(trials, key=lambda trial: trial["accuracy"])
    assert figures["sweep"]["best"] == {key: best[key] for key in ("learning_rate", "num_train_epochs")}
    assert (figures["learning_rate"], figures["num_train_epochs"]) == (best["learning_rate"], best["num_train_epochs"])
    assert (best["learning_rate"], best["num_train_epochs"]) == (1e-2, 12.0)
    assert figures["history"][0][-1]["epoch"] == best["num_train_epochs"]
    # The seed that was tried is the seed that is exported: it isn't trained again.
    assert [seed for seed, _, _ in fits] == [3, 3, 3, 3]
    assert (tmp_path / "out" / "model.safetensors").exists()


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What was trained, and how many rows it was run over for a score, a pair a time."""
    found: list[tuple[str, int]] = []

    def noting(adapter: Any, model: Any, rows: Any, *args: Any, name: str) -> Any:
        found.append((name.removeprefix("toy "), len(rows)))
        return logits_of(adapter, model, rows, *args, name=name)

    monkeypatch.setattr(scores_module, "logits_of", noting)
    return found


def test_nothing_is_scored_that_nobody_reads(
    start: dict[str, Any], tmp_path: Path, scored: list[tuple[str, int]]
) -> None:
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in separable_texts(12, seed=4)))
    rates = {"scratch_learning_rates": [1e-2, 1e-7, 2e-7], "learning_rate": 1e-2}
    task = recipe(**{**start, **rates, "num_train_epochs": 12, "train_fractions": [0.5]})
    figures = finetune(task, tmp_path / "encoder", tmp_path / "out")
    tried = figures["scratch_sweep"]
    assert tried["0.01"] > max(tried["1e-07"], tried["2e-07"])
    validation, test = 20, 12
    assert scored == [
        # The seeds: validation chooses between them, and gives the temperature; the test set gives the mistakes too.
        *(("seed 0 lr 0.01", validation), ("seed 0 lr 0.01", test)),
        *(("seed 1 lr 0.01", validation), ("seed 1 lr 0.01", test)),
        # The rates: the test score of the best alone is read.
        *(("scratch seed 0 lr 0.01", validation), ("scratch seed 0 lr 0.01", test)),
        ("scratch seed 0 lr 1e-07", validation),
        ("scratch seed 0 lr 2e-07", validation),
        # Nothing is chosen any more.
        ("scratch seed 1 lr 0.01", test),
        *((f"{origin}50% of train seed {seed} lr 0.01", test) for origin in ("", "scratch ") for seed in (0, 1)),
    ]
    scored.clear()
    often = recipe(**{**start, "num_train_epochs": 3, "seeds": [0], "eval_strategy": "epoch"}, **rates)
    finetune(often, tmp_path / "encoder", tmp_path / "often")
    # The curve is that of the encoder.
    assert [name for name, rows in scored if rows == validation].count("seed 0 lr 0.01") == 3
    assert [name for name, rows in scored if rows == validation].count("scratch seed 0 lr 0.01") == 1
    scored.clear()
    single = finetune(recipe(**start, scratch_learning_rates=[1e-2]), tmp_path / "encoder", tmp_path / "single")
    # Of one rate nothing is to be chosen.
    assert [rows for name, rows in scored if "scratch" in name] == [test, test]
    assert single["scratch_sweep"] == {"0.01": None} and single["scratch_learning_rate"] == 1e-2


def test_weights_of_an_earlier_evaluation_are_scored_anew(
    start: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is known of the last weights says nothing of those that are kept."""
    falling = iter([0.9, 0.5, 0.1])
    original = Scores.validate

    def validate(self: Scores) -> float:
        original(self)
        return next(falling)

    monkeypatch.setattr(Scores, "validate", validate)
    keys = {"num_train_epochs": 3, "seeds": [0], "learning_rate": 3e-3, "test": None}
    task = recipe(**{**start, **keys}, load_best_model_at_end=True)
    details = finetune(task, tmp_path / "encoder", tmp_path / "out")["details"]
    again = evaluate(tmp_path / "out", Path(start["validation"]))
    assert details["ece"] == pytest.approx(again["reliability"]["ece"], abs=1e-5)


def test_optuna_stays_between_the_ends_and_repeats_itself(start: dict[str, Any], tmp_path: Path) -> None:
    sweep = {"learning_rate": [1e-4, 1e-2], "num_train_epochs": [1, 2], "n_trials": 3}
    task = recipe(**{**start, "seeds": [0]}, sweep=sweep)
    figures = finetune(task, tmp_path / "encoder", tmp_path / "out", sweep=True)
    trials = figures["sweep"]["trials"]
    assert len(trials) == 3 and len({trial["learning_rate"] for trial in trials}) == 3
    assert all(1e-4 <= trial["learning_rate"] <= 1e-2 for trial in trials)
    assert {trial["num_train_epochs"] for trial in trials} <= {1.0, 2.0}
    assert max(trial["accuracy"] for trial in trials) == next(
        trial["accuracy"] for trial in trials if trial["learning_rate"] == figures["learning_rate"]
    )
    again = finetune(task, tmp_path / "encoder", tmp_path / "out", sweep=True)
    assert without_time(again) == without_time(figures)


def test_optuna_takes_parts_of_epochs_where_the_ends_are_parts(start: dict[str, Any], tmp_path: Path) -> None:
    sweep = {"learning_rate": [1e-3, 1e-2], "num_train_epochs": [0.5, 1.2], "n_trials": 2}
    figures = finetune(recipe(**start, sweep=sweep), tmp_path / "encoder", tmp_path / "out", sweep=True)
    assert all(0.5 <= trial["num_train_epochs"] <= 1.2 for trial in figures["sweep"]["trials"])


def test_a_learning_curve_has_a_point_a_share(
    start: dict[str, Any], tmp_path: Path, fits: list[tuple[int, float, int]]
) -> None:
    task = recipe(**start, train_fractions=[0.5, 0.25, 1.0], scratch_learning_rates=[1e-3])
    figures = finetune(task, tmp_path / "encoder", tmp_path / "out")
    curve = figures["learning_curve"]
    assert [(point["fraction"], point["examples"]) for point in curve] == [(0.25, 10), (0.5, 20), (1.0, 40)]
    for origin in ("pretrained", "scratch"):
        assert all(len(point[f"{origin}_seeds"]) == 2 for point in curve)
        assert [curve[-1][f"{origin}{kind}"] for kind in ("", "_std", "_seeds")] == [
            figures[f"{origin}{kind}"] for kind in ("", "_std", "_seeds")
        ]
        for point in curve:
            assert point[origin] == pytest.approx(sum(point[f"{origin}_seeds"]) / 2)
    # Two seeds, two origins, three shares; the whole set isn't trained on twice.
    assert sorted(rows for _, _, rows in fits) == [10] * 4 + [20] * 4 + [40] * 4


def test_an_open_recipe_is_settled_for_each_share_of_the_training_set(
    start: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple[int, int]] = []
    run = Fit.run

    def noting(self: Fit, description: str) -> Progress:
        trained.append((len(self._features), self.steps))
        return run(self, description)

    monkeypatch.setattr(Fit, "run", noting)
    monkeypatch.setattr(recipe_module, "FEWEST_STEPS", 40)
    keys = {**start, "seeds": [0], "num_train_epochs": None, "learning_rate": None, "train_fractions": [0.5, 0.1]}
    figures = finetune(recipe(**keys), tmp_path / "encoder", tmp_path / "out")
    # Batches of 4: 10 an epoch, 5, and 1, of which there are no more than 10.
    assert trained == [(40, 40), (4, 10), (20, 40)]
    assert (figures["learning_rate"], figures["num_train_epochs"]) == (recipe_module.RATE, 4)


def test_a_metric_that_is_none_is_told_before_training(
    start: dict[str, Any], tmp_path: Path, fits: list[tuple[int, float, int]]
) -> None:
    for name, hint in (("acuracy", "did you mean 'accuracy'"), ("by_class", "allowed: accuracy")):
        with pytest.raises(UserError, match=f"metric_for_best_model: no '{name}'; {hint}"):
            finetune(recipe(**start, metric_for_best_model=name), tmp_path / "encoder", tmp_path / "out")
    assert fits == []
    figures = finetune(recipe(**start, metric_for_best_model="macro_f1"), tmp_path / "encoder", tmp_path / "out")
    assert figures["metric"] == "macro_f1"
    assert figures["pretrained"] == pytest.approx(figures["details"]["macro_f1"])


def test_a_precision_is_measured_once(start: dict[str, Any], tmp_path: Path) -> None:
    """A machine that is busy may measure another one after a kill."""
    task = recipe(**start).model_copy(update={"bf16": "auto"})
    encoder = Checkpoint.of(tmp_path / "encoder")
    for begun in ("no", "bf16"):
        work = open_work(tmp_path / "tasks" / "toy", begun)
        measured = prepare(task, encoder, 0.0, work).accelerator.mixed_precision
        assert read_json(work / "precision.json") == {"precision": measured}
        write_json(work / "precision.json", {"precision": begun})
        assert prepare(task, encoder, 0.0, work).accelerator.mixed_precision == begun
