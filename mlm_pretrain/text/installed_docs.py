"""The documentation strings of the packages installed in the running interpreter, as a corpus.

It needs no network: the standard library and the packages that this one stands on are read with `ast` (nothing is
imported), once per environment; the result is kept as a Parquet file. The corpus depends on the versions of these
packages, not on where they lie nor on what else is installed. Tests, vendored copies and this package itself are left
out, as are exact duplicates and documents of fewer than 40 characters.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from packaging.requirements import Requirement
from tqdm.auto import tqdm

from mlm_pretrain.config import fingerprint
from mlm_pretrain.console.bars import progress
from mlm_pretrain.errors import UserError, nearest
from mlm_pretrain.io.cache import cache_folder
from mlm_pretrain.io.locks import wait_for
from mlm_pretrain.text import docstrings

EXTRACTION_VERSION = 2
"""To be raised with every change of what the corpus contains, or of how it is cut: both decide a run's order."""
STDLIB = "stdlib"
MIN_CHARACTERS = 40
_OWN_PACKAGE = "mlm_pretrain"
_SKIPPED_FOLDERS = {
    *("test", "tests", "_test", "_tests", "testing"),
    *("_vendor", "_vendored", "vendor", "vendored", "extern", "externals", "third_party"),
    *("__pycache__", "site-packages", "dist-packages"),
}
_ROW_GROUP = 500
"""Documents; some 300 KB. Row groups are what a stream reads in parallel and shuffles."""
_FEW_FILES = 200
"""Below this, starting processes costs more than it saves."""
_MAX_PROCESSES = 16


class _Module(NamedTuple):
    package: str
    name: str
    path: str


def extract(packages: Sequence[str] | None = None) -> Path:
    """Read the documentation, or find it read already.

    Args:
        packages: import names, and `stdlib` for the standard library; by default that and every package that this
            one needs, directly or through others.

    Returns:
        A Parquet file with the string columns `text`, `package` (top-level import name, or `stdlib`) and
        `qualname` (dotted name of the documented module, class or function), in a fixed order. It stands in the
        cache folder (see `io.cache`).

    Raises:
        UserError: a package isn't installed, nothing is documented, or the cache can't be written.
    """
    digest = fingerprint(identity(packages))
    folder = cache_folder()
    file = folder / f"installed_docs-{digest}.parquet"
    if file.exists():
        return file
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Of several processes that start together, one reads and the others wait for it.
        with (folder / f".installed_docs-{digest}.lock").open("w") as lock:
            wait_for(lock)
            for left in folder.glob(f".{file.name}.*.tmp"):  # of a process that was killed
                left.unlink(missing_ok=True)
            if not file.exists():
                _write(_documents(packages), file)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot write the extracted documentation ({error.strerror or error}); "
            "point the environment variable MLM_PRETRAIN_CACHE to a writable folder"
        ) from None
    return file


def identity(packages: Sequence[str] | None = None) -> dict[str, Any]:
    """What the corpus depends on, as plain data: Python's version, the packages' versions, the extraction."""
    chosen = _chosen(packages)
    providers = importlib.metadata.packages_distributions()
    names = {_normal(name) for package in chosen for name in [package, *providers.get(package, ())]}
    versions = {
        _normal(distribution.metadata["Name"]): distribution.version
        for distribution in importlib.metadata.distributions(path=[str(folder) for folder in _site_folders()])
        if distribution.metadata["Name"]
    }
    return {
        "python": platform.python_version(),
        "extraction": EXTRACTION_VERSION,
        "distributions": {name: versions[name] for name in sorted(names) if name in versions},
        "packages": chosen,
    }


def _chosen(packages: Sequence[str] | None) -> list[str]:
    """The import names to read.

    Raises:
        UserError: one of `packages` isn't installed.
    """
    roots = _roots()
    if packages is None:
        needed = _needed_distributions()
        providers = importlib.metadata.packages_distributions()
        found = {name for name, by in providers.items() if needed & {_normal(each) for each in by}}
        return sorted((found | {STDLIB}) & set(roots))
    for package in packages:
        if package not in roots:
            known = [name for name in roots if not name.startswith("_")]
            raise UserError(f"text.sources.packages: '{package}' is not installed{nearest(package, known)}")
    return sorted(set(packages))


def _needed_distributions() -> set[str]:
    """The distributions that this one requires, directly or through others, extras left out."""
    needed: set[str] = set()
    waiting = [_normal(_OWN_PACKAGE)]
    while waiting:
        try:
            requirements = importlib.metadata.requires(waiting.pop()) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # required on other platforms only
        for requirement in map(Requirement, requirements):
            name = _normal(requirement.name)
            wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if wanted and name not in needed:
                needed.add(name)
                waiting.append(name)
    return needed


def _normal(name: str) -> str:
    return name.lower().replace("_", "-")


def _site_folders() -> list[Path]:
    folders = [Path(entry) for entry in sys.path if Path(entry).name in {"site-packages", "dist-packages"}]
    return list(dict.fromkeys(folder for folder in folders if folder.is_dir()))


def _roots() -> dict[str, list[Path]]:
    """Where the sources of each installed package lie, by import name; files and folders."""
    roots: dict[str, list[Path]] = {STDLIB: [Path(sysconfig.get_paths()["stdlib"])]}
    for folder in _site_folders():
        for entry in folder.iterdir():
            name = entry.stem if entry.suffix == ".py" else entry.name
            if name.isidentifier() and name not in {_OWN_PACKAGE, "__pycache__"}:
                roots.setdefault(name, []).append(entry)
    return roots


def _modules(packages: Sequence[str] | None) -> list[_Module]:
    roots = _roots()
    return sorted(
        module for package in _chosen(packages) for root in roots[package] for module in _under(package, root)
    )


def _under(package: str, root: Path) -> Iterator[_Module]:
    base = root if package == STDLIB else root.parent
    if root.suffix == ".py":
        yield _Module(package, root.stem, str(root))
        return
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in _SKIPPED_FOLDERS]
        for file in files:
            if file.endswith(".py") and not file.startswith("test_") and file != "conftest.py":
                path = Path(folder, file)
                parts = path.relative_to(base).with_suffix("").parts
                yield _Module(package, ".".join(parts[:-1] if parts[-1] == "__init__" else parts), str(path))


def _documents(packages: Sequence[str] | None) -> pa.Table:
    modules = _modules(packages)
    columns: dict[str, list[str]] = {"text": [], "package": [], "qualname": []}
    seen: set[str] = set()
    for module, found in zip(modules, _read([module.path for module in modules]), strict=True):
        for name, text in found:
            if len(text) < MIN_CHARACTERS or text in seen or not _is_unicode(text):
                continue
            seen.add(text)
            columns["text"].append(text)
            columns["package"].append(module.package)
            columns["qualname"].append(f"{module.name}.{name}".strip("."))
    if not seen:
        raise UserError(f"text.sources: the packages {', '.join(packages or ['installed here'])} have no documentation")
    return pa.table(columns, schema=pa.schema([(name, pa.string()) for name in columns]))


def _is_unicode(text: str) -> bool:
    """Whether text can be encoded; a docstring may hold lone surrogates by escapes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read(paths: list[str]) -> list[list[tuple[str, str]]]:
    """The documentation strings of each file, read by a process per core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = 1 if len(paths) < _FEW_FILES else min(cores, _MAX_PROCESSES)
    found: list[list[tuple[str, str]] | None] = [None] * len(paths)
    with progress(len(paths), "read documentation", unit=" files") as bar:
        if processes > 1:
            # Neighbouring files are of similar size: dealing them out in turn gives every process as much.
            shares = [range(start, len(paths), processes) for start in range(processes)]
            with ThreadPoolExecutor(processes) as pool:
                list(pool.map(lambda share: _read_share(paths, share, found, bar), shares))
        for number, path in enumerate(paths):
            if found[number] is None:
                found[number] = docstrings.read_docstrings(path)
                bar.update()
    return [each or [] for each in found]


def _read_share(paths: list[str], share: range, found: list[list[tuple[str, str]] | None], bar: tqdm[Any]) -> None:
    """Let a process of its own read some files. What it doesn't deliver stays None in `found`.

    A plain program, not multiprocessing: that would import the caller's main module again, which a script without
    a main guard, a notebook or a launcher doesn't survive.
    """
    command = [sys.executable, "-I", str(Path(docstrings.__file__))]
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
    except OSError:
        return
    with process:
        assert process.stdin is not None and process.stdout is not None
        try:
            json.dump([paths[number] for number in share], process.stdin)
            process.stdin.close()
            for number, line in zip(share, process.stdout, strict=False):
                found[number] = [(name, text) for name, text in json.loads(line)]
                bar.update()
        except (OSError, json.JSONDecodeError):
            process.kill()


def _write(table: pa.Table, file: Path) -> None:
    beside = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        pq.write_table(table, beside, compression="zstd", row_group_size=_ROW_GROUP)
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)
