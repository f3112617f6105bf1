"""Optimizers by name. To add one: a function from a model and settings to a `torch.optim.Optimizer`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mlm_pretrain.config import OptimizerSection
from mlm_pretrain.errors import UserError, first_line
from mlm_pretrain.models.initialisation.tiling import fused_parts
from mlm_pretrain.registry import Registry

OPTIMIZERS: Registry[Callable[[nn.Module, OptimizerSection], torch.optim.Optimizer]] = Registry(
    "optimizer", key="optim"
)
MUON_DEFAULTS: dict[str, Any] = {
    "lr_ratio": 8.0,
    "ns_steps": 3,
    "momentum": 0.95,
    "nesterov": True,
    "adjust_lr_fn": "match_rms_adamw",
}
"""For budgets of minutes, as `configs/RECIPES.md` tells."""


def make_optimizer(model: nn.Module, settings: OptimizerSection) -> torch.optim.Optimizer:
    """The optimizer of a model's trainable parameters.

    Raises:
        UserError: no optimizer is registered under `settings.optim`, or it doesn't take one of `optim_args`.
    """
    try:
        return OPTIMIZERS[settings.optim](model, settings)
    except (TypeError, ValueError) as error:
        if not settings.optim_args:
            raise
        raise UserError(f"optim_args: {settings.optim}: {first_line(error)}") from None


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the rate of all parameters; a group's is `lr_ratio` times this where it has one."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get("lr_ratio", 1.0)


@OPTIMIZERS.register("adamw")
def adamw(model: nn.Module, settings: OptimizerSection) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101), fused into one kernel a step."""
    return _adamw(model.parameters(), settings, **settings.optim_args)


@OPTIMIZERS.register("stable_adamw")
def stable_adamw(model: nn.Module, settings: OptimizerSection) -> torch.optim.Optimizer:
    """AdamW that shortens the step of a tensor whose gradients have outgrown their second moments.

    It takes the place of gradient clipping: `max_grad_norm: 0` goes with it. See `StableAdamW`.
    """
    return StableAdamW(
        _decayed_and_not(model.parameters(), settings),
        **_adam_settings(settings),
        **settings.optim_args,
    )


@OPTIMIZERS.register("muon")
def muon(model: nn.Module, settings: OptimizerSection) -> torch.optim.Optimizer:
    """Muon for the encoder's matrices, AdamW for embeddings, head, biases and norms.

    Muon orthogonalises the momentum of each matrix (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon);
    its updates are scaled to 0.2 of the learning rate, as AdamW's are late in a run (arXiv 2502.16982). The matrices
    bear more than the embeddings: `lr_ratio` times `learning_rate` is theirs. Query, key and value count as matrices
    of their own where a model keeps them in one weight, as do the halves of a gated layer.

    `optim_args`: `lr_ratio`, and those of `torch.optim.Muon` (`momentum`, `ns_steps`, …); see `MUON_DEFAULTS`.
    """
    encoder = getattr(model, "base_model", model)
    layers = {
        layer.weight: fused_parts(name)
        for name, layer in encoder.named_modules()
        if isinstance(layer, nn.Linear) and layer.weight.requires_grad
    }
    others = [parameter for parameter in model.parameters() if parameter not in layers]
    arguments = {**MUON_DEFAULTS, **settings.optim_args}
    ratio = arguments.pop("lr_ratio")
    first = SplitMuon(layers, lr=settings.learning_rate, weight_decay=settings.weight_decay, **arguments)
    for group in first.param_groups:
        group["lr_ratio"] = ratio
    return _Joined([first, _adamw(others, settings)])


def _adamw(parameters: Iterable[nn.Parameter], settings: OptimizerSection, **more: Any) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        _decayed_and_not(parameters, settings), **_adam_settings(settings), **{"fused": True, **more}
    )


def _adam_settings(settings: OptimizerSection) -> dict[str, Any]:
    return {
        "lr": settings.learning_rate,
        "betas": (settings.adam_beta1, settings.adam_beta2),
        "eps": settings.adam_epsilon,
    }


def _decayed_and_not(parameters: Iterable[nn.Parameter], settings: OptimizerSection) -> list[dict[str, Any]]:
    """Weight decay on matrices and embeddings, none on biases and norms."""
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


class StableAdamW(torch.optim.AdamW):
    """AdamW with Adafactor's update clipping (Wortsman et al., arXiv 2304.13013, algorithm 2).

    The learning rate of each tensor is divided by max(1, RMS), where RMS is the root of the mean over the tensor of
    g² / max(v, eps²), with g the gradient and v its bias-corrected second moment, this step's included. Weight decay
    follows the divided rate. The step itself and the state are AdamW's.

    Args:
        groups: parameters in groups; each parameter gets one of its own.
        settings: handed on to `torch.optim.AdamW`.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], **settings: Any) -> None:
        super().__init__(
            [{**group, "params": [parameter]} for group in groups for parameter in group["params"]],
            fused=True,
            **settings,
        )
        # A GradScaler has to divide the gradients by its scale before they are compared with the moments.
        self._step_supports_amp_scaling = False

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        rates = [group["lr"] for group in self.param_groups]
        for group in self.param_groups:
            group["lr"] = group["lr"] / self._excess(group)
        super().step()
        for group, rate in zip(self.param_groups, rates, strict=True):
            group["lr"] = rate

    def _excess(self, group: dict[str, Any]) -> Tensor | float:
        """max(1, RMS) of a group's parameter; it stays on the device, so that nothing waits for it."""
        (parameter,), beta2 = group["params"], group["betas"][1]
        state = self.state.get(parameter)
        if parameter.grad is None or not state:
            return 1.0  # at the first step v is g² itself
        squares = parameter.grad.square()
        second = torch.lerp(state["exp_avg_sq"], squares, 1 - beta2)
        second.div_(1 - beta2 ** (state["step"] + 1)).clamp_min_(group["eps"] ** 2)
        return squares.div_(second).mean().sqrt().clamp_min(1.0)


class SplitMuon(torch.optim.Muon):
    """Muon that takes a weight of several matrices apart.

    Orthogonalised as one, query, key and value would share one set of directions; modded-nanogpt and Megatron split
    them as well. The state is that of `torch.optim.Muon`, one momentum a weight.

    Args:
        parts: the weights, and how many matrices lie above one another in each.
        settings: handed on to `torch.optim.Muon`.
    """

    def __init__(self, parts: dict[nn.Parameter, int], **settings: Any) -> None:
        super().__init__(list(parts), **settings)
        self._parts = parts

    def _init_group(
        self, group: Any, params_with_grad: list[Tensor], grads: list[Tensor], muon_momentum_bufs: list[Tensor]
    ) -> bool:
        has_complex = super()._init_group(group, params_with_grad, grads, muon_momentum_bufs)
        parts = [self._parts[parameter] for parameter in params_with_grad]
        for tensors in (params_with_grad, grads, muon_momentum_bufs):
            # Views: what is done to them is done to the weight.
            tensors[:] = [piece for tensor, count in zip(tensors, parts, strict=True) for piece in tensor.chunk(count)]
        return has_complex


class _Joined(torch.optim.Optimizer):
    """Several optimizers, each with parameters of its own, as one: they share its groups and its state."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self._parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    def step(self, closure: None = None) -> None:
        for part in self._parts:
            part.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        start = 0
        for part in self._parts:
            end = start + len(part.param_groups)
            part.param_groups = self.param_groups[start:end]
            part.state = self.state
            start = end
