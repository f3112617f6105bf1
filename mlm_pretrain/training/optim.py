"""Optimizers by name. To add one: a function from a model and settings to a `torch.optim.Optimizer`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from mlm_pretrain.config import OptimizerSection
from mlm_pretrain.registry import Registry

OPTIMIZERS: Registry[Callable[[nn.Module, OptimizerSection], torch.optim.Optimizer]] = Registry(
    "optimizer", key="training.optim"
)


def make_optimizer(model: nn.Module, settings: OptimizerSection) -> torch.optim.Optimizer:
    """The optimizer of a model's trainable parameters.

    Raises:
        UserError: no optimizer is registered under `settings.optim`.
    """
    return OPTIMIZERS[settings.optim](model, settings)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


@OPTIMIZERS.register("adamw")
def adamw(model: nn.Module, settings: OptimizerSection) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101), fused into one kernel a step."""
    return _adamw(model.parameters(), settings)


@OPTIMIZERS.register("muon")
def muon(model: nn.Module, settings: OptimizerSection) -> torch.optim.Optimizer:
    """Muon for the encoder's matrices, AdamW for embeddings, head, biases and norms.

    Muon orthogonalises the momentum of each matrix (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon);
    its updates are scaled to the size of AdamW's (arXiv 2502.16982), so that one learning rate serves both.
    """
    output = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    matrices = [
        layer.weight
        for layer in model.modules()
        if isinstance(layer, nn.Linear) and layer is not output and layer.weight.requires_grad
    ]
    chosen = set(map(id, matrices))
    others = [parameter for parameter in model.parameters() if id(parameter) not in chosen]
    first = torch.optim.Muon(
        matrices,
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        momentum=0.95,
        nesterov=True,
        adjust_lr_fn="match_rms_adamw",
    )
    return _Joined([first, _adamw(others, settings)])


def _adamw(parameters: Iterable[nn.Parameter], settings: OptimizerSection) -> torch.optim.AdamW:
    """Weight decay on matrices and embeddings, none on biases and norms."""
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_epsilon,
        fused=True,
    )


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
