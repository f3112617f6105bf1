"""What would ruin a training: a loss, gradient or weight that is not finite, or a loss far above guessing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from mlm_pretrain.config import TrainingConfig
from mlm_pretrain.config.batch_size import BatchSize
from mlm_pretrain.console import telemetry
from mlm_pretrain.errors import UserError
from mlm_pretrain.runtime.loss import GlobalLoss
from mlm_pretrain.runtime.processes import Processes

MOST_IN_A_ROW = 10


class Diverged(UserError):
    """A training has come to something that is not finite; nothing of that is kept."""


def highest_loss(vocabulary: int) -> float:
    """Nats a masked token: three times what guessing among so many tokens gives."""
    return 3 * math.log(vocabulary)


@dataclass(frozen=True)
class StepDone:
    """One step; tensors stay on the device until they are recorded."""

    step: int
    """Its number, from 1."""
    loss: GlobalLoss
    norm: Tensor
    """Of the gradients, before clipping."""
    sources: list[int] = field(default_factory=list)
    """Numbers of the sources that this process's rows are from."""


class Guard:
    """Stops a training at a bad loss, gradient or weight.

    Args:
        remedy: what the user can do.
        name: of the training.
        scaled: whether gradients are scaled (fp16): one that is not finite is then the scaler's to skip.
        max_loss: a loss above it is bad too.
    """

    def __init__(self, remedy: str, name: str = "", scaled: bool = False, max_loss: float = math.inf) -> None:
        self.remedy = remedy
        self._name = f"{name}: " if name else ""
        self._scaled = scaled
        self._max_loss = max_loss

    def check(self, steps: Sequence[StepDone], sums: Sequence[float], norms: Sequence[float]) -> None:
        """
        Args:
            sums: the steps' losses, summed over all processes.
            norms: the steps' gradient norms.

        Raises:
            Diverged: one is bad; names the first. All processes raise it.
        """
        for step, total, norm in zip(steps, sums, norms, strict=True):
            loss = total / max(step.loss.count, 1)
            if self._is_bad(loss, norm):
                raise Diverged(f"{self._name}{self._describe(step, loss, norm)}; {self.remedy}")

    def check_weights(self, model: nn.Module, step: int) -> None:
        """
        Raises:
            Diverged: a weight is not finite after this step.
        """
        if name := first_not_finite(model.named_parameters()):
            raise Diverged(f"{self._name}the weights {name} are not finite after step {step}; {self.remedy}")

    def _is_bad(self, loss: float, norm: float) -> bool:
        return not math.isfinite(loss) or loss > self._max_loss or not (self._scaled or math.isfinite(norm))

    def _describe(self, step: StepDone, loss: float, norm: float) -> str:
        if math.isfinite(loss) and loss > self._max_loss:
            what = f"the loss is {loss:.4g}, above training.max_loss ({self._max_loss:.4g}),"
        else:
            what = f"the loss or its gradient is not finite (loss {loss:.4g}, gradient norm {norm:.4g})"
        return f"{what} at step {step.step}"


class PretrainingGuard(Guard):
    """Stops a run at a bad loss, naming the rows of the step, or has the step left out.

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
        super().__init__(
            "set training.on_bad_loss to skip to leave such steps out, or begin another run (run.name) with a lower "
            f"training.learning_rate; the checkpoints in {checkpoints} are from before",
            scaled=scaled,
            max_loss=settings.max_loss or highest_loss(vocabulary),
        )
        self.skips = settings.on_bad_loss == "skip"
        self._batch_size = BatchSize(settings.global_batch_size)
        self._names = names
        self._checkpoints = checkpoints
        self._processes = processes
        self._in_a_row = 0

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

    def _describe(self, step: StepDone, loss: float, norm: float) -> str:
        parts = self._processes.gather(step.sources)
        names = [self._names[number] for number in sorted({number for part in parts for number in part})]
        first, end = (self._batch_size.rows_before(number) for number in (step.step - 1, step.step))
        rows = f"rows {first}–{end - 1} of the run, of {', '.join(names)}"
        return f"{super()._describe(step, loss, norm)} ({rows})"


def first_not_finite(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """The name of the first tensor that holds a number which is not finite; waits once for the device."""
    named = [(name, tensor) for name, tensor in tensors if tensor.is_floating_point() and tensor.numel()]
    if not named:
        return None
    with torch.no_grad():
        good = torch.stack([tensor.isfinite().all().to(named[0][1].device) for _, tensor in named]).tolist()
    return next((name for (name, _), is_good in zip(named, good, strict=True) if not is_good), None)


def first_not_finite_in(folder: Path) -> str | None:
    """The file and the name of the first weights in a folder that are not finite."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 (no mapping)
                if first_not_finite([(name, weights.get_tensor(name))]):
                    return f"{name} of {file.name}"
    return None
