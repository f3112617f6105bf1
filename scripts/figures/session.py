"""Processes of their own to measure in: for one call, or for as many rounds as are wanted."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Client, Connection, Listener
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

import psutil

from mlm_pretrain.console import telemetry
from mlm_pretrain.errors import UserError

PRELOADED = [
    *("torch", "transformers", "datasets", "tokenizers", "pyarrow.parquet"),
    *("mlm_pretrain.training.loop", "mlm_pretrain.tasks.fit.finetune"),
]
"""What every process has imported when it begins."""


@dataclass
class Measured:
    """What a function returned, and the memory that it took."""

    result: Any
    peak_bytes: int
    """The sum, over the process and those below it, of the most that each had resident; shared pages count in each."""


class Rounds(Protocol):
    """What a function that works in rounds is given."""

    def next(self, result: Any) -> float | None:
        """Hand over what the round before came to, and wait for the next.

        Returns:
            The seconds that the next shall take; None if there is none.
        """


class Session:
    """A function in a process of its own that works for a while whenever it is asked to, and waits in between.

    What it does before its first result (imports, building a model, compiling, first steps) is done when the session
    is open; `first` is that result.

    Args:
        function: of a module; it is called with `Rounds` and the arguments.

    Raises:
        UserError: the function raised one.
        RuntimeError: the function failed in another way (its traceback is above), or its process was killed.
    """

    def __init__(self, function: Callable[..., None], *arguments: Any) -> None:
        process, pipe = _start(_serve, function, arguments)

        def end() -> None:
            process.join(20)
            process.kill()
            process.join()

        self._begin(function.__qualname__, pipe, end)

    def _begin(self, name: str, pipe: Connection, end: Callable[[], None]) -> None:
        self._name, self._pipe, self._end = name, pipe, end
        self.first: Any = self._result()

    def __call__(self, seconds: float) -> Any:
        """What a round of so many seconds comes to."""
        self._pipe.send(seconds)
        return self._result()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()
        self._end()

    def _result(self) -> Any:
        return _receive(self._pipe, self._name)


class LaunchedSession(Session):
    """A program that works in rounds, of one or several processes; it connects to the address that it is given last.

    Args:
        command: of the program, which calls `serve`.
        environment: goes over that of this process.

    Raises:
        RuntimeError: the program ended early, with the end of what it said.
    """

    def __init__(self, command: list[str], environment: Mapping[str, str]) -> None:
        with tempfile.TemporaryDirectory() as folder, Path(folder, "said").open("w+", encoding="utf-8") as said:
            with Listener(str(Path(folder, "socket")), "AF_UNIX") as listener:
                program = subprocess.Popen(
                    [*command, str(listener.address)], env={**os.environ, **environment}, stdout=said, stderr=said
                )
                waiter = threading.Thread(target=_knock_when_ended, args=(program, str(listener.address)), daemon=True)
                waiter.start()
                pipe = listener.accept()

            def end() -> None:
                program.terminate()
                program.wait()

            try:
                self._begin(" ".join(command), pipe, end)
            except RuntimeError:
                said.seek(0)
                raise RuntimeError(f"{' '.join(command)} failed:\n{said.read()[-3000:]}") from None


def _knock_when_ended(program: subprocess.Popen[bytes], address: str) -> None:
    """Let nobody wait for a program that has ended before it connected."""
    program.wait()
    with contextlib.suppress(OSError):
        Client(address).close()


def serve(address: str, function: Callable[..., None], *arguments: Any) -> None:
    """Work in rounds for the `LaunchedSession` at an address."""
    with Client(address) as pipe:
        _serve(pipe, function, arguments)


def fresh(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of a module in a new process that has imported the libraries and done nothing else."""
    return measured(function, *arguments).result


def measured(function: Callable[..., Any], *arguments: Any) -> Measured:
    """As `fresh`, with the peak of memory.

    Raises:
        UserError: the function raised one.
        RuntimeError: the function failed in another way (its traceback is above), or its process was killed.
    """
    process, pipe = _start(_call, function, arguments)
    peaks: dict[int, int] = {}
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(process.pid, peaks, done))
    watcher.start()
    try:
        result = _receive(pipe, function.__qualname__)
    finally:
        done.set()
        watcher.join()
        process.join()
    return Measured(result, sum(peaks.values()))


def _start(
    target: Callable[..., None], function: Callable[..., Any], arguments: tuple[Any, ...]
) -> tuple[BaseProcess, Connection]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs, function, arguments))
    process.start()
    theirs.close()
    return process, ours


def _receive(pipe: Connection, name: str) -> Any:
    try:
        result, error = pipe.recv()
    except (EOFError, ConnectionResetError):
        raise RuntimeError(f"{name} failed in its process") from None
    if error is not None:
        raise UserError(error)
    return result


# -- in the process ----------------------------------------------------------------------------------------------


class _Rounds:
    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def next(self, result: Any) -> float | None:
        try:
            self._pipe.send((result, None))
            return float(self._pipe.recv())
        except (EOFError, OSError):  # whoever asked wants no more, or is gone
            return None


def _serve(pipe: Connection, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    _call(pipe, function, (_Rounds(pipe), *arguments))


def _call(pipe: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    telemetry.quiet_libraries()
    # What a run prints is no result of ours, and its bars would stand between those of others.
    with (
        Path(os.devnull).open("w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        answer: tuple[Any, str | None]
        try:
            answer = (function(*arguments), None)
        except UserError as error:
            answer = (None, str(error))
        except Exception:
            traceback.print_exc(file=sys.__stderr__)
            return
    with contextlib.suppress(OSError):  # nobody waits for the end of a session
        pipe.send(answer)


def _watch(root: int, peaks: dict[int, int], done: threading.Event) -> None:
    """Note each process's highest resident set, which the kernel keeps; looking often is only for those that end."""
    process = psutil.Process(root)
    while True:  # at least once, however soon the process ends
        with contextlib.suppress(psutil.NoSuchProcess):
            for each in [process, *process.children(recursive=True)]:
                # It may have ended meanwhile.
                with contextlib.suppress(OSError):
                    status = Path(f"/proc/{each.pid}/status").read_text(encoding="utf-8")
                    found = re.search(r"VmHWM:\s+(\d+) kB", status)
                    if found:
                        peaks[each.pid] = int(found[1]) * 1024
        if done.wait(0.1):
            return
