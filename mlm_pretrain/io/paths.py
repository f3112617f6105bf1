"""Paths that come from files, or from folders that others made: each stays inside its folder, or is refused."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from mlm_pretrain.errors import UserError


def inside(folder: str | Path, name: str | Path, *, named_in: str | Path | None = None, links: bool = False) -> Path:
    """The path `folder / name`, if it leads to something inside `folder`, or to the folder itself.

    Args:
        folder: where the path has to stay; it may be a symlink itself.
        name: a path relative to `folder`, or one that was found there, and starts with it.
        named_in: the file that `name` was read from, for the error; what it names is relative to `folder`.
        links: whether a symlink in `folder` may lead out of it, so that only the name is looked at. For reading:
            the Hub's cache is made of such links. Never for what is sent, written or deleted.

    Returns:
        The path with its symlinks as they are.

    Raises:
        UserError: it is absolute, climbs out by `..`, is no path, or (unless `links`) a symlink leads out.

    Example:
        >>> inside("prepared", "source-00/lane-000-00000.parquet").as_posix()
        'prepared/source-00/lane-000-00000.parquet'
        >>> inside("prepared", "../config.yaml", named_in="prepared/manifest.json")
        Traceback (most recent call last):
        mlm_pretrain.errors.UserError: prepared/manifest.json: names '../config.yaml', which is outside of prepared; \
nothing outside of it is read or written: write that file again
    """
    base = Path(folder)
    if not isinstance(name, str | Path) or "\0" in str(name):
        raise UserError(f"{named_in or base}: {name!r} can't be the name of a file; write that file again")
    # What was found in a relative folder starts with it already.
    found = named_in is None and Path(name).is_relative_to(base)
    path = Path(name) if found else base / name
    if not path.is_relative_to(base) or ".." in path.relative_to(base).parts:
        raise UserError(
            f"{named_in or base}: names '{name}', which is outside of {base}; nothing outside of it is read or "
            f"written: write that file again"
        )
    if not links:
        _refuse_links(base, path)
    return path


def files_inside(folder: str | Path, pattern: str = "*", *, within: str | Path | None = None) -> Iterator[Path]:
    """The files in a folder that match a glob pattern, sorted.

    Args:
        within: the folder that nothing may lead out of; by default `folder`.

    Raises:
        UserError: a symlink leads out.
    """
    for path in sorted(Path(folder).glob(pattern)):
        if path.is_file():
            yield inside(within or folder, path)


def _refuse_links(base: Path, path: Path) -> None:
    end = Path(os.path.realpath(path))  # unlike `Path.resolve`, the same for loops in every version of Python
    if not end.is_relative_to(os.path.realpath(base)):
        raise UserError(
            f"{path}: a symlink leads out of {base}, to {end}; put what it leads to in its place, or remove it"
        )
