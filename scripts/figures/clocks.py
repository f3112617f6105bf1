"""Clocks that tell a training loop, ours or another, when to stop."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from figures.session import Rounds

WARMUP_STEPS = 2
"""Steps before the first that is timed: the first allocates and compiles, the second has an optimizer's state."""
RESUME_STEPS = 17 if torch.cuda.is_available() else 1
"""Steps after a pause that aren't timed: beside a GPU, loader workers have filled their queues meanwhile."""


class Clock(Protocol):
    """What tells a loop when to stop."""

    def tick(self, tokens: Any) -> None:
        """A step over so many real tokens begins; a number, or a tensor that nobody waits for yet."""

    def is_over(self) -> bool:
        """Whether no further step is wanted."""


@dataclass(frozen=True)
class Speed:
    """Of a loop, in one round."""

    tokens_per_second: float
    """Real tokens."""
    step_seconds: float
    facts: dict[str, Any]
    """What the loop says of itself."""


class Stopwatch:
    """Times a loop in rounds; between them, the loop waits within `tick`.

    The first result comes after the warm-up steps and one step more; it says how long steps are, roughly.

    Args:
        facts: go with every result.
    """

    def __init__(self, rounds: Rounds, **facts: Any) -> None:
        self._rounds = rounds
        self._facts = facts
        self._seconds: float | None = 0.0
        self._left_out = WARMUP_STEPS
        self._began: float | None = None
        self._steps = 0
        self._tokens: Any = 0

    def tick(self, tokens: Any) -> None:
        if self._seconds is None:
            return
        if self._began is not None and self._steps and time.perf_counter() - self._began >= self._seconds:
            self._end_round()
        if self._left_out:
            self._left_out -= 1
            return
        if self._began is None:
            self._began = _now()
        self._steps += 1
        self._tokens += tokens

    def _end_round(self) -> None:
        assert self._began is not None
        seconds = _now() - self._began
        speed = Speed(float(self._tokens) / seconds, seconds / self._steps, self._facts)
        self._seconds = self._rounds.next(speed)
        self._left_out = RESUME_STEPS
        self._began, self._steps, self._tokens = None, 0, 0

    def is_over(self) -> bool:
        return self._seconds is None


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
