"""The run directory: every path and file name of a run stands here, and nowhere else.

What a stage makes reaches the next through these files, so that any stage can be rerun alone. All small files are
written beside their place and renamed, so that a killed process leaves the old file or the new one, never half.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import yaml

from mlm_pretrain.config import Config
from mlm_pretrain.config.secrets import REMEDY, find_secrets
from mlm_pretrain.config.yaml_text import write_yaml
from mlm_pretrain.console.spent import counting
from mlm_pretrain.errors import UserError
from mlm_pretrain.io.digests import file_digest
from mlm_pretrain.io.locks import held, is_held
from mlm_pretrain.io.whole import read_json, remove_leftovers, restore_folder, write_json, write_text

BESIDE = "checks and report"
"""What is done outside of stages, in the records of where the time went."""
_CHECKPOINT = re.compile(r"step-\d{8,}")


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
        self._of_stage: dict[str, Any] | None = None
        """What the stage that is being run has recorded so far."""

    @classmethod
    def of(cls, config: Config) -> RunDirectory:
        return cls(Path(config.run.output_dir) / config.run.name)

    def task(self, name: str) -> Path:
        """The folder of one fine-tuned task: model, tokenizer, card."""
        return self.tasks / name

    def task_errors(self, name: str) -> Path:
        """What a task's model got wrong on the test set, a JSON object a line."""
        return self.tasks / f"{name}.errors.jsonl"

    def task_classes(self, name: str) -> Path:
        """The scores of each class, as arrays, where there are too many of them for the results."""
        return self.tasks / f"{name}.classes.json"

    def task_folders(self) -> list[Path]:
        """The folders of fine-tuned models, by name; a copy that somebody has put beside them is none."""
        configured = [task["name"] for task in self.standing_config().get("tasks") or []]
        ours = {*configured, *self.read_results().get("tasks", {})}
        return sorted(path for path in self.tasks.glob("*") if path.name in ours and (path / "config.json").is_file())

    def checkpoint(self, step: int) -> Path:
        return self.checkpoints / f"step-{step:08d}"

    def write_config(self, config: Config, sections: Collection[str] | None = None, task: str | None = None) -> None:
        """Write the resolved config into the directory, as what a stage is run with.

        A task whose results the run has keeps the settings that they came with.

        Args:
            sections: if the run has a config already, only these change; by default all.
            task: the one that is about to be run.

        Raises:
            UserError: it holds a secret, or another process is at work in this run directory.
        """
        for key, what in find_secrets(config.model_dump(mode="json")):
            raise UserError(f"{key}: holds what looks like {what}, which is not written into {self.config}: {REMEDY}")
        written = config.model_dump(mode="json")
        with self.locked():
            if standing := self.standing_config():
                written["tasks"] = self._tasks_to_write(standing.get("tasks") or [], written["tasks"], task)
                if sections is not None:
                    written = {**standing, **{key: written[key] for key in sections}}
            write_text(self.config, write_yaml(written))

    def standing_config(self) -> dict[str, Any]:
        """What `config.yaml` says, as plain data; empty if there is none.

        Raises:
            UserError: it is damaged, or can't be read.
        """
        try:
            standing = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):  # no such run, nor can there be
                return {}
            raise UserError(f"{self.config}: {error.strerror}") from None
        except (UnicodeDecodeError, yaml.YAMLError) as error:
            raise UserError(f"{self.config}: damaged ({error}); delete it and rerun the stage") from None
        return standing if isinstance(standing, dict) else {}

    def _tasks_to_write(self, standing: list[Any], asked: list[Any], run_now: str | None) -> list[Any]:
        """The tasks that are asked for, but those that have results as they came with them."""
        kept = self.read_results().get("tasks", {}).keys() - {run_now}
        by_name = {task["name"]: task for task in standing if task["name"] in kept}
        tasks = [by_name.pop(task["name"], task) for task in asked]
        return [*tasks, *by_name.values()]

    # -- records ---------------------------------------------------------------------------------------------

    def read_results(self) -> dict[str, Any]:
        """The results of the run so far, as `results.json` has them; empty if there are none."""
        return read_json(self.results)

    def record(self, results: dict[str, Any]) -> None:
        """Merge results into `results.json` (nested mappings are merged, everything else replaced).

        Raises:
            UserError: another process is at work in this run directory.
        """
        with self.locked():
            write_json(self.results, _merged(self.read_results(), results))
        if self._of_stage is not None:
            self._of_stage = _merged(self._of_stage, results)

    def record_task(self, name: str, results: dict[str, Any]) -> None:
        """Put a task's results in the place of older ones, of which nothing stays."""
        with self.locked():
            standing = self.read_results()
            standing.get("tasks", {}).pop(name, None)
            write_json(self.results, standing)
            self.record({"tasks": {name: results}})

    # -- stages ----------------------------------------------------------------------------------------------

    def note(self, stage: str) -> dict[str, Any]:
        """What is noted of a stage: that it has `begun`, or when it has `finished`, on which `inputs`, and its
        `results`; empty if it was never run."""
        return read_json(self._stages).get(stage, {})

    @contextlib.contextmanager
    def stage(self, stage: str, inputs: str, files: Collection[Path] = ()) -> Iterator[None]:
        """Hold the run, time a stage, and note that it finished on these inputs; not noted where the body raises.

        Args:
            files: what it writes besides folders, which have manifests; their digests are noted.

        Raises:
            UserError: another process is at work in this run directory.
        """
        with self.locked(), counting() as spent:
            # Until it has finished again, a stage that is being rerun isn't up to date.
            self._note_stage(stage, {"begun": _now()})
            self._of_stage = {}
            try:
                yield
                self._finish(stage, inputs, spent.seconds, files)
            finally:
                self._of_stage = None

    def _finish(self, stage: str, inputs: str, spent: dict[str, float], files: Collection[Path]) -> None:
        seconds = self._record_spent(stage, spent)
        digests = {path.name: file_digest(path) for path in files}
        note = {"inputs": inputs, "seconds": seconds, "finished": _now(), "files": digests, "results": self._of_stage}
        self._note_stage(stage, note)

    def _record_spent(self, stage: str, spent: dict[str, float]) -> float:
        seconds = round(sum(spent.values()), 3)
        self.record({"activities": {stage: None}})  # else what was there before would stay
        activities = {what: round(each, 3) for what, each in spent.items()}
        self.record({"seconds": {stage: seconds}, "activities": {stage: activities}})
        return seconds

    def record_beside(self, spent: dict[str, float]) -> None:
        """Record what a command did outside of stages: seconds by activity."""
        self._of_stage = {}
        self._record_spent(BESIDE, spent)
        self._note_stage(BESIDE, {"results": self._of_stage})
        self._of_stage = None

    def _note_stage(self, stage: str, entry: dict[str, Any]) -> None:
        write_json(self._stages, {**read_json(self._stages), stage: entry})

    @contextlib.contextmanager
    def locked(self, otherwise: str = "choose another run.name") -> Iterator[None]:
        """Hold the run for this process, which may do so again while it does.

        Args:
            otherwise: what to do rather than wait.

        Raises:
            UserError: another process is at work in this run directory.
        """
        what = f"{self.root}: another process is at work in this run; wait for it, or {otherwise}"
        begins = not is_held(self._lock)
        with held(self._lock, what):
            if begins:
                self._mend()
            yield

    def _mend(self) -> None:
        """Put back what a process was replacing when it was killed, and results that were deleted; remove leftovers."""
        for target in (self.tokenizer, self.model, *self.tasks.glob(".*.old")):
            restore_folder(target.with_name(target.name.removeprefix(".").removesuffix(".old")))
        for folder in (self.root, self.tasks, self.tokenizer, self.model, *self.task_folders()):
            remove_leftovers(folder)
        if not self.results.exists():
            results: dict[str, Any] = {}
            for note in read_json(self._stages).values():
                results = _merged(results, note.get("results", {}))
            if results:
                write_json(self.results, results)


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints in a folder, by step; what has another name (`step-00000300.bak`) is somebody else's."""
    return sorted(path for path in folder.glob("step-*") if _CHECKPOINT.fullmatch(path.name) and path.is_dir())


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    result = dict(old)
    for key, value in new.items():
        both_mappings = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = _merged(result[key], value) if both_mappings else value
    return result
