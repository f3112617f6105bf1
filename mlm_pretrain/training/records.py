"""What a run records: `metrics.jsonl`, trackers, the progress bar; without waiting for the device in between.

The steps since the last record keep their sums on the device. They are read all at once, added up over the
processes, and looked at for losses that are bad, each by itself: nothing is saved that has not been recorded.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator

from mlm_pretrain.console import telemetry
from mlm_pretrain.hardware.energy import Energy
from mlm_pretrain.runtime.bad_loss import PretrainingGuard, StepDone
from mlm_pretrain.runtime.processes import Processes
from mlm_pretrain.runtime.trackers import numbers
from mlm_pretrain.stream.loader import merge_counts
from mlm_pretrain.training.resume import Progress
from mlm_pretrain.training.utilisation import Utilisation

Counts = dict[str, dict[str, Any]]


class Records:
    """The steps since the last record, and where records go.

    Args:
        guard: raises where a step's loss is bad.
        utilisation: of the devices.
    """

    def __init__(
        self,
        log: telemetry.MetricsLog,
        accelerator: Accelerator,
        processes: Processes,
        guard: PretrainingGuard,
        utilisation: Utilisation,
    ) -> None:
        self._log = log
        self._accelerator = accelerator
        self._processes = processes
        self._guard = guard
        self._utilisation = utilisation
        self.energy = Energy(log)
        self.step_seconds = 0.0
        """Seconds a step, over the steps since the last record."""
        self._begin()

    def _begin(self) -> None:
        self._started = self._asked = time.monotonic()
        self._waited = 0.0
        self._steps: list[StepDone] = []
        self._count = 0
        self._tokens = 0

    @property
    def pending(self) -> bool:
        """Whether there was a step since the last record."""
        return self._count > 0

    def batch_came(self) -> None:
        self._waited += time.monotonic() - self._asked

    def step_done(self, step: StepDone | None, tokens: int) -> None:
        """A step is done, and the next batch is asked for.

        Args:
            step: None if it was left out.
            tokens: of all processes.
        """
        if step is not None:
            self._steps.append(step)
        self._count += 1
        self._tokens += tokens
        self._asked = time.monotonic()
        self.step_seconds = (self._asked - self._started) / self._count

    def write(self, progress: Progress, learning_rate: float, counts: Counts, bar: Any) -> None:
        """Record the means since the last record: their numbers are fetched from the device here.

        Args:
            counts: by source, of this process's lanes.

        Raises:
            UserError: a loss or gradient was bad.
        """
        figures = self._read(counts)
        speed = figures["tokens_per_second"]
        mfu = self._utilisation.of(speed, progress.seconds) if self._processes.rank == 0 else None
        record = {
            **figures,
            **({"mfu": round(mfu, 4)} if mfu is not None else {}),
            "learning_rate": learning_rate,
            "tokens": progress.tokens,
            "seconds": round(progress.seconds, 3),
            **({"skipped_steps": progress.skipped_steps} if progress.skipped_steps else {}),
            **self.energy.reading(),
        }
        self.note(progress.step, record)
        loss = f"loss {figures['loss']:.3f}, " if "loss" in figures else ""
        bar.set_postfix_str(f"step {progress.step:,}, {loss}{speed:,.0f} tokens/s", refresh=False)

    def note(self, step: int, record: dict[str, Any]) -> None:
        """Write a record as it is; trackers get its numbers."""
        self._log.write({"step": step, **record})
        self._accelerator.log(numbers(record), step=step)

    def _read(self, counts: Counts) -> dict[str, Any]:
        """Means over the labels and seconds since the last record: loss (nats), accuracy, tokens_per_second (real
        tokens), data_wait (share of the time), grad_norm (of the last step), epoch and tokens by source."""
        steps = self._steps
        names = sorted(steps[0].loss.metrics) if steps else []
        sums, norms = _to_host(steps, names)
        # Read after the device has answered: the steps' own time is in it.
        seconds = max(time.monotonic() - self._started, 1e-9)
        parts = self._processes.gather({"sums": sums, "counts": counts})
        # Of each figure, step by step: over all processes.
        sums = [
            [sum(values) for values in zip(*columns, strict=True)]
            for columns in zip(*(part["sums"] for part in parts), strict=True)
        ]
        sources = merge_counts(part["counts"] for part in parts)
        figures: dict[str, Any] = {}
        if steps:
            self._guard.check(steps, sums[0], norms)
            labels = max(sum(step.loss.count for step in steps), 1)
            means = {name: sum(column) / labels for name, column in zip(["loss", *names], sums, strict=True)}
            figures = {
                "loss": means.pop("loss"),
                **({"accuracy": means.pop("correct")} if "correct" in means else {}),
                **means,
                "grad_norm": norms[-1],
            }
        figures |= {
            "tokens_per_second": round(self._tokens / seconds, 1),
            "data_wait": round(self._waited / seconds, 4),
            "sources": {
                name: {"tokens": source["tokens"], "epoch": source["epoch"]} for name, source in sources.items()
            },
        }
        self._begin()
        return figures


def _to_host(steps: Sequence[StepDone], names: Sequence[str]) -> tuple[list[list[float]], list[float]]:
    """The steps' summed losses and metrics, each a list by step, and their gradient norms; one wait for the device."""
    if not steps:
        return [], []
    columns = [
        [step.loss.sum for step in steps],
        *([step.loss.metrics[name] for step in steps] for name in names),
        [step.norm for step in steps],
    ]
    *sums, norms = torch.stack([torch.stack(column).double() for column in columns]).tolist()
    return sums, norms
