"""A loss that would ruin the run stops it by name, or its step is left out and counted."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mlm_pretrain.console.telemetry import MetricsLog
from mlm_pretrain.errors import UserError
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.runtime.checkpoint import read_state
from mlm_pretrain.training.loop import Pretraining
from tests.training.launching import ready


def trainer_of(corpus: Path, folder: Path, **training: Any) -> Pretraining:
    config = ready(corpus, folder, **training)
    return Pretraining(config, RunDirectory.of(config))


def parameters(trainer: Pretraining) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in trainer.model.parameters()]


def ruined_at(
    steps: set[int], trainer: Pretraining, ruin: Callable[[torch.Tensor], Any], seen: list[bool]
) -> Callable[[int, object], None]:
    """Ruin the weights before some steps (numbered from 0), mend them behind; `seen`: whether they were as ruined."""
    good: list[torch.Tensor] = []
    bad: list[torch.Tensor] = []

    def on_batch(step: int, batch: object) -> None:
        if good:
            now = parameters(trainer)
            seen.append(all(torch.equal(each, was) for each, was in zip(now, bad, strict=True)))
            for parameter, was in zip(trainer.model.parameters(), good, strict=True):
                parameter.data.copy_(was)
            good.clear()
        if step in steps:
            good[:] = parameters(trainer)
            for parameter in trainer.model.parameters():
                ruin(parameter.data)
            bad[:] = parameters(trainer)

    return on_batch


def test_the_first_bad_step_is_named_and_nothing_bad_is_saved(corpus: Path, tmp_path: Path) -> None:
    trainer = trainer_of(corpus, tmp_path, budget={"steps": 20}, save_steps=4, logging_steps=100, max_grad_norm=0)
    with pytest.raises(UserError) as stop:
        trainer.train(ruined_at({5}, trainer, lambda data: data.mul_(1000.0), []))
    said = str(stop.value)
    assert "at step 6 (rows 40–47 of the run, of corpus" in said
    assert f"above training.max_loss ({3 * math.log(len(trainer.tokenizer)):.4g})" in said
    assert "training.on_bad_loss" in said
    assert "\n" not in said
    assert [path.name for path in trainer.run.checkpoints.iterdir()] == ["step-00000004"]
    assert all(record["step"] <= 4 for record in MetricsLog(trainer.run.metrics).read())


def test_bad_steps_are_left_out_and_counted(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = trainer_of(corpus, tmp_path, budget={"steps": 12}, save_steps=4, on_bad_loss="skip", max_loss=9.0)
    untouched: list[bool] = []
    trainer.train(ruined_at({3, 8}, trainer, lambda data: data.mul_(1000.0), untouched))
    assert untouched == [True, True]
    assert trainer.figures()["skipped_steps"] == 2
    assert trainer.figures()["steps"] == 12
    records = MetricsLog(trainer.run.metrics).read()
    assert [record.get("skipped_steps", 0) for record in records] == [0] * 3 + [1] * 5 + [2] * 4
    assert ["loss" in record for record in records] == [step not in (3, 8) for step in range(12)]
    assert all(record["loss"] < 9 for record in records if "loss" in record)
    said = capsys.readouterr().err
    assert said.count(": left out") == 2
    assert "at step 9 (rows 64–71 of the run, of corpus" in said
    assert read_state(trainer.run.checkpoint(12))["progress"]["skipped_steps"] == 2
    assert "NaN" not in trainer.run.metrics.read_text(encoding="utf-8")


def test_what_is_not_finite_is_left_out_too(corpus: Path, tmp_path: Path) -> None:
    trainer = trainer_of(corpus, tmp_path, budget={"steps": 6}, on_bad_loss="skip")
    trainer.train(ruined_at({2}, trainer, lambda data: data.fill_(float("nan")), []))
    assert trainer.figures()["skipped_steps"] == 1
    assert all(torch.isfinite(parameter).all() for parameter in trainer.model.parameters())


def test_without_bad_losses_skip_changes_nothing(corpus: Path, tmp_path: Path) -> None:
    stop, skip = (
        trainer_of(corpus, tmp_path / choice, budget={"steps": 6}, on_bad_loss=choice) for choice in ("stop", "skip")
    )
    for trainer in (stop, skip):
        trainer.train()
    for one, other in zip(parameters(stop), parameters(skip), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_weights_that_the_last_step_has_ruined_are_not_saved(corpus: Path, tmp_path: Path) -> None:
    # Above the largest float32: the weights become infinite, and no loss comes after that could tell.
    trainer = trainer_of(corpus, tmp_path, budget={"steps": 1}, learning_rate=1e39)
    with pytest.raises(UserError, match=r"the weights \S+ are not finite after step 1; .*training\.learning_rate"):
        trainer.train()
    assert not trainer.run.checkpoints.exists()


@pytest.mark.parametrize("factor", [1e4, float("nan")])
def test_a_held_out_loss_that_is_absurd_is_an_error_and_not_recorded(
    factor: float, corpus: Path, tmp_path: Path
) -> None:
    trainer = trainer_of(corpus, tmp_path, budget={"steps": 2})
    trainer.validate()
    for parameter in trainer.model.parameters():
        parameter.data.mul_(factor)
    with pytest.raises(UserError, match=r"the model of step 0: its held-out loss is .* where guessing gives 6\.4"):
        trainer.validate()
    assert len([record for record in MetricsLog(trainer.run.metrics).read() if "heldout_loss" in record]) == 1
