"""Digests of what was written, and whether it is still that: a flipped bit in a model trains on without a word."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from mlm_pretrain.errors import UserError
from mlm_pretrain.io.paths import inside

MANIFEST = "manifest.json"
DAMAGED = "damaged (its size or SHA-256 is not the one that was written)"
Digest = dict[str, Any]
"""`size` in bytes and `sha256` of a file."""
_KNOWN: dict[tuple[str, int, int, int], Digest] = {}
"""Digests that this process has computed, by path, size and times."""


def file_digest(path: Path) -> Digest:
    """Size in bytes and SHA-256 of a file."""
    with path.open("rb") as handle:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(handle, "sha256").hexdigest()}


def is_as_written(path: Path, digest: Digest) -> bool:
    """Whether a file is still what it was; read once a process, as long as its size and times stay."""
    stat = path.stat()
    if stat.st_size != digest["size"]:
        return False
    key = (str(path.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    if key not in _KNOWN:
        _KNOWN[key] = file_digest(path)
    return _KNOWN[key] == digest


def write_manifest(folder: Path) -> None:
    """List a folder's files with their digests in its `manifest.json`."""
    (folder / MANIFEST).unlink(missing_ok=True)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    entries = {path.relative_to(folder).as_posix(): file_digest(path) for path in files}
    (folder / MANIFEST).write_text(json.dumps(entries, indent=1), encoding="utf-8")


def find_fault(folder: Path, names: Collection[str] | None = None) -> str | None:
    """What is wrong with a folder: a file that is missing or differs from the manifest; None if nothing is.

    Args:
        names: only these files; by default all.
    """
    entries = _entries(folder)
    if entries is None:
        return f"no readable {MANIFEST}"
    for name, digest in entries.items():
        if names is not None and name not in names:
            continue
        file = inside(folder, name, named_in=folder / MANIFEST, links=True)
        if not file.is_file():
            return f"{name} is missing"
        if not is_as_written(file, digest):
            return f"{name} is {DAMAGED}"
    return None


def check_folder(folder: str | Path, remedy: str = "write it again") -> None:
    """Refuse a folder of which something isn't what was written; one without a manifest of ours is as it is.

    Args:
        remedy: what writes it again.

    Raises:
        UserError: names the file.
    """
    folder = Path(folder)
    fault = find_fault(folder) if _entries(folder) is not None else None
    if fault:
        name, _, what = fault.partition(" is ")
        manifest = folder / MANIFEST
        raise UserError(f"{folder / name}: {what}; {remedy}, or delete {manifest} if you have changed it yourself")


def _entries(folder: Path) -> dict[str, Digest] | None:
    """The manifest; None if there is none, or another program's."""
    try:
        entries = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    ours = isinstance(entries, dict) and all(
        isinstance(entry, dict) and entry.keys() == {"size", "sha256"} for entry in entries.values()
    )
    return entries if ours else None
