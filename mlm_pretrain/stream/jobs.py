"""Jobs in forked processes, of which whole results stand, however the run ends."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from mlm_pretrain.console import bars
from mlm_pretrain.errors import UserError
from mlm_pretrain.stream import forked

FORK = multiprocessing.get_context("fork")


class Meter:
    """Bytes that all processes have worked through."""

    def __init__(self) -> None:
        self._bytes = FORK.Value("q", 0)

    def add(self, size: int) -> None:
        with self._bytes.get_lock():
            self._bytes.value += size

    @property
    def bytes(self) -> int:
        return self._bytes.value


def run_jobs(
    what: str, job: Callable[[Any], Any], arguments: Sequence[Any], meter: Meter, num_proc: int | None
) -> list[Any]:
    """Do a job for each of the arguments, in processes; the results in their order.

    Args:
        what: the stage, for the progress bar.
        job: forked with all that it holds, so nothing of it is sent.
        meter: where the jobs count what they have read.
        num_proc: processes; None takes one a core.

    Raises:
        UserError: as the jobs raise it, or a process was killed.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    others = set(multiprocessing.active_children())
    executor = ProcessPoolExecutor(
        max_workers=max(1, min(num_proc or cores, len(arguments))),
        mp_context=FORK,
        initializer=_begin,
        initargs=(job,),
    )
    before = meter.bytes
    try:
        futures = [executor.submit(_do, each) for each in arguments]
        with bars.progress(None, what, unit="B") as bar:
            waiting = set(futures)
            while waiting:
                done, waiting = wait(waiting, timeout=0.5, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
                bar.update(meter.bytes - before - bar.n)
        return [future.result() for future in futures]
    except BaseException as error:
        # What runs still is of no use.
        for child in set(multiprocessing.active_children()) - others:
            child.kill()
        if isinstance(error, BrokenProcessPool):
            raise UserError(f"{what}: a process was killed; is there memory for so many (prepare.num_proc)?") from None
        raise
    finally:
        executor.shutdown(cancel_futures=True)


_job: Callable[[Any], Any]


def _begin(job: Callable[[Any], Any]) -> None:
    global _job
    _job = job
    forked.settle()
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _do(argument: Any) -> Any:
    return _job(argument)


def _end_with(parent: int) -> None:
    """End this process when its parent has died: waiting for work, it would never notice."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
