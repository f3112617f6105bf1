"""Losses that would ruin a run: not finite, or far above what guessing gives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from mlm_pretrain import telemetry
from mlm_pretrain.config import TrainingConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.stream.batch_size import BatchSize
from mlm_pretrain.training.loss import GlobalLoss
from mlm_pretrain.training.processes import Processes

MOST_IN_A_ROW = 10


@dataclass(frozen=True)
class StepDone:
    """One step; tensors stay on the device until they are recorded."""

    step: int
    """Its number, from 1."""
    loss: GlobalLoss
    norm: Tensor
    """Of the gradients, before clipping."""
    sources: list[int]
    """Numbers of the sources that this process's rows are from."""


class Guard:
    """Stops a run at a bad loss, or has the step left out.

    Args:
        settings: `on_bad_loss`, `max_loss`, and how many rows a step has.
        vocabulary: number of tokens.
        names: the sources' names.
        checkpoints: where those from before the bad step are.
        scaled: whether gradients are scaled (fp16): one that is not finite is then the scaler's to skip.
    """

    def __init__(
        self,
        settings: TrainingConfig,
        vocabulary: int,
        names: Sequence[str],
        checkpoints: Path,
        processes: Processes,
        scaled: bool,
    ) -> None:
        self.skips = settings.on_bad_loss == "skip"
        self._batch_size = BatchSize(settings.global_batch_size)
        self._max_loss = settings.max_loss or 3 * math.log(vocabulary)
        self._names = names
        self._checkpoints = checkpoints
        self._processes = processes
        self._scaled = scaled
        self._in_a_row = 0

    def check(self, steps: Sequence[StepDone], sums: Sequence[float], norms: Sequence[float]) -> None:
        """
        Args:
            sums: the steps' losses, summed over all processes.
            norms: the steps' gradient norms.

        Raises:
            UserError: one is bad; names the first. All processes raise it.
        """
        for step, total, norm in zip(steps, sums, norms, strict=True):
            loss = total / max(step.loss.count, 1)
            if self._is_bad(loss, norm):
                raise UserError(
                    f"{self._describe(step, loss, norm)}; set training.on_bad_loss to skip to leave such steps out, or "
                    "begin another run (run.name) with a lower training.learning_rate; the checkpoints in "
                    f"{self._checkpoints} are from before"
                )

    def is_left_out(self, step: StepDone) -> bool:
        """Decide on a step before it is taken, the same on all processes; waits for the device.

        Raises:
            UserError: ten in a row are bad.
        """
        total, norm = self._processes.sum([float(step.loss.sum), float(step.norm) / self._processes.world_size])
        loss = total / max(step.loss.count, 1)
        if not self._is_bad(loss, norm):
            self._in_a_row = 0
            return False
        self._in_a_row += 1
        said = self._describe(step, loss, norm)
        if self._in_a_row == MOST_IN_A_ROW:
            raise UserError(
                f"{said}, as in the {MOST_IN_A_ROW - 1} steps before, all left out; begin another run (run.name) with "
                f"a lower training.learning_rate; the checkpoints in {self._checkpoints} have none of these steps"
            )
        telemetry.warn(f"{said}: left out")
        return True

    def _is_bad(self, loss: float, norm: float) -> bool:
        return not loss <= self._max_loss or not (self._scaled or math.isfinite(norm))

    def _describe(self, step: StepDone, loss: float, norm: float) -> str:
        parts = self._processes.gather(step.sources)
        names = [self._names[number] for number in sorted({number for part in parts for number in part})]
        first, end = (self._batch_size.rows_before(number) for number in (step.step - 1, step.step))
        if math.isfinite(loss) and not loss <= self._max_loss:
            what = f"the loss is {loss:.4g}, above training.max_loss ({self._max_loss:.4g}),"
        else:
            what = f"the loss or its gradient is not finite (loss {loss:.4g}, gradient norm {norm:.4g})"
        return f"{what} at step {step.step} (rows {first}–{end - 1} of the run, of {', '.join(names)})"
