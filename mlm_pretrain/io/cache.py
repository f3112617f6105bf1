"""The folder for what is worth keeping between runs, and can be made again: extracted documentation, digests."""

from __future__ import annotations

import contextlib
import functools
import os
import stat
import tempfile
from pathlib import Path

VARIABLE = "MLM_PRETRAIN_CACHE"
_NAME = "mlm_pretrain"


def cache_folder() -> Path:
    """`$MLM_PRETRAIN_CACHE`, by default `mlm_pretrain/` in the user's cache folder; one of this user's among the
    temporary files if nothing can be written there, as in a container whose user has no home."""
    given = os.environ.get(VARIABLE)
    return Path(given) if given else _default()


@functools.cache
def _default() -> Path:
    for folder in _usual():
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK | os.X_OK):
                return folder
    return _temporary()


def _usual() -> list[Path]:
    folders = []
    if given := os.environ.get("XDG_CACHE_HOME"):
        folders.append(Path(given, _NAME))
    else:
        with contextlib.suppress(RuntimeError):  # this user has no home at all
            folders.append(Path.home() / ".cache" / _NAME)
    return folders


def _temporary() -> Path:
    """A folder that no other user can have put there, nor can write into."""
    folder = Path(tempfile.gettempdir(), f"{_NAME}-{os.getuid()}")
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022:
            return folder
    return Path(tempfile.mkdtemp(prefix=f"{_NAME}-"))
