"""What every figure is given: its time, its folders, and what was prepared before."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import mlm_pretrain
from figures.budget import Budget
from mlm_pretrain.hardware.device import describe_device

UNUSED_DAYS = 14
"""After so many days without use, something kept is deleted."""
_KEPT = re.compile(r"bench-[a-z]+-[0-9a-f]{16}")
VERSIONS = ("torch", "transformers", "datasets", "tokenizers")


@dataclass
class Bench:
    """One call of a figure."""

    budget: Budget
    folder: Path
    """Empty, for this figure alone."""
    work: Path
    """What is kept between calls."""
    data: Path | None = None
    """The user's own text or labelled sets."""

    @property
    def minutes(self) -> int:
        """Whole minutes of the budget, at least one. Sizes that follow them are the same in every call."""
        return max(int(self.budget.seconds / 60), 1)

    def kept(self, name: str, depends: dict[str, Any], make: Callable[[Path], None]) -> Path:
        """A folder that was made by an earlier call, or is made now.

        Args:
            name: of letters.
            depends: what its content follows from, beside the code of the package and the versions of libraries.
            make: fills the folder that it is given; what fails leaves nothing.
        """
        folder = self.work / _name(name, {"code": code_digest(), **depends})
        if not folder.is_dir():
            with self.budget.spending(f"preparing: {name}"), tempfile.TemporaryDirectory(dir=self.work) as partial:
                make(Path(partial, "made"))
                with contextlib.suppress(OSError):  # another call has made it meanwhile
                    Path(partial, "made").rename(folder)
        os.utime(folder)
        return folder


def open_work(folder: Path) -> Path:
    """Make the folder for what is kept, and delete what of it wasn't used for long.

    The compiler's graphs are kept there too: processes that are started from now on read and write them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    compiled = folder / _name("compiled", {})
    compiled.mkdir(exist_ok=True)
    os.utime(compiled)
    for old in folder.iterdir():
        # The user may keep other things there.
        if _KEPT.fullmatch(old.name) and time.time() - old.stat().st_mtime > 86400 * UNUSED_DAYS:
            shutil.rmtree(old, ignore_errors=True)
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(compiled))
    return folder


def _name(name: str, depends: dict[str, Any]) -> str:
    described = json.dumps({"versions": versions(), **depends}, sort_keys=True, default=str)
    return f"bench-{name}-{hashlib.sha256(described.encode()).hexdigest()[:16]}"


@functools.cache
def code_digest() -> str:
    """Of the package's source: what another commit has prepared isn't used."""
    root = Path(mlm_pretrain.__file__).parent
    whole = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        whole.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes())
    return whole.hexdigest()


def versions() -> dict[str, str]:
    """Of the libraries that figures depend on."""
    return {name: version(name) for name in VERSIONS}


def device_here() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def machine() -> dict[str, str]:
    """What the figures were measured on, and of what."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return {
        "commit": _commit(),
        "processor": model or platform.processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "device": describe_device(device_here()),
        "python": platform.python_version(),
        **versions(),
    }


def _commit() -> str:
    """Of the checkout that this file is in, marked if something was changed since; else the package's version."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return f"version {mlm_pretrain.__version__}"
