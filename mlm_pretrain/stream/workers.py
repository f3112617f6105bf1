"""Loader workers: iterators that run ahead of their parent, each in a forked process.

A worker has a pipe of its own. One that is killed, be it in the middle of an item, ends its pipe, and its parent knows
at once; a queue that workers share would be left locked, and the others would wait for it for ever. Items go through
the pipe as bytes: shared memory, of which containers have little, isn't needed.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import queue
import threading
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from typing import Any, NamedTuple

from mlm_pretrain.errors import UserError
from mlm_pretrain.stream import forked
from mlm_pretrain.stream.jobs import FORK


class _Worker(NamedTuple):
    process: ForkProcess
    connection: Connection


def side_by_side(makes: Sequence[Callable[[], Iterator[Any]]], ahead: int) -> Generator[list[Any], None, None]:
    """The next item of each of several iterators, again and again, until one of them ends.

    Args:
        makes: make the iterators; forked with all that they hold, so nothing of it is sent.
        ahead: items that each makes before they are asked for.

    Raises:
        UserError: as an iterator raises it, or a worker was killed.
        RuntimeError: an iterator raised something else; its traceback is the message.
    """
    workers: list[_Worker] = []
    # Workers hear no signal, and are gone behind this, and behind the end of Python, whatever happens.
    kill = functools.partial(_kill, workers)
    atexit.register(kill)
    try:
        for make in makes:
            workers.append(_start(make, ahead, [worker.connection for worker in workers]))
        while True:
            items = [_receive(worker) for worker in workers]
            if any(kind == "end" for kind, _ in items):
                return
            yield [item for _, item in items]
    finally:
        with contextlib.suppress(AttributeError):  # Python is ending, and has called it already
            kill()
        atexit.unregister(kill)


def _start(make: Callable[[], Iterator[Any]], ahead: int, others: list[Connection]) -> _Worker:
    receiver, sender = FORK.Pipe(duplex=False)
    process = FORK.Process(target=_work, args=(make, ahead, sender, [receiver, *others]), daemon=True)
    process.start()
    sender.close()  # so that the pipe ends with the worker
    return _Worker(process, receiver)


def _receive(worker: _Worker) -> tuple[str, Any]:
    try:
        kind, item = worker.connection.recv()
    except (EOFError, OSError):
        worker.process.join()
        code = worker.process.exitcode
        raise UserError(f"a loader worker was killed (exit code {code}); is there memory for it?") from None
    if kind == "error":
        raise UserError(item)
    if kind == "failure":
        raise RuntimeError(f"a loader worker failed:\n{item}")
    return kind, item


def _kill(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.process.kill()
        worker.connection.close()
    for worker in workers:
        worker.process.join(timeout=5.0)


# -- in the worker -----------------------------------------------------------------------------------------------


def _work(make: Callable[[], Iterator[Any]], ahead: int, connection: Connection, others: list[Connection]) -> None:
    for other in others:
        other.close()  # or the pipes of the others would outlive their parent
    forked.settle()
    items: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=ahead)
    sender = threading.Thread(target=_send, args=(items, connection), daemon=True)
    sender.start()
    try:
        for item in make():
            items.put(("item", item))
        items.put(("end", None))
    except UserError as error:
        items.put(("error", str(error)))
    except Exception:
        items.put(("failure", traceback.format_exc()))
    sender.join()


def _send(items: queue.Queue[tuple[str, Any]], connection: Connection) -> None:
    """Send items as they are made, the last one included that isn't one."""
    kind = "item"
    while kind == "item":
        message = items.get()
        kind = message[0]
        try:
            connection.send(message)
        except OSError:
            os._exit(1)  # the parent has died
