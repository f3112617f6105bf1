"""Locks between processes: the system's, or on a file system that has none, a file that says who holds it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from mlm_pretrain.errors import UserError

UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
"""What `flock` says if there are no locks: on Lustre without `flock`, NFS without its lock daemon, some FUSE."""
BUSY = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}
_HELD: dict[str, Callable[[], None]] = {}
"""What lets go of the locks that this process holds, by place."""


@contextlib.contextmanager
def held(lock: Path, what: str) -> Iterator[None]:
    """Hold a lock file for this process, which may do so again while it does.

    Args:
        what: the error if another process holds it.

    Raises:
        UserError: another process holds it.
    """
    if is_held(lock):
        yield
        return
    place = str(lock.absolute())
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as handle:  # never emptied: in a run that somebody else made it may be a link
        let_go = lock_file(handle, lock, what)
        _HELD[place] = handle.close
        try:
            yield
        finally:
            _HELD.pop(place, None)
            let_go()


def is_held(lock: Path) -> bool:
    """Whether this process holds a lock."""
    return str(lock.absolute()) in _HELD


def lock_file(handle: IO[Any], path: Path, what: str) -> Callable[[], None]:
    """Lock an open file until it is closed.

    Returns:
        What lets go of it too, to be called before the file is closed or removed.

    Raises:
        UserError: another process holds it.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in UNSUPPORTED:
            return _claim(path.with_name(f"{path.name}.owner"), what)
        if error.errno in BUSY:
            raise UserError(what) from None
        raise
    return lambda: None


def wait_for(handle: IO[Any]) -> None:
    """Lock an open file, once no other process holds it; a file system without locks lets all of them go ahead."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise


def _claim(owner: Path, what: str) -> Callable[[], None]:
    """Hold a lock by a file that only one process can make; that of a process that has ended is replaced."""
    mine = _myself()
    for _ in range(3):
        try:
            descriptor = os.open(owner, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            holder = _holder(owner)
            if not _has_ended(holder):
                who = f"process {holder.get('pid', '?')} on {holder.get('host', 'an unknown host')}"
                remedy = f"this file system has no locks, so if {who} has ended, delete {owner}"
                raise UserError(f"{what} ({remedy})") from None
            _remove_stale(owner, holder)
        else:
            with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
                json.dump(mine, handle)
            return lambda: _let_go_of(owner, mine)
    raise UserError(what)


def _let_go_of(owner: Path, mine: dict[str, Any]) -> None:
    if os.getpid() == mine["pid"] and _holder(owner) == mine:
        owner.unlink(missing_ok=True)


def _myself() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}


def _holder(owner: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        holder = json.loads(owner.read_text(encoding="utf-8"))
        if isinstance(holder, dict):
            return holder
    return {}


def _has_ended(holder: dict[str, Any]) -> bool:
    """Whether the process that holds a lock is known to be gone: of other machines nothing is known."""
    if holder.get("host") != socket.gethostname() or not isinstance(holder.get("pid"), int):
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    # Another process may have its number by now.
    return holder.get("started") != _started(holder["pid"])


def _remove_stale(owner: Path, holder: dict[str, Any]) -> None:
    """Two processes may have found it stale: each moves it away, and puts back what was not that."""
    aside = owner.with_name(f"{owner.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        owner.rename(aside)
        if _holder(aside) != holder:
            with contextlib.suppress(FileExistsError):
                os.link(aside, owner)
        aside.unlink(missing_ok=True)


def _started(pid: int) -> str | None:
    """When a process was started, in ticks since the machine was; None without /proc."""
    with contextlib.suppress(OSError, IndexError):
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return stat.rpartition(")")[2].split()[19]
    return None


def _let_go_in_child() -> None:
    """A forked process that outlives its killed parent for some seconds may not hold the parent's locks."""
    for close in _HELD.values():
        close()
    _HELD.clear()


os.register_at_fork(after_in_child=_let_go_in_child)
