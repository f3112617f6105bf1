"""Logits of many rows: the forward passes of scoring and prediction."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from accelerate import Accelerator

from mlm_pretrain.tasks.adapter import Feature, TaskAdapter
from mlm_pretrain.training.loss import to_device

Autocast = Callable[[], contextlib.AbstractContextManager[object]]


def logits_of(
    adapter: TaskAdapter,
    model: torch.nn.Module,
    features: Sequence[Feature],
    batch_size: int,
    accelerator: Accelerator | None = None,
) -> list[np.ndarray]:
    """The float32 logits of every row, in the order of the rows; rows of similar length share a batch.

    Args:
        accelerator: where given, its autocast is used; else the model's own precision.

    Returns:
        Per row an array [labels], or [tokens or more, labels] for heads that label tokens.
    """
    model.eval()
    device = next(model.parameters()).device
    autocast: Autocast = accelerator.autocast if accelerator else contextlib.nullcontext
    result: list[np.ndarray] = [np.empty(0)] * len(features)
    for numbers in by_length(features, batch_size):
        batch = adapter.collate([features[number] for number in numbers])
        with torch.inference_mode(), autocast():
            logits = adapter.logits(model, to_device(batch, device))
        for number, row in zip(numbers, logits.cpu().numpy(), strict=True):
            result[number] = row
    return result


def by_length(features: Sequence[Feature], batch_size: int) -> Iterator[list[int]]:
    """The numbers of the rows in batches, the longest first: what needs most memory is tried before all else."""
    order = sorted(range(len(features)), key=lambda number: -len(features[number]["input_ids"]))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
