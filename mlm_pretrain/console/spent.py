"""Where the time goes: seconds by activity. Each moment counts for the innermost activity, so that they add up.

with counting() as spent:
    with on("reading text"):
        ...
spent.seconds  # {"reading text": 12.3, "other": 0.4}
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

OTHER, LOADING = "other", "loading libraries"


class Spent:
    """Seconds by activity since it was made; what has no name is `OTHER`.

    Args:
        clock: seconds.
        began: by that clock, if it was before; the time since is that of `LOADING`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, began: float | None = None) -> None:
        self._clock = clock
        self._stack = [OTHER]
        self._since = clock()
        self._seconds: dict[str, float] = {} if began is None else {LOADING: self._since - began}

    @property
    def seconds(self) -> dict[str, float]:
        """Up to now, in the order of the first ends."""
        self._add()
        return dict(self._seconds)

    @contextlib.contextmanager
    def on(self, activity: str) -> Iterator[None]:
        self._add()
        self._stack.append(activity)
        try:
            yield
        finally:
            self._add()
            self._stack.pop()

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """What happens in here is counted elsewhere."""
        self._add()
        try:
            yield
        finally:
            self._since = self._clock()

    def _add(self) -> None:
        now, activity = self._clock(), self._stack[-1]
        self._seconds[activity] = self._seconds.get(activity, 0.0) + now - self._since
        self._since = now


_counting: list[Spent] = []


@contextlib.contextmanager
def counting(began: float | None = None) -> Iterator[Spent]:
    """Count what is done in here, and not for those who count around it.

    Args:
        began: by `time.monotonic`, if it was before.
    """
    spent = Spent(began=began)
    with _counting[-1].stopped() if _counting else contextlib.nullcontext():
        _counting.append(spent)
        try:
            yield spent
        finally:
            _counting.remove(spent)


@contextlib.contextmanager
def on(activity: str) -> Iterator[None]:
    """Name what is done in here, for who counts; of this process's main thread."""
    if _counting:
        with _counting[-1].on(activity):
            yield
    else:
        yield
