"""Repositories in memory: commits of whole trees, branches, tags."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

USER = "tester"
TOKEN = "hf_" + "TestTokenOfTheLocalHub1234"

Files = dict[str, bytes]


class HubError(Exception):
    """An answer with an error status; `code` is what the client tells kinds of 404 by."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass(frozen=True)
class Commit:
    files: Files
    lfs: frozenset[str]
    title: str
    parent: Commit | None = None
    date: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def oid(self) -> str:
        tree = "".join(f"{path} {git_oid(data)}\n" for path, data in sorted(self.files.items()))
        return hashlib.sha1(f"{self.parent and self.parent.oid} {self.date} {self.title}\n{tree}".encode()).hexdigest()

    def history(self) -> list[Commit]:
        """From this one back to the first."""
        return [self, *(self.parent.history() if self.parent else [])]


class Repo:
    """The properties are those of `main`."""

    def __init__(self, private: bool) -> None:
        self.private = private
        first = Commit({".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}, frozenset(), "first")
        self.branches = {"main": first}
        self.tags: dict[str, Commit] = {}

    @property
    def files(self) -> Files:
        """What was sent; the Hub's own file is left out."""
        return self.files_at("main")

    @property
    def lfs(self) -> set[str]:
        return set(self.branches["main"].lfs)

    @property
    def commits(self) -> list[str]:
        """From the first to the newest."""
        return [commit.oid for commit in reversed(self.branches["main"].history())]

    def files_at(self, revision: str) -> Files:
        return {path: data for path, data in self.at(revision).files.items() if path != ".gitattributes"}

    def at(self, revision: str) -> Commit:
        """By branch, tag or commit."""
        for refs, prefix in ((self.branches, "refs/heads/"), (self.tags, "refs/tags/")):
            if (found := refs.get(revision.removeprefix(prefix))) is not None:
                return found
        for commit in [each for tip in self.branches.values() for each in tip.history()]:
            if commit.oid == revision:
                return commit
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def commit(self, branch: str, changes: dict[str, bytes | None], lfs: set[str], title: str) -> Commit:
        """Put files (or remove them: None) on a branch's tip."""
        if branch not in self.branches:
            raise HubError(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        tip = self.branches[branch]
        files = {**tip.files, **changes}
        kept = {path: data for path, data in files.items() if data is not None}
        pointers = frozenset(path for path in ((tip.lfs - set(changes)) | lfs) if path in kept)
        self.branches[branch] = Commit(kept, pointers, title, tip)
        return self.branches[branch]


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def entries(commit: Commit, folder: str, recursive: bool) -> list[dict[str, Any]]:
    """A tree, as the Hub lists it."""
    start = f"{folder}/" if folder else ""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(commit.files):
        if not path.startswith(start):
            continue
        parts = path.removeprefix(start).split("/")
        for depth in range(1, len(parts)):
            inner = start + "/".join(parts[:depth])
            if recursive or depth == 1:
                found[inner] = {"type": "directory", "path": inner, "oid": git_oid(inner.encode()), "size": 0}
        if recursive or len(parts) == 1:
            found[path] = entry(commit, path)
    return list(found.values())


def entry(commit: Commit, path: str) -> dict[str, Any]:
    data = commit.files[path]
    plain = {"type": "file", "path": path, "size": len(data), "oid": git_oid(data)}
    if path in commit.lfs:
        plain["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 134}
    return plain
