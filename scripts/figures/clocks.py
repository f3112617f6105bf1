"""Clocks that tell a training loop, ours or another, when to stop."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from mlm_pretrain.errors import UserError

WARMUP_STEPS = 5
"""Steps that the stopwatch leaves out."""


class Clock(Protocol):
    """What tells a loop when to stop."""

    def tick(self, tokens: Any) -> None:
        """A step over so many real tokens begins; a number, or a tensor that nobody waits for yet."""

    def is_over(self) -> bool:
        """Whether no further step is wanted."""


@dataclass
class Stopwatch:
    """Real tokens a second over so many seconds, counted from the end of the warm-up steps."""

    seconds: float
    steps: int = 0
    began: float = 0.0
    ended: float = 0.0
    tokens: Any = 0
    _current: Any = 0

    def tick(self, tokens: Any) -> None:
        self.steps += 1
        if self.ended:
            return
        if self.steps == WARMUP_STEPS + 1:
            self.began = _now()
        elif self.steps > WARMUP_STEPS + 1:
            self.tokens += self._current
            if time.perf_counter() - self.began >= self.seconds:
                self.ended = _now()
        self._current = tokens

    def is_over(self) -> bool:
        return bool(self.ended)

    @property
    def timed_steps(self) -> int:
        return max(self.steps - WARMUP_STEPS - 1, 0)

    def tokens_per_second(self) -> float:
        """
        Raises:
            UserError: the loop ended before the time was over.
        """
        if not self.ended:
            raise UserError(f"the text or the steps were at their end after {self.steps} steps; give more --data")
        return float(self.tokens) / (self.ended - self.began)


@dataclass
class Deadline:
    """So many seconds from now, whatever they are spent on."""

    seconds: float
    steps: int = 0
    began: float = field(default_factory=time.perf_counter)
    _first: float = 0.0

    def tick(self, tokens: Any) -> None:
        self.steps += 1
        self._first = self._first or time.perf_counter()

    def left(self) -> float:
        """Seconds."""
        return self.seconds - (time.perf_counter() - self.began)

    def is_over(self) -> bool:
        """Whether half a step wouldn't fit any more; our own budget in minutes ends likewise."""
        step_seconds = (time.perf_counter() - self._first) / self.steps if self.steps else 0.0
        return self.left() <= 0.5 * step_seconds


def _now() -> float:
    """The time at which the device has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
