"""Digests of a corpus's files: of the whole of each, computed once for as long as a file stays what it is.

A large file's digest is kept in the cache folder, so that the next stage, run or resume doesn't read it again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from mlm_pretrain.console import bars
from mlm_pretrain.errors import UserError
from mlm_pretrain.io.cache import cache_folder
from mlm_pretrain.io.files.compression import errors_of
from mlm_pretrain.io.whole import read_json, write_json

KEPT = 64_000_000
"""Bytes from which on a file's digest is kept; the others are read in a tenth of a second."""
SETTLED = 2.0
"""Seconds after which a file counts as settled: two changes in one tick of the clock leave the same times."""
_CHUNK = 2**20
_THREADS = 8


class _State(NamedTuple):
    """What changes when a file does."""

    file: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int


_known: dict[_State, str] = {}
"""What this process has found; several stages ask."""


def digests(files: Sequence[str]) -> list[str]:
    """The SHA-256 of each file.

    Raises:
        UserError: a file is gone or can't be read.
    """
    states = [_state(file) for file in files]
    _known.update((state, kept) for state in states if state not in _known and (kept := _kept(state)))
    unknown = [state for state in states if state not in _known]
    large = sum(state.size for state in unknown if state.size >= KEPT)
    with bars.progress(large, "digest of the text", unit="B") if large else contextlib.nullcontext() as bar:

        def digest(state: _State) -> str:
            return _digest(state, bar.update if bar is not None and state.size >= KEPT else _no_progress)

        with ThreadPoolExecutor(_THREADS) as threads:  # hashing leaves Python's lock to the others
            _known.update(zip(unknown, threads.map(digest, unknown), strict=True))
    return [_known[state] for state in states]


def _no_progress(size: int) -> None:
    pass


def _state(file: str) -> _State:
    with errors_of(file):
        status = Path(file).stat()
    return _State(str(Path(file).absolute()), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def _digest(state: _State, update: Callable[[int], object]) -> str:
    digest = hashlib.sha256()
    with errors_of(state.file), Path(state.file).open("rb", buffering=0) as handle:
        while chunk := handle.read(_CHUNK):
            digest.update(chunk)
            update(len(chunk))
    is_settled = time.time() - state.mtime_ns / 1e9 > SETTLED
    if state.size >= KEPT and is_settled and _state(state.file) == state:
        with contextlib.suppress(OSError):  # then it is read again the next time
            write_json(_place(state), {**state._asdict(), "sha256": digest.hexdigest()})
    return digest.hexdigest()


def _kept(state: _State) -> str | None:
    """The digest that was kept of a file, if it was in this state."""
    if state.size < KEPT:
        return None
    try:
        kept = read_json(_place(state))
    except (OSError, UserError):
        return None
    return kept.get("sha256") if {**state._asdict(), "sha256": kept.get("sha256")} == kept else None


def _place(state: _State) -> Path:
    name = hashlib.sha256(os.fsencode(state.file)).hexdigest()[:32]
    return cache_folder() / "digests" / f"{name}.json"
