"""Optimizers by name. To add one: a function from parameter groups and settings to a `torch.optim.Optimizer`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from mlm_pretrain.config import OptimizerSection
from mlm_pretrain.registry import Registry

ParameterGroups = list[dict[str, Any]]

OPTIMIZERS: Registry[Callable[[ParameterGroups, OptimizerSection], torch.optim.Optimizer]] = Registry(
    "optimizer", key="training.optim"
)


def make_optimizer(model: nn.Module, settings: OptimizerSection) -> torch.optim.Optimizer:
    """The optimizer of a model: weight decay on matrices and embeddings, none on biases and norms.

    Raises:
        UserError: no optimizer is registered under `settings.optim`.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups: ParameterGroups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return OPTIMIZERS[settings.optim]([group for group in groups if group["params"]], settings)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


@OPTIMIZERS.register("adamw")
def _adamw(groups: ParameterGroups, settings: OptimizerSection) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101), fused into one kernel a step."""
    return torch.optim.AdamW(
        groups,
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_epsilon,
        fused=True,
    )
