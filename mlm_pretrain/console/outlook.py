"""How long a command of several stages will take: what the stage in progress says, and what is expected of others."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping


class Outlook:
    """Time left over all stages.

    Args:
        expected: seconds of each stage in order; None if they aren't known.
        clock: seconds.
    """

    def __init__(self, expected: Mapping[str, float | None], clock: Callable[[], float] = time.monotonic) -> None:
        self._to_come = dict(expected)
        self._clock = clock
        self.took: dict[str, float] = {}
        """Seconds of the stages that are over."""
        self._ends: float | None = None

    @contextlib.contextmanager
    def stage(self, stage: str) -> Iterator[None]:
        """A stage is done in here; those before it are over, or were skipped."""
        if stage not in self._to_come:
            yield
            return
        began, names = self._clock(), list(self._to_come)
        self.stage_left(self._to_come[stage])
        self._to_come = {name: self._to_come[name] for name in names[names.index(stage) + 1 :]}
        yield
        self.took[stage] = self._clock() - began
        self.stage_left(0.0)

    def stage_left(self, seconds: float | None) -> None:
        """What the stage in progress has left, as it says itself."""
        self._ends = None if seconds is None else self._clock() + seconds

    @property
    def seconds(self) -> float | None:
        """Left in all; None if that isn't known."""
        left, unknown = self._left()
        return left if left is not None and not unknown else None

    def words(self) -> str:
        """As "about 4 min left in all", or "about 2 min left, 2 stages to come" if nothing is known of later stages;
        empty if nothing is known of this one."""
        left, unknown = self._left()
        if left is None:
            return ""
        how_long = f"about {left / 60:.0f} min" if left >= 90 else f"about {round(left, -1):.0f} s"
        how_long = how_long if left >= 15 else "a few seconds"
        if unknown:
            return f"{how_long} left, {len(unknown)} stage{'s' if len(unknown) > 1 else ''} to come"
        return f"{how_long} left in all"

    def _left(self) -> tuple[float | None, list[str]]:
        """Seconds of this stage and of those that are known, and the names of the others."""
        unknown = [name for name, seconds in self._to_come.items() if seconds is None]
        if self._ends is None:
            return None, unknown
        known = sum(seconds for seconds in self._to_come.values() if seconds is not None)
        return max(self._ends - self._clock(), 0.0) + known, unknown


_current: list[Outlook] = []


@contextlib.contextmanager
def looking_ahead(expected: Mapping[str, float | None]) -> Iterator[Outlook]:
    """Progress in here says how long all of it will take yet."""
    outlook = Outlook(expected)
    _current.append(outlook)
    try:
        yield outlook
    finally:
        _current.remove(outlook)


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """See `Outlook.stage`."""
    with whole.stage(name) if (whole := current()) else contextlib.nullcontext():
        yield


def current() -> Outlook | None:
    return _current[-1] if _current else None


def stage_left(seconds: float | None) -> None:
    """What the stage in progress has left."""
    if outlook := current():
        outlook.stage_left(seconds)
