"""What a pretext objective is: rows of token ids in, a batch with labels out, and the loss on it.

To add one, put a file into this folder with a factory `@OBJECTIVES.register("name")`; nothing else is touched.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from mlm_pretrain import objectives
from mlm_pretrain.config import ObjectiveConfig, Ramp
from mlm_pretrain.objectives.random import RowRandom
from mlm_pretrain.registry import Registry

IGNORE = -100
"""The label of a position that has none."""


@dataclass(frozen=True)
class Rows:
    """B rows of L tokens, each with one document or several behind one another."""

    input_ids: np.ndarray
    """[B, L] int64, padded with the tokenizer's pad id."""
    segment_ids: np.ndarray
    """[B, L] int32: which document of the row, from 1; 0 on padding."""
    position_ids: np.ndarray
    """[B, L] int64: the position within its document."""
    source_ids: np.ndarray
    """[B, L] int32: index into the run's list of sources, -1 on padding."""
    index: np.ndarray
    """[B] int64: the row's number in the run, from 0; it keys the row's randomness."""
    step: int
    """The optimizer step that the rows belong to; schedules of rates follow it."""


class Objective(Protocol):
    def corrupt(self, rows: Rows, rng: RowRandom) -> dict[str, np.ndarray]:
        """Make the batch; runs in the loader, and depends on the rows, the step and the seed only.

        Returns:
            Arrays whose first axis is B; among them `input_ids`, `segment_ids`, `position_ids`, `source_ids`.
        """
        ...

    def loss(
        self, model: Callable[[dict[str, Tensor]], Tensor], batch: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The summed loss, what to divide it by (after both are summed over the global batch), and summed metrics.

        Args:
            model: batch → logits [N, V] at the N label positions, row by row.
            batch: what `corrupt` made, as tensors.
        """
        ...


Factory = Callable[[ObjectiveConfig, PreTrainedTokenizerFast, int], Objective]
"""(settings, tokenizer, tokens per row) → objective."""


class _Objectives(Registry[Factory]):
    def __getitem__(self, name: str) -> Factory:
        # Each file of the folder registers its own when it is imported.
        for module in pkgutil.iter_modules(objectives.__path__, f"{objectives.__name__}."):
            importlib.import_module(module.name)
        return super().__getitem__(name)


OBJECTIVES = _Objectives("objective", key="objective.name")


def rate_at(rate: float | Ramp, step: int) -> float:
    """The value of a constant or a ramp at an optimizer step."""
    if isinstance(rate, Ramp):
        return rate.start + (rate.end - rate.start) * min(step / rate.steps, 1.0)
    return rate
