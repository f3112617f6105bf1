"""Iterators that run ahead in processes of their own: nothing of them is lost, and nothing stays behind."""

from __future__ import annotations

import functools
import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import psutil
import pytest

from mlm_pretrain.errors import UserError
from mlm_pretrain.stream.workers import side_by_side


def numbers(first: int, size: int = 1) -> Iterator[tuple[int, np.ndarray]]:
    for number in range(first, first + 5):
        yield os.getpid(), np.full(size, number)


def failing(error: Exception) -> Iterator[int]:
    yield 1
    raise error


def endless(size: int) -> Iterator[np.ndarray]:
    while True:
        yield np.zeros(size)


def test_items_come_in_lockstep_from_processes_of_their_own() -> None:
    rounds = list(side_by_side([functools.partial(numbers, first) for first in (0, 100)], ahead=2))
    assert [[int(array[0]) for _, array in items] for items in rounds] == [[n, 100 + n] for n in range(5)]
    assert len({pid for items in rounds for pid, _ in items} - {os.getpid()}) == 2


def test_errors_arrive_behind_what_came_before_them() -> None:
    items = side_by_side([functools.partial(failing, UserError("x.txt: gone"))], ahead=2)
    assert next(items) == [1]
    with pytest.raises(UserError, match=r"^x\.txt: gone$"):
        next(items)
    items = side_by_side([functools.partial(failing, ZeroDivisionError("oh"))], ahead=2)
    assert next(items) == [1]
    with pytest.raises(RuntimeError, match="ZeroDivisionError: oh"):
        next(items)


@pytest.mark.parametrize("moment", range(6))
def test_a_worker_that_is_killed_in_the_middle_of_an_item_is_noticed(moment: int) -> None:
    # Items are larger than a pipe, so that a worker is nearly always in the middle of one.
    with closing(side_by_side([functools.partial(endless, 2_000_000)] * 2, ahead=2)) as items:
        next(items)
        workers = psutil.Process().children()
        assert len(workers) == 2
        time.sleep(0.003 * moment)
        workers[moment % 2].kill()
        started = time.monotonic()
        with pytest.raises(UserError, match="a loader worker was killed"):
            for _ in range(10):
                next(items)
        assert time.monotonic() - started < 30
    assert not psutil.wait_procs(workers, timeout=10)[1]


def test_workers_end_with_their_parent() -> None:
    read, write = os.pipe()
    parent = os.fork()
    if parent == 0:
        items = side_by_side([functools.partial(endless, 100_000)] * 2, ahead=2)
        next(items)
        os.write(write, ",".join(str(child.pid) for child in psutil.Process().children()).encode())
        signal.pause()
    workers = [psutil.Process(int(pid)) for pid in os.read(read, 100).decode().split(",")]
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    assert len(workers) == 2
    assert not psutil.wait_procs(workers, timeout=10)[1]
