"""What a run says: progress bars, lines, tables, and `metrics.jsonl`. Only rank zero speaks.

Progress and lines go to stderr; results that a user may pipe on go to stdout.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

from tqdm.auto import tqdm

BAR = "{desc:<22} {percentage:3.0f}%|{bar:24}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
BAR_WITHOUT_RATE = "{desc:<22} {percentage:3.0f}%|{bar:24}| [{elapsed}<{remaining}{postfix}]"


def is_rank_zero() -> bool:
    """Whether this process is the one that speaks and writes; known before torch.distributed is set up."""
    return int(os.environ.get("RANK", "0")) == 0


def world_size() -> int:
    """How many processes the launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


class _Console:
    """A stream that may go away: a run whose terminal or pipe is closed goes on, or saves, in silence."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


def say(line: str = "") -> None:
    """One line for the user, above any progress bar."""
    if is_rank_zero():
        tqdm.write(line, file=_Console(sys.stderr))


def warn(line: str) -> None:
    """One line about something that the user should know, while the run goes on."""
    say(f"warning: {line}")


def progress(
    total: float | None,
    description: str,
    unit: str = "it",
    initial: float = 0,
    scale: bool = True,
    rate: bool = True,
) -> tqdm[Any]:
    """A progress bar with stage, speed and time left; plain lines every ten seconds where there is no terminal.

    Args:
        total: what `n` will be at the end; None where it isn't known.
        scale: whether numbers are shown as 1.2k, 3.4M.
        rate: whether to show units per second; without it, the caller shows a speed in the postfix.
    """
    terminal = sys.stderr.isatty()
    # A pseudo-terminal may say that it is 0 columns wide.
    sized = terminal and os.get_terminal_size(sys.stderr.fileno()).columns > 0
    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        unit_scale=scale,
        initial=initial,
        bar_format=None if total is None else BAR if rate else BAR_WITHOUT_RATE,
        ncols=130 if terminal and not sized else None,
        nrows=20 if terminal and not sized else None,
        dynamic_ncols=sized,
        mininterval=0.2 if terminal else 10.0,
        maxinterval=1.0 if terminal else 30.0,
        leave=True,
        disable=not is_rank_zero(),
        file=_Console(sys.stderr),
    )


def table(rows: Iterable[Sequence[str]], header: Sequence[str] = ()) -> str:
    """Rows as aligned text; the first column to the left, the others to the right."""
    body = [list(row) for row in rows]
    every = ([list(header)] if header else []) + body
    widths = [max(len(row[column]) for row in every) for column in range(len(every[0]))]

    def line(row: Sequence[str]) -> str:
        cells = [
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    lines = [line(row) for row in body]
    if header:
        lines = [line(list(header)), "  ".join("-" * width for width in widths), *lines]
    return "\n".join(lines)


class MetricsLog:
    """`metrics.jsonl`: one JSON object a line, each with its `step` and the clock (`time`), appended and flushed.

    Only rank zero writes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def rewind(self, step: int) -> None:
        """Forget what was logged after `step` (the run goes on from there), and a last line that was cut."""
        if not is_rank_zero() or not self.path.exists():
            return
        kept = [line for line in self._lines() if json.loads(line).get("step", 0) <= step]
        beside = self.path.with_suffix(".tmp")
        beside.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        beside.replace(self.path)

    def write(self, record: dict[str, Any]) -> None:
        if not is_rank_zero():
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps({**record, "time": round(time.time(), 3)}) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """Every whole record."""
        return [json.loads(line) for line in self._lines()] if self.path.exists() else []

    def _lines(self) -> list[str]:
        """The lines that hold a whole record; a process that was killed may have left half a line."""
        whole = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                json.loads(line)
            except json.JSONDecodeError:
                continue
            whole.append(line)
        return whole


def quiet_libraries() -> None:
    """Leave the console to the run: no bars, hints or informational warnings of the libraries below."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    for name in ("datasets", "transformers", "accelerate", "huggingface_hub", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning)
