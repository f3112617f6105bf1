"""The time that a figure may take, and what it went into."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from mlm_pretrain.console import telemetry

Result = TypeVar("Result")
ROUNDS = 5
"""So many are aimed at when a round's length can be chosen."""
LEAST_SECONDS, MOST_SECONDS = 1.0, 20.0
"""Of what a system is timed for in a round."""


class Budget:
    """Seconds from now, for everything that a figure does: preparation, compiling, and as many rounds as fit.

    Args:
        seconds: how many there are.
        now: a clock, in seconds.
    """

    def __init__(self, seconds: float, now: Callable[[], float] = time.perf_counter) -> None:
        self.seconds = seconds
        self.rounds = 0
        """Full rounds of the last `in_turn`."""
        self._now = now
        self._began = now()
        self._spent: dict[str, list[float]] = {}

    def left(self) -> float:
        """Seconds; never below zero."""
        return max(self.seconds - self.elapsed(), 0.0)

    def elapsed(self) -> float:
        """Seconds."""
        return self._now() - self._began

    @contextlib.contextmanager
    def spending(self, on: str) -> Iterator[None]:
        """Note what the time within goes into, and say that it begins."""
        telemetry.say(f"{self.elapsed():.0f} s: {on}")
        with self._noting(on):
            yield

    @contextlib.contextmanager
    def _noting(self, on: str) -> Iterator[None]:
        began = self._now()
        try:
            yield
        finally:
            self._spent.setdefault(on, []).append(self._now() - began)

    def in_turn(
        self, systems: Mapping[str, Callable[[int], Result]], share: float = 1.0, most: int = 1000
    ) -> dict[str, list[Result]]:
        """What each system gives, round by round; one round at least, then such as fit into the time left.

        Args:
            systems: each is called with the number of the round, from 0 on.
            share: of the time left now, what the rounds may take.
            most: rounds.

        Example:
            >>> found = Budget(seconds=0).in_turn({"ours": lambda number: 2.0, "theirs": lambda number: 1.0})
            >>> found
            {'ours': [2.0], 'theirs': [1.0]}
        """
        found: dict[str, list[Result]] = {name: [] for name in systems}
        end = self.elapsed() + share * self.left()
        longest = 0.0
        self.rounds = 0
        while self.rounds < most and (not self.rounds or self.elapsed() + longest <= end):
            began = self.elapsed()
            for name, system in systems.items():
                with self._noting(f"rounds: {name}"):
                    found[name].append(system(self.rounds))
            longest = max(longest, self.elapsed() - began)
            self.rounds += 1
        telemetry.say(
            f"{self.elapsed():.0f} s: {self.rounds} round{'s' if self.rounds > 1 else ''} of {', '.join(systems)}"
        )
        return found

    def window(self, systems: int, idle: float = 0.0) -> float:
        """Seconds for which each of so many systems may be timed in a round, so that `ROUNDS` rounds fit if they can.

        Args:
            idle: what a round takes beside what is timed, in seconds.
        """
        return min(max((self.left() / ROUNDS - idle) / systems, LEAST_SECONDS), MOST_SECONDS)

    def table(self) -> str:
        """What the time went into, the most first."""
        spent = {on: sum(times) for on, times in self._spent.items()}
        rows = [
            (on, f"{seconds:.1f}", f"{len(self._spent[on])}")
            for on, seconds in sorted(spent.items(), key=lambda item: -item[1])
        ]
        rest = self.elapsed() - sum(spent.values())
        rows += [("everything else", f"{rest:.1f}", ""), ("together", f"{self.elapsed():.1f}", "")]
        return telemetry.table(rows, ("time went into", "seconds", "times"))

    def spent(self) -> dict[str, float]:
        """Seconds by what they went into."""
        return {on: round(sum(times), 3) for on, times in self._spent.items()}
