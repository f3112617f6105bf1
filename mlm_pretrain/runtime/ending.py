"""How a stage ended: in one line for the user, as an exit code, and in the run directory.

Launchers hide the exit codes of their processes, and a process that was killed has none to give. So the run
directory tells: `end.json` says "running" until a stage has ended, and then why it did.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from mlm_pretrain import escaping
from mlm_pretrain.console import telemetry
from mlm_pretrain.errors import UserError, first_line, is_panic, told_of_panic
from mlm_pretrain.io.whole import read_json, write_json
from mlm_pretrain.run import RunDirectory, checkpoints_in, step_of
from mlm_pretrain.runtime.interrupts import CTRL_C, EXIT_CODES, Interrupted

RUNNING = "running"
# What the machine and not the program is at fault for: one line is enough.
ENVIRONMENT_ERRORS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
}


def one_line(error: BaseException) -> str | None:
    """What to tell the user of an error that is not this program's; None for one that is."""
    if isinstance(error, UserError):
        return str(error)
    if is_panic(error):
        return str(told_of_panic(error))
    if isinstance(error, OSError) and error.errno in ENVIRONMENT_ERRORS:
        return escaping.one_line(f"{error.filename or 'writing'}: {error.strerror}; what was computed before is kept")
    # Rust's writers report the system's errors in words only; NumPy and Arrow in words of their own.
    number = re.search(r"\(os error (\d+)\)", str(error))
    if (number and int(number[1]) in ENVIRONMENT_ERRORS) or "No space left on device" in str(error):
        return f"{first_line(error)[:200]}; make room and repeat the command, what was computed before is kept"
    return None


@contextlib.contextmanager
def noted_end(run: RunDirectory, stage: str) -> Iterator[None]:
    """Note in `end.json` that a stage is running, and then why it ended: reason, exit code, newest checkpoint, time.

    If the part before ended without a word (killed, or the machine went down), say so. The run is held by this process.
    """
    _tell_of_silent_end(run)
    process = {"pid": os.getpid(), "host": socket.gethostname()}
    _note(run, stage, RUNNING, **process)
    try:
        yield
    except BaseException as error:
        reason, exit_code = _reason(error)
        with contextlib.suppress(OSError):  # on a full disk the error itself is what to tell
            _note(run, stage, reason, exit_code=exit_code)
        raise
    _note(run, stage, "finished", exit_code=0)


def _reason(error: BaseException) -> tuple[str, int]:
    if isinstance(error, Interrupted):
        return error.reason, error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return CTRL_C, EXIT_CODES[CTRL_C]
    line = one_line(error)
    return f"error: {line or f'{type(error).__name__}: {first_line(error)}'}", 2 if line else 1


def _note(run: RunDirectory, stage: str, reason: str, **further: Any) -> None:
    newest = max(checkpoints_in(run.checkpoints), default=None)
    place = {"step": step_of(newest), "checkpoint": str(newest)} if newest else {}
    write_json(run.end, {"stage": stage, "reason": reason, **place, **further, "time": _clock(time.time())})


def _tell_of_silent_end(run: RunDirectory) -> None:
    last = read_json(run.end)
    if last.get("reason") == RUNNING:
        signs = [path.stat().st_mtime for path in (run.end, run.metrics, run.checkpoints) if path.exists()]
        telemetry.warn(
            f"the last part of this run ({last.get('stage')}, process {last.get('pid')} on {last.get('host')}) ended "
            f"without a word after {_clock(max(signs))}: killed, or the machine went down"
        )


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
