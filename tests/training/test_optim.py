"""Optimizers against their textbook, and which parameters each of them trains how."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, ModernBertConfig, ModernBertForMaskedLM

from mlm_pretrain import stages
from mlm_pretrain.config import OptimizerSection
from mlm_pretrain.errors import UserError
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.runtime.checkpoint import read_state, restore_optimizer, save_checkpoint
from mlm_pretrain.runtime.optim import SplitMuon, StableAdamW, make_optimizer, set_learning_rate
from mlm_pretrain.training.loop import pretrain
from tests.conftest import tiny_config

SHAPES = ((6, 4), (5,), (3, 2), (1,))
BETAS, EPS, DECAY = (0.9, 0.98), 1e-6, 0.1
TINY: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 40,
    "pad_token_id": 0,
}


def parameters(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in SHAPES]


def gradients(step: int) -> list[Tensor]:
    """Noise that is a thousand times larger for one tensor at one step: the spike that clipping is for."""
    generator = torch.Generator().manual_seed(step)
    grads = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES]
    grads[step % 4] *= 1000 if step in (5, 6) else 1
    return grads


def groups(params: list[nn.Parameter]) -> list[dict[str, object]]:
    return [{"params": params[::2], "weight_decay": DECAY}, {"params": params[1::2], "weight_decay": 0.0}]


def textbook(steps: int, clip: bool = True) -> tuple[list[Tensor], list[float]]:
    """Algorithm 2 of arXiv 2304.13013, a number at a time; and every RMS that there was."""
    values, seen = [parameter.detach().clone() for parameter in parameters()], []
    for number, value in enumerate(values):
        decay = DECAY if number % 2 == 0 else 0.0
        first, second, flat = [0.0] * value.numel(), [0.0] * value.numel(), value.view(-1)
        for step in range(1, steps + 1):
            grads = gradients(step)[number].flatten().tolist()
            first = [BETAS[0] * m + (1 - BETAS[0]) * g for m, g in zip(first, grads, strict=True)]
            second = [BETAS[1] * v + (1 - BETAS[1]) * g * g for v, g in zip(second, grads, strict=True)]
            debiased = [v / (1 - BETAS[1] ** step) for v in second]
            squares = [g * g / max(v, EPS**2) for g, v in zip(grads, debiased, strict=True)]
            rms = (sum(squares) / len(squares)) ** 0.5
            seen.append(rms)
            rate = 0.01 / step / (max(1.0, rms) if clip else 1.0)
            for index, (m, v) in enumerate(zip(first, debiased, strict=True)):
                flat[index] -= rate * decay * flat[index]
                flat[index] -= rate * m / (1 - BETAS[0] ** step) / (v**0.5 + EPS)
    return values, seen


def take_steps(optimizer: torch.optim.Optimizer, params: list[nn.Parameter], steps: range) -> None:
    for step in steps:
        set_learning_rate(optimizer, 0.01 / step)
        for parameter, grad in zip(params, gradients(step), strict=True):
            parameter.grad = grad.to(parameter.dtype)
        optimizer.step()


def test_stable_adamw_is_that_of_the_paper() -> None:
    params = parameters()
    take_steps(StableAdamW(groups(params), betas=BETAS, eps=EPS), params, range(1, 9))
    expected, seen = textbook(8)
    assert max(seen) > 2 > 1 > min(seen)
    torch.testing.assert_close([p.detach() for p in params], expected, rtol=1e-6, atol=1e-9)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(textbook(8, clip=False)[0], expected, rtol=1e-3, atol=0)


def test_a_step_of_stable_adamw_is_one_of_adamw_at_the_divided_rate() -> None:
    """The moments don't depend on the rate, so that this holds from any state."""
    ours, theirs = parameters(), parameters()
    stable = StableAdamW([{"params": ours}], betas=BETAS, eps=EPS, weight_decay=DECAY)
    plain = torch.optim.AdamW([{"params": [p]} for p in theirs], betas=BETAS, eps=EPS, weight_decay=DECAY)
    for step in range(1, 9):
        take_steps(stable, ours, range(step, step + 1))
        for parameter, group in zip(ours, plain.param_groups, strict=True):
            assert parameter.grad is not None
            second = stable.state[parameter]["exp_avg_sq"] / (1 - BETAS[1] ** step)
            rms = float((parameter.grad**2 / second.clamp_min(EPS**2)).mean().sqrt())
            group["lr"] = 0.01 / step / max(1.0, rms)
        for parameter, grad in zip(theirs, gradients(step), strict=True):
            parameter.grad = grad
        plain.step()
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)
    for parameter, other in zip(ours, theirs, strict=True):
        assert set(stable.state[parameter]) == set(plain.state[other])


def test_stable_adamw_from_a_checkpoint_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole, first = parameters(torch.float32), parameters(torch.float32)
    take_steps(StableAdamW(groups(whole)), whole, range(1, 9))
    optimizer = StableAdamW(groups(first))
    take_steps(optimizer, first, range(1, 4))
    save_checkpoint(tmp_path / "step-3", lambda folder: None, optimizer, {}, {}, keep=1)
    resumed = StableAdamW(groups(first))
    restore_optimizer(tmp_path / "step-3", resumed, read_state(tmp_path / "step-3")["optimizer"])
    take_steps(resumed, first, range(4, 9))
    torch.testing.assert_close(first, whole, rtol=0, atol=0)
    torch.testing.assert_close(resumed.state_dict()["state"][0], resumed.state[first[0]], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["stable_adamw", "muon"])
def test_a_run_that_was_interrupted_ends_with_the_same_weights(name: str, corpus: Path, tmp_path: Path) -> None:
    def interrupt(step: int, batch: object) -> None:
        if step == interrupted:
            raise KeyboardInterrupt

    ends = []
    for interrupted in (None, 6):
        config = tiny_config(corpus, tmp_path / str(interrupted), training={"optim": name, "max_grad_norm": 0})
        stages.train_tokenizer(config)
        run = RunDirectory.of(config)
        with contextlib.suppress(KeyboardInterrupt):
            pretrain(config, run, on_batch=interrupt)
        if interrupted:
            pretrain(config, run)
        ends.append((run.model / "model.safetensors").read_bytes())
    assert ends[0] == ends[1]


def test_a_parameter_without_a_gradient_stays_as_it_is() -> None:
    params = parameters()
    optimizer = StableAdamW(groups(params))
    params[0].grad = torch.ones_like(params[0])
    optimizer.step()
    torch.testing.assert_close(params[1:], parameters()[1:], rtol=0, atol=0)
    assert not optimizer.state[params[1]]


def test_matrices_that_lie_in_one_weight_are_orthogonalised_apart() -> None:
    """The update of a weight of three is that of three weights, and not that of one."""
    torch.manual_seed(0)
    start, settings = torch.randn(24, 8), {"lr": 0.1, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}
    fused, single = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    apart = [nn.Parameter(piece.clone()) for piece in start.chunk(3)]
    optimizers = (
        SplitMuon({fused: 3}, **settings),
        torch.optim.Muon(apart, **settings),
        torch.optim.Muon([single], **settings),
    )
    for _ in range(3):
        grad = torch.randn(24, 8) * torch.tensor([100.0, 1.0, 0.1]).repeat_interleave(8)[:, None]
        fused.grad, single.grad = grad.clone(), grad.clone()
        for parameter, piece in zip(apart, grad.chunk(3), strict=True):
            parameter.grad = piece.clone()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(fused.detach(), torch.cat([p.detach() for p in apart]), rtol=0, atol=0)
    assert not torch.allclose(fused, single, rtol=1e-2)
    assert {name: tensor.shape for name, tensor in optimizers[0].state[fused].items()} == {"momentum_buffer": (24, 8)}


def test_muon_takes_the_encoders_matrices_and_adamw_the_rest() -> None:
    for model in (
        ModernBertForMaskedLM(ModernBertConfig(**TINY)),
        BertForSequenceClassification(BertConfig(**TINY, num_labels=3)),
    ):
        optimizer = make_optimizer(model, OptimizerSection(optim="muon"))
        names = {parameter: name for name, parameter in model.named_parameters()}
        trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        assert sorted(map(names.__getitem__, trained)) == sorted(names.values())
        matrices = [names[parameter] for parameter in optimizer.param_groups[0]["params"]]
        assert len(matrices) == (8 if isinstance(model, ModernBertForMaskedLM) else 13)  # 4 or 6 a layer, the pooler
        assert all(name.startswith(f"{model.base_model_prefix}.") for name in matrices)
        assert not any("embeddings" in name or "classifier" in name for name in matrices)
        for parameter in trained:
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()


@pytest.mark.parametrize("name", ["adamw", "stable_adamw", "muon"])
def test_arguments_reach_the_optimizer_and_unknown_ones_are_named(name: str) -> None:
    given = {"momentum": 0.8, "ns_steps": 2} if name == "muon" else {"foreach": False}
    model = BertForSequenceClassification(BertConfig(**TINY))
    group = make_optimizer(model, OptimizerSection(optim=name, optim_args=given)).param_groups[0]
    assert {key: group[key] for key in given} == given
    with pytest.raises(UserError, match=rf"^optim_args: {name}: .*unexpected keyword argument 'ns_stps'"):
        make_optimizer(model, OptimizerSection(optim=name, optim_args={"ns_stps": 2}))


def test_muon_splits_the_fused_weights_of_modernbert_and_has_a_rate_of_its_own() -> None:
    model = ModernBertForMaskedLM(ModernBertConfig(**TINY))
    settings = OptimizerSection(optim="muon", weight_decay=0.0, optim_args={"ns_steps": 5, "lr_ratio": 2.0})
    optimizer = make_optimizer(model, settings)
    set_learning_rate(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [1.0, 0.5, 0.5]
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    for name, parts in {"attn.Wqkv": 3, "mlp.Wi": 2, "mlp.Wo": 1, "attn.Wo": 1}.items():
        name = f"model.layers.0.{name}.weight"
        for piece in (model.get_parameter(name).detach() - weights[name]).chunk(parts):
            scaled = piece / (0.2 * max(piece.shape) ** 0.5)
            # Five iterations leave the singular values of an orthogonalised matrix around 1.
            values = torch.linalg.svdvals(scaled)
            assert float(values.min()) > 0.3 and float(values.max()) < 1.3, name
