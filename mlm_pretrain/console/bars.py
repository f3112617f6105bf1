"""What is being done, with speed and time left: bars, whole lines, or JSON, as `telemetry.log_format` says."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from tqdm.auto import tqdm

from mlm_pretrain import escaping
from mlm_pretrain.console import outlook, spent
from mlm_pretrain.console.telemetry import Console, emit, is_rank_zero, log_format
from mlm_pretrain.io.plain_json import finite

BAR = "{desc:<22} {percentage:3.0f}%|{bar:16}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]{in_all}"
BAR_WITHOUT_RATE = "{desc:<22} {percentage:3.0f}%|{bar:16}| [{elapsed}<{remaining}{postfix}]{in_all}"
COUNT = "{desc:<22} {n_fmt}{unit} [{elapsed}, {rate_fmt}{postfix}]{in_all}"
# The same without what only a terminal shows well.
LINE = "{desc}: {percentage:.0f}%, {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]{in_all}"
LINE_WITHOUT_RATE = "{desc}: {percentage:.0f}% [{elapsed}<{remaining}{postfix}]{in_all}"
LINE_COUNT = "{desc}: {n_fmt}{unit} [{elapsed}, {rate_fmt}{postfix}]{in_all}"
SECONDS_PER_LINE = 10.0
SCALED = 10_000
"""Smaller totals are shown as they are."""


class _Bar(tqdm):
    """Progress that also says how long the whole command will take yet."""

    @property
    def format_dict(self) -> dict[str, Any]:
        return {**super().format_dict, "in_all": _in_all()}


def _in_all(separator: str = "; ") -> str:
    """The time left in all, where it is known."""
    whole = outlook.current()
    words = whole.words() if whole else ""
    return f"{separator}{words}" if words else ""


def _left_in_all() -> dict[str, float]:
    """The same for JSON: seconds."""
    whole = outlook.current()
    seconds = whole.seconds if whole else None
    return {} if seconds is None else {"left_in_all": round(seconds, 1)}


_shown: list[tqdm[Any]] = []
"""The line that says what is being done, on a terminal; there is one at most."""


@contextlib.contextmanager
def doing(what: str, activity: str | None = None) -> Iterator[None]:
    """Say what is being done, and count its seconds; a line outside a terminal is only for what no bar is about.

    Args:
        activity: under which they are counted (`spent.on`), by default `what`.
    """
    with spent.on(activity or what):
        if not is_rank_zero():
            yield
        elif log_format() == "bars":
            with _line(what):
                yield
        else:
            _announce(what)
            yield


def _announce(what: str) -> None:
    if log_format() == "json":
        emit("doing", what=what, **_left_in_all())
    elif not getattr(tqdm, "_instances", ()):
        console = Console(sys.stderr)
        console.write(f"{what}{_in_all()}\n")
        console.flush()


@contextlib.contextmanager
def _line(what: str) -> Iterator[None]:
    """A line that is gone after it; the innermost is shown."""
    if _shown:
        line, before = _shown[-1], _shown[-1].desc
        line.set_description_str(what)
        try:
            yield
        finally:
            line.set_description_str(before)
        return
    line = _Bar(desc=what, bar_format="{desc} …{in_all}", leave=False, file=Console(sys.stderr), **_width())
    _shown.append(line)
    try:
        yield
    finally:
        _shown.remove(line)
        line.close()


class _Lines(_Bar):
    """Progress as whole lines, for files, pipes and CI: none at the start, one every so often, one at the end.

    Progress inside another's has a last line only where it has had one before.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._last: Any = None
        # Nothing is shown before the delay, which passes at once.
        super().__init__(*args, **(kwargs | {"delay": 1e-9, "leave": False}))

    @staticmethod
    def status_printer(file: Any) -> Callable[[str], None]:
        def write(line: str) -> None:
            if line:
                file.write(line + "\n")
                file.flush()

        return write

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        if msg is None and (shown := (self.n, self.postfix)) != self._last:
            self._last = shown
            self.sp(self._line())

    def _line(self) -> str:
        return str(self)

    def clear(self, nolock: bool = False) -> None:
        """What is written stays."""

    def close(self) -> None:
        if not self.disable:
            if self._last or not self.pos:
                self.display()
            self.sp = lambda line: None
        super().close()


class _JsonLines(_Lines):
    """Progress as JSON: `stage`, `done` of `total` in `unit`s, `seconds`, and what the caller shows beside (`note`)."""

    def _line(self) -> str:
        values = self.format_dict
        done, seconds = round(values["n"], 4), round(values["elapsed"], 3)
        line = {
            "stage": self.desc,
            "done": done,
            "total": values["total"],
            "unit": values["unit"].strip(),
            "seconds": seconds,
        }
        note = {"note": values["postfix"]} if values["postfix"] else {}
        note |= _left_in_all()
        record = {"event": "progress", "time": round(time.time(), 3), **line, **note}
        return escaping.json_line(finite(record), sys.stderr)


def progress(
    total: float | None,
    description: str,
    unit: str = "it",
    initial: float = 0,
    scale: bool = True,
    rate: bool = True,
) -> tqdm[Any]:
    """Progress with stage, speed and time left: a bar on a terminal, elsewhere a line every ten seconds and at the end.

    Args:
        total: what `n` will be at the end; None if it isn't known.
        scale: whether large numbers are shown as 12.3k, 3.4M.
        rate: whether to show units per second; without it, the caller shows a speed in the postfix.
    """
    kind, description = log_format(), escaping.visible(description)
    common: dict[str, Any] = {
        "total": total,
        "unit": unit if unit == "B" else f" {unit.strip()}",
        "unit_scale": scale and (total is None or total >= SCALED),
        "initial": initial,
        "disable": not is_rank_zero(),
        "file": Console(sys.stderr),
    }
    if kind != "bars":
        line = LINE_COUNT if total is None else LINE if rate else LINE_WITHOUT_RATE
        lines = _JsonLines if kind == "json" else _Lines
        pause = {"mininterval": SECONDS_PER_LINE, "maxinterval": 3 * SECONDS_PER_LINE}
        return lines(desc=description, bar_format=line, **common, **pause)
    return _Bar(
        desc=description,
        bar_format=COUNT if total is None else BAR if rate else BAR_WITHOUT_RATE,
        mininterval=0.2,
        maxinterval=1.0,
        leave=None,  # bars inside another leave nothing
        **_width(),
        **common,
    )


def _width() -> dict[str, Any]:
    # A pseudo-terminal may say that it is 0 columns wide.
    sized = os.get_terminal_size(sys.stderr.fileno()).columns > 0
    return {"ncols": None if sized else 130, "nrows": None if sized else 20, "dynamic_ncols": sized}
