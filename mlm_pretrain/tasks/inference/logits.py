"""Logits of many rows: the forward passes of scoring and prediction."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from accelerate import Accelerator

from mlm_pretrain.escaping import counted
from mlm_pretrain.runtime.bad_loss import Diverged
from mlm_pretrain.runtime.loss import to_device
from mlm_pretrain.tasks.adapter import Feature, TaskAdapter
from mlm_pretrain.tasks.inference.linear import fast_linear

Autocast = Callable[[], contextlib.AbstractContextManager[object]]

CPU_TOKENS = 1024
"""Tokens of a batch on a CPU: with so many the matrix products are at their full speed, and what lies between them
still fits in the cache. Measured on 6 layers × 384; twice as many were no faster, four times as many a fifth slower."""
MORE_ROWS = 8
"""A batch of short rows has at most so many times `batch_size` of them."""


def cut_texts(number: int, max_length: int) -> str:
    """What is said of texts that were cut, as `2 texts are longer than 512 tokens, and were cut`."""
    is_, was = ("is", "was") if number == 1 else ("are", "were")
    return f"{counted(number, 'text')} {is_} longer than {max_length:,} tokens, and {was} cut"


def logits_of(
    adapter: TaskAdapter,
    model: torch.nn.Module,
    features: Sequence[Feature],
    batch_size: int,
    accelerator: Accelerator | None = None,
    bf16: bool = False,
    name: str = "the model",
) -> list[np.ndarray]:
    """The float32 logits of every row, in the order of the rows; rows of similar length share a batch.

    Args:
        batch_size: rows of the greatest length in a batch, as `by_length` has it; on a CPU batches are smaller.
        accelerator: where given, its autocast is used; else the model's own precision.
        bf16: without an accelerator, compute in bfloat16 autocast.
        name: of the model, for the error.

    Raises:
        Diverged: a logit is not finite; heads may rule places out by minus infinity.

    Returns:
        Per row an array [labels], or [tokens or more, labels] for heads that label tokens.
    """
    model.eval()
    device = next(model.parameters()).device
    autocast: Autocast = contextlib.nullcontext
    if accelerator:
        autocast = accelerator.autocast
    elif bf16:
        autocast = lambda: torch.autocast(device.type, torch.bfloat16)  # noqa: E731
    result: list[np.ndarray] = [np.empty(0)] * len(features)
    on_cpu = device.type == "cpu"
    with torch.inference_mode(), fast_linear(model) if on_cpu else contextlib.nullcontext():
        for numbers in by_length(features, batch_size, CPU_TOKENS if on_cpu else None):
            batch = adapter.collate([features[number] for number in numbers])
            with autocast():
                logits = adapter.logits(model, to_device(batch, device))
            rows = logits.cpu().numpy()
            if not (rows < np.inf).all():
                raise Diverged(f"{name}: gives logits that are not finite: its weights are too large or damaged")
            for number, row in zip(numbers, rows, strict=True):
                result[number] = row
    return result


def by_length(features: Sequence[Feature], batch_size: int, max_tokens: int | None = None) -> Iterator[list[int]]:
    """The numbers of the rows in batches, the longest first: what needs most memory is tried before all else.

    Args:
        batch_size: rows in the first batch. Batches of shorter rows have more, so that no batch has more tokens than
            that one, padding included.
        max_tokens: in any batch, but for rows that alone have more.
    """
    lengths = [len(feature["input_ids"]) for feature in features]
    order = sorted(range(len(features)), key=lambda number: -lengths[number])
    room = batch_size * lengths[order[0]] if order else 0
    if max_tokens is not None:
        room = min(room, max_tokens)
    start = 0
    while start < len(order):
        rows = min(max(room // max(lengths[order[start]], 1), 1), MORE_ROWS * batch_size)
        yield order[start : start + rows]
        start += rows
