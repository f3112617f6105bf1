"""Files and folders that are whole or not there: written beside their place, fsynced, renamed.

A killed process leaves the old ones or the new ones, never half.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlm_pretrain.errors import UserError
from mlm_pretrain.io.digests import write_manifest
from mlm_pretrain.io.plain_json import dumps

NO_FSYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EACCES, errno.EISDIR}
"""What some file systems say where a folder's entries are to reach the disk."""


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: beside it, fsynced, renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    beside.unlink(missing_ok=True)  # what is there may be a link to a file of somebody else's
    try:
        with beside.open("x", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        beside.replace(path)
        fsync(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def _umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value


_UMASK = _umask()


def write_folder(target: Path, fill: Callable[[Path], None], manifest: bool = False) -> None:
    """Write a folder whole or not at all, in the place of an older one if there is one.

    Args:
        fill: writes the files into the folder it is given.
        manifest: whether to list the files' sizes and digests in `manifest.json`.

    Raises:
        UserError: there is a symlink in its place.
    """
    refuse_link(target)
    beside = target.with_name(f".{target.name}.tmp")
    restore_folder(target)
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    fsync(target.parent.parent)
    try:
        fill(beside)
        if manifest:
            write_manifest(beside)
        for path in beside.rglob("*"):
            if path.is_file():
                with contextlib.suppress(OSError):  # a file system without permissions
                    path.chmod(0o666 & ~_UMASK)  # safetensors gives its files to their owner alone
            fsync(path)
        fsync(beside)
        if target.exists():
            # A folder can't be replaced in one step; the old one is out of the way for a moment.
            old = target.with_name(f".{target.name}.old")
            shutil.rmtree(old, ignore_errors=True)
            target.rename(old)
            beside.rename(target)
            shutil.rmtree(old)
        else:
            beside.rename(target)
        fsync(target.parent)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def refuse_link(target: Path) -> None:
    """
    Raises:
        UserError: a symlink is where a folder is to be written, which is replaced as a whole.
    """
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        what = f"a symlink to {target.readlink()}" if target.is_symlink() else "a file"
        raise UserError(f"{target}: {what} is where a folder is to be written; move it away")


def restore_folder(target: Path) -> None:
    """Put a folder back that `write_folder` was about to replace when it was killed."""
    old = target.with_name(f".{target.name}.old")
    if old.is_dir() and not target.exists():
        old.rename(target)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes were writing into a folder that this process alone writes into."""
    for path in folder.glob(".*.tmp"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif re.fullmatch(r"\..+\.\d+\.tmp", path.name) and ".part." not in path.name:  # predictions lock themselves
            path.unlink(missing_ok=True)


def fsync(path: Path) -> None:
    """Let a file's contents, or a folder's entries, reach the disk; not every file system can do the latter."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in NO_FSYNC or not path.is_dir():
            raise


def write_json(path: Path, data: Any) -> None:
    """Write plain data as JSON; a number that is not finite is null."""
    write_text(path, dumps(data, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty if the file is missing.

    Raises:
        UserError: the file is damaged.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{path}: damaged ({error}); delete it and rerun the stage that writes it") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected a JSON object; delete it and rerun the stage that writes it")
    return data
