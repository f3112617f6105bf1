"""What a run says: progress, lines, tables, and `metrics.jsonl`. Only rank zero speaks.

Progress and lines go to stderr; results that a user may pipe on go to stdout. All of it goes through `escaping`: what
came from data steers no terminal. How stderr looks is `log_format`: bars
on a terminal, whole lines in a file or a pipe, a JSON object a line where that is asked for.
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
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from tqdm.auto import tqdm

from mlm_pretrain import escaping
from mlm_pretrain.credentials import without_credentials
from mlm_pretrain.io.plain_json import dumps, finite
from mlm_pretrain.io.whole import write_text

BAR = "{desc:<22} {percentage:3.0f}%|{bar:24}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
BAR_WITHOUT_RATE = "{desc:<22} {percentage:3.0f}%|{bar:24}| [{elapsed}<{remaining}{postfix}]"
# The same without what only a terminal shows well.
LINE = "{desc}: {percentage:.0f}%, {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
LINE_WITHOUT_RATE = "{desc}: {percentage:.0f}% [{elapsed}<{remaining}{postfix}]"
SECONDS_PER_LINE = 10.0
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


class _Console:
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
    kind, console = log_format(), _Console(sys.stderr)
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
    console = _Console(sys.stderr)
    # In one piece, so that lines of several processes stay whole.
    console.write(escaping.json_line(finite(record), sys.stderr) + "\n")
    console.flush()


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
        total: what `n` will be at the end; None where it isn't known.
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
        "file": _Console(sys.stderr),
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
