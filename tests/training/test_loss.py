"""Contract 2: the loss of a step is the sum over the global batch, divided by its masked tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from mlm_pretrain import stages
from mlm_pretrain.config import Config, OptimizerSection
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.runtime.checkpoint import read_state, restore_optimizer, save_checkpoint
from mlm_pretrain.runtime.loss import backward_global_batch
from mlm_pretrain.runtime.optim import OPTIMIZERS, make_optimizer, set_learning_rate
from mlm_pretrain.runtime.schedule import SCHEDULES, learning_rate_at
from mlm_pretrain.training.loop import Pretraining
from tests.conftest import tiny_config

BERT = {
    "model_type": "bert",
    "config": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        # Dropout draws differently for other micro-batches.
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    },
}
MODELS: dict[str, dict[str, Any]] = {"modernbert": {}, "bert": {"model": BERT}}


def losses(config: Config) -> list[float]:
    stages.train_tokenizer(config)
    run = RunDirectory.of(config)
    Pretraining(config, run).train()
    return [record["loss"] for record in _records(run)]


def _records(run: RunDirectory) -> list[dict[str, Any]]:
    from mlm_pretrain.console.telemetry import MetricsLog

    return [record for record in MetricsLog(run.metrics).read() if "loss" in record]


@pytest.mark.parametrize("name", MODELS)
def test_accumulation_does_not_change_the_losses(name: str, corpus: Path, tmp_path: Path) -> None:
    settings = {"budget": {"steps": 20}, "save_steps": None}
    expected, split, uneven = (
        losses(
            tiny_config(
                corpus,
                tmp_path / str(micro),
                **{**MODELS[name], "training": {**settings, "per_device_train_batch_size": micro}},
            )
        )
        for micro in (8, 2, 3)
    )
    assert len(expected) == 20
    assert expected[-1] < expected[0]
    assert split == pytest.approx(expected, rel=1e-5)
    assert uneven == pytest.approx(expected, rel=1e-5)


def test_no_masked_token_gives_zero_and_not_nan() -> None:
    model = torch.nn.Linear(3, 4)
    batch = {"input": torch.ones(2, 3), "labels": torch.full((2,), -100)}

    def loss(micro: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        labels = micro["labels"]
        logits = model(micro["input"])
        total = torch.nn.functional.cross_entropy(logits, labels, reduction="sum", ignore_index=-100)
        return total, (labels != -100).sum(), {}

    result = backward_global_batch(Accelerator(cpu=True), model, [batch, batch], loss)
    assert float(result.mean) == 0.0
    assert result.count == 0
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name != "triangle"])  # whose way up is its warmup
def test_schedules_warm_up_stay_below_the_peak_and_end_low(name: str) -> None:
    settings = OptimizerSection(lr_scheduler_type=name, learning_rate=2.0, warmup_steps=0.1)
    rates = [learning_rate_at(settings, share / 1000) for share in range(1001)]
    assert rates[0] == 0.0
    assert rates[50] == pytest.approx(1.0, rel=1e-6)
    assert max(rates) == pytest.approx(2.0)
    assert rates[:100] == sorted(rates[:100])
    if name != "constant":
        assert rates[-1] == pytest.approx(0.0, abs=1e-9)
        assert rates[100:] == sorted(rates[100:], reverse=True)


def test_a_warmup_in_steps_is_one_of_steps() -> None:
    settings = OptimizerSection(lr_scheduler_type="linear", learning_rate=1.0, warmup_steps=10)
    rates = [learning_rate_at(settings, (step + 0.5) / 100, step, 100) for step in range(100)]
    assert rates[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert rates[9] == pytest.approx(1.0)
    assert rates[55] == pytest.approx((1 - 0.555) / 0.9)


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_an_optimizer_taken_up_from_a_checkpoint_goes_on_as_if_it_had_not_stopped(name: str, tmp_path: Path) -> None:
    def model() -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Embedding(5, 4), torch.nn.Linear(4, 6), torch.nn.LayerNorm(6))

    def train(layers: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            set_learning_rate(optimizer, 0.1 / (step + 1))
            layers(torch.tensor([step % 5, 2])).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    settings = OptimizerSection(optim=name)
    whole, first = model(), model()
    train(whole, make_optimizer(whole, settings), range(6))
    optimizer = make_optimizer(first, settings)
    train(first, optimizer, range(3))
    state = {"any": "record"}
    save_checkpoint(tmp_path / "step-3", lambda folder: None, optimizer, state, {}, keep=1)
    resumed = make_optimizer(first, settings)
    restore_optimizer(tmp_path / "step-3", resumed, read_state(tmp_path / "step-3")["optimizer"])
    train(first, resumed, range(3, 6))
    for expected, got in zip(whole.parameters(), first.parameters(), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=0)
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert trained == {id(parameter) for parameter in first.parameters()}
