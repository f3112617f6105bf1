"""Progress with stage, speed and time left: a bar, whole lines, or JSON, as `telemetry.log_format` says."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from tqdm.auto import tqdm

from mlm_pretrain import escaping
from mlm_pretrain.io.plain_json import finite
from mlm_pretrain.telemetry import Console, is_rank_zero, log_format

BAR = "{desc:<22} {percentage:3.0f}%|{bar:24}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
BAR_WITHOUT_RATE = "{desc:<22} {percentage:3.0f}%|{bar:24}| [{elapsed}<{remaining}{postfix}]"
# The same without what only a terminal shows well.
LINE = "{desc}: {percentage:.0f}%, {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
LINE_WITHOUT_RATE = "{desc}: {percentage:.0f}% [{elapsed}<{remaining}{postfix}]"
SECONDS_PER_LINE = 10.0


class _Lines(tqdm):
    """Progress as whole lines, for files, pipes and CI: none at the start, one every so often, one at the end.

    Progress inside another's has a last line only where it has had one before.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._is_shown = False
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
        if msg is None:
            self._is_shown = True
            self.sp(self._line())

    def _line(self) -> str:
        return str(self)

    def clear(self, nolock: bool = False) -> None:
        """What is written stays."""

    def close(self) -> None:
        if not self.disable:
            if self._is_shown or not self.pos:
                self.display()
            self.sp = lambda line: None
        super().close()


class _JsonLines(_Lines):
    """Progress as JSON: `stage`, `done` of `total` in `unit`s, `seconds`, and what the caller shows beside (`note`)."""

    def _line(self) -> str:
        values = self.format_dict
        done, seconds = round(values["n"], 4), round(values["elapsed"], 3)
        line = {"stage": self.desc, "done": done, "total": values["total"], "unit": values["unit"], "seconds": seconds}
        note = {"note": values["postfix"]} if values["postfix"] else {}
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
        scale: whether numbers are shown as 1.2k, 3.4M.
        rate: whether to show units per second; without it, the caller shows a speed in the postfix.
    """
    kind, description = log_format(), escaping.visible(description)
    common: dict[str, Any] = {
        "total": total,
        "unit": unit,
        "unit_scale": scale,
        "initial": initial,
        "disable": not is_rank_zero(),
        "file": Console(sys.stderr),
    }
    if kind != "bars":
        line = None if total is None else LINE if rate else LINE_WITHOUT_RATE
        lines = _JsonLines if kind == "json" else _Lines
        pause = {"mininterval": SECONDS_PER_LINE, "maxinterval": 3 * SECONDS_PER_LINE}
        return lines(desc=description, bar_format=line, **common, **pause)
    # A pseudo-terminal may say that it is 0 columns wide.
    sized = os.get_terminal_size(sys.stderr.fileno()).columns > 0
    return tqdm(
        desc=description,
        bar_format=None if total is None else BAR if rate else BAR_WITHOUT_RATE,
        ncols=None if sized else 130,
        nrows=None if sized else 20,
        dynamic_ncols=sized,
        mininterval=0.2,
        maxinterval=1.0,
        leave=None,  # bars inside another leave nothing behind
        **common,
    )
