"""The loss rule of every loop here: the sum of cross-entropies over the global batch, divided by its labels.

A mean of means over micro-batches or processes weighs a label by how many others happened to stand beside it, and
several transformers heads do just that. So heads return sums here, and the division is done once, by the number of
labels of the whole global batch, which is known before the first forward pass.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

IGNORE_INDEX = -100

Batch = dict[str, Tensor]
LossFunction = Callable[[Batch], tuple[Tensor, Tensor, dict[str, Tensor]]]
"""A micro-batch → (sum of the losses of its labels, number of its labels, further sums to log)."""


@dataclass
class GlobalLoss:
    """Sums over this process's share of a global batch; tensors stay on the device."""

    sum: Tensor
    count: int
    """Labels of the whole global batch, over all processes."""
    metrics: dict[str, Tensor]

    @property
    def mean(self) -> Tensor:
        """This process's part of the mean over the global batch: the whole, where it is the only one."""
        return self.sum / max(self.count, 1)


def count_labels(batch: Batch) -> int:
    return int((batch["labels"] != IGNORE_INDEX).sum())


def backward_global_batch(
    accelerator: Accelerator,
    model: nn.Module,
    micro_batches: Sequence[Batch],
    loss_function: LossFunction,
    count: int | None = None,
) -> GlobalLoss:
    """Accumulate the gradients of one global batch.

    Args:
        accelerator: made with `gradient_accumulation_steps=1`, so that it divides by nothing itself.
        model: the prepared model; its gradients are added to, and summed over the processes with the last backward.
        micro_batches: this process's share of the global batch, one at least, as tensors on the CPU with `labels`;
            processes may have different numbers of them.
        loss_function: called once a micro-batch, under autocast.
        count: labels of the global batch, over all processes; by default those of `micro_batches`.

    A global batch without any label gives a loss and gradients of zero.
    """
    if count is None:
        assert accelerator.num_processes == 1, "of several processes, none knows the others' labels"
        count = sum(count_labels(batch) for batch in micro_batches)
    # DistributedDataParallel averages gradients over the processes; a sum over them is wanted.
    scale = accelerator.num_processes / max(count, 1)
    total = torch.zeros((), device=accelerator.device)
    metrics: dict[str, Tensor] = {}
    for number, batch in enumerate(micro_batches):
        last = number == len(micro_batches) - 1
        with contextlib.nullcontext() if last else accelerator.no_sync(model):
            with accelerator.autocast():
                loss, _, further = loss_function(to_device(batch, accelerator.device))
            accelerator.backward(loss * scale)
        total += loss.detach()
        for name, value in further.items():
            metrics[name] = metrics[name] + value.detach() if name in metrics else value.detach()
    return GlobalLoss(total, count, metrics)


def clip_gradients(accelerator: Accelerator, model: nn.Module, max_grad_norm: float) -> Tensor:
    """Clip the gradients, unless `max_grad_norm` is 0; their norm before that, the same on all processes."""
    return accelerator.clip_grad_norm_(model.parameters(), max_grad_norm or math.inf)


def optimizer_step(accelerator: Accelerator, model: nn.Module, optimizer: Any, max_grad_norm: float) -> Tensor:
    """Clip, step, and clear the gradients; the norm before clipping."""
    norm = clip_gradients(accelerator, model, max_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device; a copy to a GPU is not waited for."""
    if device.type == "cuda":
        batch = {name: tensor if tensor.is_cuda else tensor.pin_memory() for name, tensor in batch.items()}
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
