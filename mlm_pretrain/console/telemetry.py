"""What a run says: lines, tables, and `metrics.jsonl` (`console/bars.py` has the progress). Only rank zero speaks.

Progress and lines go to stderr; results that a user may pipe on go to stdout. All of it goes through `escaping`: what
came from data steers no terminal. How stderr looks is `log_format`: bars on a terminal, whole lines in a file or a
pipe, a JSON object a line if that is asked for.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import sys
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from tqdm.auto import tqdm

from mlm_pretrain import escaping
from mlm_pretrain.credentials import without_credentials
from mlm_pretrain.io.plain_json import dumps, finite
from mlm_pretrain.io.whole import write_text

LOG_FORMATS = ("auto", "plain", "json")
LOG_FORMAT = "MLM_PRETRAIN_LOG_FORMAT"
"""The environment variable: processes that a launcher starts inherit it."""


def log_format() -> str:
    """How stderr looks: "bars", "plain" (whole lines, none overwritten) or "json" (an object a line).

    As `MLM_PRETRAIN_LOG_FORMAT` says; by default bars on a terminal, plain lines elsewhere.
    """
    asked = os.environ.get(LOG_FORMAT, "auto")
    if asked in ("plain", "json"):
        return asked
    return "bars" if sys.stderr.isatty() else "plain"


def is_rank_zero() -> bool:
    """Whether this process is the one that speaks and writes; known before torch.distributed is set up."""
    return int(os.environ.get("RANK", "0")) == 0


def world_size() -> int:
    """How many processes the launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


class Console:
    """A stream that may go away: a run whose terminal or pipe is closed goes on, or saves, in silence."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __eq__(self, other: object) -> bool:
        # tqdm clears the bars of a stream before it writes a line there.
        return self._stream is getattr(other, "_stream", other)

    __hash__ = None  # type: ignore[assignment]

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


@contextlib.contextmanager
def ahead() -> Iterator[None]:
    """What is said in here is said once: the same data, read again for the work itself, says the same of itself."""
    global _is_ahead
    before, _is_ahead = _is_ahead, True
    try:
        yield
    finally:
        _is_ahead = before


_is_ahead = False
_said_ahead: set[tuple[str, str]] = set()


def _is_said(event: str, line: str) -> bool:
    """Whether a line was said ahead, and not again since."""
    said = (event, line) in _said_ahead
    if _is_ahead:
        _said_ahead.add((event, line))
    else:
        _said_ahead.discard((event, line))
    return said


def say(line: str = "") -> None:
    """One line for the user, above any progress bar."""
    _speak("message", line)


def warn(line: str) -> None:
    """One line about something that the user should know, while the run goes on."""
    _speak("warning", escaping.one_line(line), prefix="warning: ")


def show(text: object) -> None:
    """A result, on standard output."""
    with reader_may_leave():
        print(escaping.terminal(text), flush=True)


@contextlib.contextmanager
def reader_may_leave() -> Iterator[None]:
    """A reader of standard output that has seen enough (`predict … | head`) is no error."""
    try:
        yield
    except BrokenPipeError:
        # Python flushes standard output once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _speak(event: str, line: str, prefix: str = "") -> None:
    if not is_rank_zero() or _is_said(event, line):
        return
    line = without_credentials(line)
    kind, console = log_format(), Console(sys.stderr)
    if kind == "json":
        if line.strip():
            emit(event, message=line.strip())
        return
    line = escaping.terminal(line)
    if kind == "bars":
        tqdm.write(f"{prefix}{line}", file=console)
    else:
        console.write(f"{prefix}{line}\n")
        console.flush()


def complain(line: str, fresh_line: bool = False) -> None:
    """The error that a command ends with; any process may have to tell it.

    Args:
        fresh_line: it may have to be told in the middle of another process's progress bar.
    """
    if log_format() == "json":
        emit("error", message=line)
    else:
        print("\n" if fresh_line else "", f"error: {escaping.visible(line)}", sep="", file=sys.stderr)


def show_defect(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The traceback of a defect, as `sys.excepthook` shows it, without credentials."""
    sys.stderr.write(without_credentials("".join(traceback.format_exception(kind, error, trace))))


def emit(event: str, **values: Any) -> None:
    """A JSON object on a line of stderr: `event`, the clock (`time`, seconds since 1970) and the values."""
    record = {"event": event, "time": round(time.time(), 3), **values}
    console = Console(sys.stderr)
    # In one piece, so that lines of several processes stay whole.
    console.write(escaping.json_line(finite(record), sys.stderr) + "\n")
    console.flush()


def figure(value: float | None, form: str = ".3f") -> str:
    """A number for readers; a dash for one that isn't there or isn't finite."""
    return "–" if value is None or not math.isfinite(value) else format(value, form)


def table(rows: Iterable[Sequence[str]], header: Sequence[str] = ()) -> str:
    """Rows as aligned text, a line each whatever is in them; the first column to the left, the others to the right."""
    body = [[escaping.visible(cell) for cell in row] for row in rows]
    header = [escaping.visible(cell) for cell in header]
    every = ([header] if header else []) + body
    widths = [max(len(row[column]) for row in every) for column in range(len(every[0]))]

    def line(row: Sequence[str]) -> str:
        cells = [
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    lines = [line(row) for row in body]
    if header:
        lines = [line(header), "  ".join("-" * width for width in widths), *lines]
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
        kept = [line for line, record in self._lines() if record.get("step", 0) <= step]
        write_text(self.path, "".join(line + "\n" for line in kept))

    def write(self, record: dict[str, Any]) -> None:
        if not is_rank_zero():
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as handle:
            handle.write(dumps({**record, "time": round(time.time(), 3)}) + "\n")
        if log_format() == "json":
            emit("metrics", **record)

    def read(self) -> list[dict[str, Any]]:
        """Every whole record."""
        return [record for _, record in self._lines()] if self.path.exists() else []

    def _lines(self) -> list[tuple[str, dict[str, Any]]]:
        """The lines that hold a whole record, with it; a process that was killed may have left half a line."""
        whole = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                record = json.loads(line)
                if isinstance(record, dict):
                    whole.append((line, record))
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
