"""Which code made a run: the git commit of this package."""

from __future__ import annotations

import json
import subprocess
from importlib import metadata
from pathlib import Path

import mlm_pretrain

PACKAGE = Path(mlm_pretrain.__file__).parent


def source_commit() -> str | None:
    """The commit that this package was installed from, or that its checkout is at (`+` where files were changed since).

    None if there is none: a wheel of a package index tells its version alone.
    """
    return _of_checkout() or _of_installation()


def _of_checkout() -> str | None:
    commit = _git("rev-parse", "HEAD")
    # The package may lie inside another project's repository, in an environment of its, say.
    if commit is None or _git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    return commit + ("+" if _git("status", "--porcelain", "--untracked-files=no", ".") else "")


def _of_installation() -> str | None:
    """As pip notes it (PEP 610) where it installs from a repository."""
    try:
        text = metadata.distribution("mlm-pretrain").read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return None
    commit = json.loads(text or "{}").get("vcs_info", {}).get("commit_id")
    return str(commit) if commit else None


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(PACKAGE), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
