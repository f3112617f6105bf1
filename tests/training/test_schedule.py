"""Schedules that rise on their own, and the annealing of a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlm_pretrain import stages
from mlm_pretrain.config import OptimizerSection
from mlm_pretrain.console.telemetry import MetricsLog
from mlm_pretrain.errors import UserError
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.runtime.schedule import learning_rate_at
from mlm_pretrain.training.loop import Pretraining
from tests.conftest import tiny_config


def rates(count: int = 1000, **settings: object) -> list[float]:
    section = OptimizerSection(**{"learning_rate": 1.0, "warmup_steps": 0.0, **settings})  # type: ignore[arg-type]
    return [learning_rate_at(section, share / count) for share in range(count + 1)]


@pytest.mark.parametrize("peak", [0.1, 0.5, 0.75])
def test_a_triangle_is_two_lines(peak: float) -> None:
    found = rates(lr_scheduler_type="triangle", lr_scheduler_kwargs={"peak": peak})
    top = round(1000 * peak)
    assert found[0] == 0.0 and found[-1] == pytest.approx(0.0, abs=1e-12)
    assert found[top] == pytest.approx(1.0)
    assert found[top // 2] == pytest.approx(0.5)
    assert found[(1000 + top) // 2] == pytest.approx(0.5, abs=2e-3)
    assert found[: top + 1] == sorted(found[: top + 1])
    assert found[top:] == sorted(found[top:], reverse=True)
    assert found == rates(lr_scheduler_type="triangle", lr_scheduler_kwargs={"peak": peak}, warmup_steps=peak / 2)


def test_a_triangle_is_a_line_down_after_a_warmup_as_long_as_its_way_up() -> None:
    assert rates(lr_scheduler_type="triangle") == pytest.approx(rates(lr_scheduler_type="linear", warmup_steps=0.5))


@pytest.mark.parametrize("peak", [0.0, 1.0, 1.5])
def test_a_peak_outside_the_budget_is_told(peak: float) -> None:
    with pytest.raises(UserError, match=r"lr_scheduler_kwargs\.peak"):
        rates(lr_scheduler_type="triangle", lr_scheduler_kwargs={"peak": peak})


def test_decay_is_the_last_part_of_warmup_stable_decay() -> None:
    whole = rates(
        lr_scheduler_type="warmup_stable_decay", lr_scheduler_kwargs={"decay_fraction": 0.5, "min_lr_ratio": 0.1}
    )
    alone = rates(500, lr_scheduler_type="decay", lr_scheduler_kwargs={"min_lr_ratio": 0.1})
    assert alone == pytest.approx(whole[500:])
    assert alone[0] == 1.0 and alone[-1] == pytest.approx(0.1)
    warmed = rates(lr_scheduler_type="decay", warmup_steps=0.2)
    assert warmed[200] == pytest.approx(1.0)
    assert warmed[-1] == pytest.approx(0.0)


def test_a_stable_checkpoint_is_annealed_by_a_run_of_its_own(corpus: Path, tmp_path: Path) -> None:
    """Another run, on other text, begins with the checkpoint's weights and tokenizer at the full rate."""
    stable = tiny_config(corpus, tmp_path, training={"lr_scheduler_type": "warmup_stable_decay"})
    stages.train_tokenizer(stable)
    Pretraining(stable, RunDirectory.of(stable)).train()
    checkpoint = RunDirectory.of(stable).checkpoint(4)

    other = {"sources": [{"source": "files", "path": str(corpus / "part-0.jsonl")}]}
    model = {"path": str(checkpoint), "model_type": None, "config": {}}
    training = {"lr_scheduler_type": "decay", "warmup_steps": 0, "budget": {"steps": 6}}
    config = tiny_config(corpus, tmp_path / "annealed", text=other, model=model, training=training)
    stages.train_tokenizer(config)
    run = RunDirectory.of(config)
    Pretraining(config, run).train()
    first, *rest = [record for record in MetricsLog(run.metrics).read() if "loss" in record]
    at_four = [r["loss"] for r in MetricsLog(RunDirectory.of(stable).metrics).read() if r.get("step") == 4]
    assert first["loss"] == pytest.approx(at_four[0], abs=0.3)
    assert first["learning_rate"] == pytest.approx(3e-3 * (1 - (0.5 / 6) ** 0.5))
    assert [r["learning_rate"] for r in rest] == sorted((r["learning_rate"] for r in rest), reverse=True)
