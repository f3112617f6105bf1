"""What ends a run before its budget is spent: signals, Ctrl-C, a launcher that has died.

A signal only makes a request. The loop asks for requests once a step, all processes learn of them in the same
reduction, and all stop before the same step, with a checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

CTRL_C = "Ctrl-C"
LAUNCHER_DIED = "launcher died"
# A batch system sends SIGTERM or SIGUSR1 some time before it kills; SIGHUP comes where a terminal is closed.
REASONS = {"SIGTERM": signal.SIGTERM, "SIGUSR1": signal.SIGUSR1, "SIGHUP": signal.SIGHUP, CTRL_C: signal.SIGINT}
EXIT_CODES = {reason: 128 + number for reason, number in REASONS.items()} | {LAUNCHER_DIED: 128 + signal.SIGHUP}
# A terminal sends Ctrl-C to every process, and a launcher sends it on once more.
SAME_KEYPRESS_SECONDS = 2.0
_PARENT = os.getppid()


class Interrupted(Exception):
    """The run was asked to end, and did. Its text is one line for the user.

    Args:
        reason: one of `EXIT_CODES`.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.exit_code = EXIT_CODES[reason]


class Interrupts:
    """As a context, takes the signals over; outside of it there are no requests.

    The first Ctrl-C is a request, the second raises KeyboardInterrupt at once. A signal that is ignored (by nohup)
    stays ignored.
    """

    def __init__(self) -> None:
        self._requests: dict[str, float] = {}
        self._before: dict[signal.Signals, Any] = {}
        self._parent: int | None = None

    def __enter__(self) -> Interrupts:
        if _is_launched():
            self._parent = _PARENT
        # Python lets the main thread alone take signals.
        if threading.current_thread() is threading.main_thread():
            for number in REASONS.values():
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._request)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def requests(self) -> list[int]:
        """What this process was asked, a number for each of `EXIT_CODES`; processes add theirs up."""
        if self._parent is not None and os.getppid() != self._parent:
            self._requests.setdefault(LAUNCHER_DIED, time.monotonic())
        return [int(reason in self._requests) for reason in EXIT_CODES]

    def _request(self, number: int, frame: FrameType | None) -> None:
        reason = next(reason for reason, each in REASONS.items() if each == number)
        now = time.monotonic()
        asked = self._requests.setdefault(reason, now)
        sent_on = "TORCHELASTIC_RUN_ID" in os.environ and now - asked < SAME_KEYPRESS_SECONDS
        if reason == CTRL_C and now > asked and not sent_on:
            raise KeyboardInterrupt


def reason_of(requests: Sequence[float]) -> str | None:
    """The reason to stop, if any process has one."""
    return next((reason for reason, asked in zip(EXIT_CODES, requests, strict=True) if asked), None)


def _is_launched() -> bool:
    """Whether the parent is a launcher, `torchrun` or `accelerate launch`: these end when their processes do."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return True
    # Users set variables of Accelerate's themselves, in shells that may end before their jobs do.
    with contextlib.suppress(OSError):
        command = Path(f"/proc/{_PARENT}/cmdline").read_bytes()
        return "ACCELERATE_MIXED_PRECISION" in os.environ and b"accelerate" in command
    return False
