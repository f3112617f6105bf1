"""Trial passes: forward and backward over made-up rows of a run's own shape, on the model itself, timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from mlm_pretrain.models.masked_head import MaskedLogits, with_places
from mlm_pretrain.objectives.base import Objective, Rows
from mlm_pretrain.objectives.random import RowRandom
from mlm_pretrain.runtime.loss import Batch, to_device
from mlm_pretrain.training.short_rows import cut_rows

Clock = Callable[[], float]
ROUNDS = 4
ROUNDS_SECONDS = 8.0
"""A comparison that has taken so long has no further round."""

Pass = tuple[int, int]
"""A forward pass: rows of the stream, and the tokens of the pieces that they are cut into."""


class Probe:
    """Forward and backward passes over made-up masked rows, full of random tokens; gradients are gone after it.

    Args:
        ids: the token ids that may occur.
        length: tokens of a row.
        packing: as the run's.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        objective: Objective,
        accelerator: Accelerator,
        ids: np.ndarray,
        length: int,
        packing: bool,
    ) -> None:
        self.model = model
        self.device = accelerator.device
        self.length = length
        self.autocast = accelerator.autocast
        self._objective = objective
        self._ids = ids
        # Not the wrapper of several processes: each tries by itself.
        self._forward = MaskedLogits(model, packing)

    def close(self) -> None:
        self._forward.close()
        self.model.zero_grad(set_to_none=True)

    def seconds(self, rows: int, length: int | None = None) -> float:
        """Of one pass over so many rows, whole or in pieces of so many tokens."""
        batch = with_places(cut_rows(self._rows(rows), length or self.length))

        def forward_and_backward() -> None:
            with self.autocast():
                loss, count, _ = self._objective.loss(self._forward, to_device(batch, self.device))
            (loss / count).backward()

        return self.timed(forward_and_backward)

    def timed(self, what: Callable[[], object]) -> float:
        """The seconds that something takes on the device."""
        self._synchronize()
        started = time.perf_counter()
        what()
        self._synchronize()
        return time.perf_counter() - started

    def _rows(self, rows: int) -> Batch:
        random = np.random.default_rng(0)
        shape = (rows, self.length)
        full = Rows(
            input_ids=random.choice(self._ids, shape).astype(np.int64),
            segment_ids=np.ones(shape, dtype=np.int32),
            position_ids=np.tile(np.arange(self.length, dtype=np.int64), (rows, 1)),
            source_ids=np.zeros(shape, dtype=np.int32),
            index=np.arange(rows, dtype=np.int64),
            step=0,
        )
        masked = self._objective.corrupt(full, RowRandom(0))
        return {name: torch.from_numpy(array) for name, array in masked.items()}

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def compare(
    trials: Sequence[Callable[[], float]], seconds: float = ROUNDS_SECONDS, clock: Clock = time.perf_counter
) -> list[float]:
    """The least seconds that each trial takes in several rounds, in turn: what else the machine does, it does to all.
    Each is tried once before.

    Args:
        seconds: there is no further round that would end after them; there is one at least.
    """
    began = clock()
    for trial in trials:
        trial()
    started, times = clock(), [[trial() for trial in trials]]
    while len(times) < ROUNDS and clock() - began + (clock() - started) / len(times) < min(seconds, ROUNDS_SECONDS):
        times.append([trial() for trial in trials])
    return [min(each) for each in zip(*times, strict=True)]
