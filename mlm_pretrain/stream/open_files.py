"""How many files a process may have open: every source of every lane reads one."""

from __future__ import annotations

import contextlib
import functools
import resource

from mlm_pretrain.console import telemetry

PER_READER = 2
"""A file, and the shared memory that each dataset of `datasets` has."""
OTHERS = 300
"""Libraries, pipes, checkpoints."""


def may_stay_open(readers: int) -> bool:
    """Whether so many readers can each keep their file open, after asking the system for as many as it allows.

    Where they can't, each has to close its file before another opens one.
    """
    wanted = PER_READER * readers + OTHERS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _is_enough(soft, wanted):
        return True
    target = wanted if _is_enough(hard, wanted) else hard
    with contextlib.suppress(ValueError, OSError):  # macOS has a bound of its own
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if not _is_enough(allowed, wanted):
        _warn(wanted, allowed)
        return False
    return True


def _is_enough(limit: int, wanted: int) -> bool:
    return limit == resource.RLIM_INFINITY or limit >= wanted


@functools.cache  # told once by a process
def _warn(wanted: int, allowed: int) -> None:
    telemetry.warn(
        f"stream.lanes: the lanes of all sources want {wanted:,} open files, and the system allows {allowed:,} "
        "(`ulimit -Hn`); files are closed and opened again for every window, which is slow if they are compressed"
    )
