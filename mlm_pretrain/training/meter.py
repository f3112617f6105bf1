"""The means of a few steps, without waiting for the device in between."""

from __future__ import annotations

import time

from mlm_pretrain.training.loss import GlobalLoss


class Meter:
    """Sums over the steps since the last record: losses (left on the device), tokens, seconds, seconds of waiting."""

    def __init__(self) -> None:
        self.step_seconds = 0.0
        """Seconds a step, over the steps since the last record."""
        self._begin()

    def _begin(self) -> None:
        self._started = self._asked = time.monotonic()
        self._waited = 0.0
        self._losses: list[GlobalLoss] = []
        self._tokens = 0

    @property
    def steps(self) -> int:
        """Steps since the last record."""
        return len(self._losses)

    def batch_came(self) -> None:
        self._waited += time.monotonic() - self._asked

    def step_done(self, loss: GlobalLoss, tokens: int) -> None:
        """A step is done, and the next batch is asked for."""
        self._losses.append(loss)
        self._tokens += tokens
        self._asked = time.monotonic()
        self.step_seconds = (self._asked - self._started) / len(self._losses)

    def read(self) -> dict[str, float]:
        """Means over the labels and seconds since the last reading: loss (nats), accuracy, tokens_per_second (real
        tokens), data_wait (share of the time)."""
        count = max(sum(loss.count for loss in self._losses), 1)
        sums = {name: sum(loss.metrics[name] for loss in self._losses) for name in self._losses[0].metrics}
        means = {name: float(value) / count for name, value in sums.items()}
        mean_loss = float(sum(loss.sum for loss in self._losses)) / count
        # Read after the device has answered: the steps' own time is in it.
        seconds = max(time.monotonic() - self._started, 1e-9)
        figures = {
            "loss": mean_loss,
            **({"accuracy": means.pop("correct")} if "correct" in means else {}),
            **means,
            "tokens_per_second": round(self._tokens / seconds, 1),
            "data_wait": round(self._waited / seconds, 4),
        }
        self._begin()
        return figures
