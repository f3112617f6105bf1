"""The run directory: every path and file name of a run stands here, and nowhere else.

What a stage makes reaches the next through these files, so that any stage can be rerun alone. All small files are
written beside their place and renamed, so that a killed process leaves the old file or the new one, never half.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import IO, Any

import yaml

from mlm_pretrain.config import Config
from mlm_pretrain.config.secrets import access_tokens
from mlm_pretrain.errors import UserError

MANIFEST = "manifest.json"
_HELD: dict[str, IO[str]] = {}
"""The locks that this process holds, by place."""


@contextlib.contextmanager
def held(lock: Path, what: str) -> Iterator[None]:
    """Hold a lock file for this process, which may do so again while it does.

    Args:
        what: the error, where another process holds it.

    Raises:
        UserError: another process holds it.
    """
    place = str(lock.absolute())
    if place in _HELD:
        yield
        return
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(what) from None
        _HELD[place] = handle
        try:
            yield
        finally:
            _HELD.pop(place, None)


def _let_go() -> None:
    """A forked process that outlives its killed parent for some seconds may not hold the parent's locks."""
    for handle in _HELD.values():
        handle.close()
    _HELD.clear()


os.register_at_fork(after_in_child=_let_go)


class RunDirectory:
    """`<output_dir>/<name>/` and what stands in it."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.config = self.root / "config.yaml"
        self.validation = self.root / "validation.jsonl"
        """The held-out documents that are scored: `{"text", "source"}` rows."""
        self.tokenizer = self.root / "tokenizer"
        self.tokenizer_report = self.tokenizer / "report.json"
        self.prepared = self.root / "prepared"
        """Packed rows, written ahead of training."""
        self.checkpoints = self.root / "checkpoints"
        self.outbox = self.root / "outbox"
        """Checkpoints that are still to be sent to the Hub."""
        self.model = self.root / "model"
        self.tasks = self.root / "tasks"
        self.metrics = self.root / "metrics.jsonl"
        self.results = self.root / "results.json"
        self.trackers = self.root / "trackers"
        self.card = self.root / "README.md"
        self.report = self.root / "report.html"
        self.end = self.root / "end.json"
        """Why the last stage ended, or that it is running."""
        self._stages = self.root / "stages.json"
        self._lock = self.root / ".lock"

    @classmethod
    def of(cls, config: Config) -> RunDirectory:
        return cls(Path(config.run.output_dir) / config.run.name)

    def task(self, name: str) -> Path:
        """The folder of one fine-tuned task: model, tokenizer, card."""
        return self.tasks / name

    def task_errors(self, name: str) -> Path:
        """What a task's model got wrong on the test set, a JSON object a line."""
        return self.tasks / f"{name}.errors.jsonl"

    def checkpoint(self, step: int) -> Path:
        return self.checkpoints / f"step-{step:08d}"

    def write_config(self, config: Config, sections: Collection[str] | None = None) -> None:
        """Write the resolved config into the directory.

        Args:
            sections: where the run has a config already, only these change; by default all.

        Raises:
            UserError: it holds an access token.
        """
        for key in access_tokens(config.model_dump(mode="json")):
            what = f"{key}: holds what looks like a Hub access token (hf_…), which is not written into {self.config}"
            raise UserError(f"{what}: remove it, and log in with `hf auth login` or set HF_TOKEN")
        if sections is not None and self.config.exists():
            standing = yaml.safe_load(self.config.read_text(encoding="utf-8"))
            mine = config.model_dump(mode="json", include=set(sections))
            write_text(self.config, yaml.safe_dump({**standing, **mine}, sort_keys=False, allow_unicode=True))
        else:
            write_text(self.config, config.to_yaml())

    # -- records ---------------------------------------------------------------------------------------------

    def read_results(self) -> dict[str, Any]:
        """The figures of the run so far, as `results.json` has them; empty where there are none."""
        return read_json(self.results)

    def record(self, figures: dict[str, Any]) -> None:
        """Merge figures into `results.json` (nested mappings are merged, everything else replaced)."""
        write_json(self.results, _merged(self.read_results(), figures))

    def record_task(self, name: str, figures: dict[str, Any]) -> None:
        """Put a task's figures in the place of older ones, of which nothing stays."""
        results = self.read_results()
        write_json(self.results, {**results, "tasks": {**results.get("tasks", {}), name: figures}})

    # -- stages ----------------------------------------------------------------------------------------------

    def stands(self, stage: str, inputs: str, output: Path) -> bool:
        """Whether a stage has finished on these inputs (a fingerprint) and its output is still there."""
        return output.exists() and read_json(self._stages).get(stage, {}).get("inputs") == inputs

    @contextlib.contextmanager
    def stage(self, stage: str, inputs: str) -> Iterator[None]:
        """Hold the run, time a stage, and note that it finished on these inputs; not noted where the body raises.

        Raises:
            UserError: another process is at work in this run directory.
        """
        with self.locked():
            started = time.monotonic()
            # Until it has finished again, a stage that is being rerun doesn't stand.
            self._note_stage(stage, None)
            yield
            self._finish(stage, inputs, time.monotonic() - started)

    def _finish(self, stage: str, inputs: str, elapsed: float) -> None:
        seconds = round(elapsed, 3)
        finished = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._note_stage(stage, {"inputs": inputs, "seconds": seconds, "finished": finished})
        self.record({"seconds": {stage: seconds}})

    def _note_stage(self, stage: str, entry: dict[str, Any] | None) -> None:
        stages = read_json(self._stages)
        stages.pop(stage, None)
        write_json(self._stages, stages | ({stage: entry} if entry else {}))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process, which may do so again while it does.

        Raises:
            UserError: another process is at work in this run directory.
        """
        what = f"{self.root}: another process is at work in this run; wait for it, or choose another run.name"
        with held(self._lock, what):
            # What a process was replacing when it was killed.
            for target in (self.tokenizer, self.model, *self.tasks.glob(".*.old")):
                restore_folder(target.with_name(target.name.removeprefix(".").removesuffix(".old")))
            yield


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: beside it, fsynced, renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("w", encoding="utf-8") as handle:
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
    """
    beside = target.with_name(f".{target.name}.tmp")
    restore_folder(target)
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    fsync(target.parent.parent)
    try:
        fill(beside)
        if manifest:
            entries = {path.name: file_digest(path) for path in sorted(beside.iterdir())}
            (beside / MANIFEST).write_text(json.dumps(entries, indent=1), encoding="utf-8")
        for path in beside.rglob("*"):
            if path.is_file():
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


def restore_folder(target: Path) -> None:
    """Put a folder back that `write_folder` was about to replace when it was killed."""
    old = target.with_name(f".{target.name}.old")
    if old.is_dir() and not target.exists():
        old.rename(target)


def file_digest(path: Path) -> dict[str, Any]:
    """Size in bytes and SHA-256 of a file."""
    with path.open("rb") as handle:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(handle, "sha256").hexdigest()}


def fsync(path: Path) -> None:
    """Let a file's contents, or a folder's entries, reach the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, data: Any) -> None:
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty where the file is missing.

    Raises:
        UserError: the file is damaged.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: damaged ({error}); delete it and rerun the stage that writes it") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected a JSON object; delete it and rerun the stage that writes it")
    return data


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    result = dict(old)
    for key, value in new.items():
        both_mappings = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = _merged(result[key], value) if both_mappings else value
    return result
