"""The run directory: every path and file name of a run stands here, and nowhere else.

What a stage makes reaches the next through these files, so that any stage can be rerun alone. All small files are
written beside their place and renamed, so that a killed process leaves the old file or the new one, never half.
"""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import yaml

from mlm_pretrain.config import Config
from mlm_pretrain.config.secrets import access_tokens
from mlm_pretrain.errors import UserError
from mlm_pretrain.io.locks import held
from mlm_pretrain.io.whole import read_json, restore_folder, write_json, write_text


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

    def task_classes(self, name: str) -> Path:
        """The scores of each class, as arrays, where there are too many of them for the results."""
        return self.tasks / f"{name}.classes.json"

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


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    result = dict(old)
    for key, value in new.items():
        both_mappings = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = _merged(result[key], value) if both_mappings else value
    return result
