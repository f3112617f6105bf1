"""What the figures about tasks share: an encoder, and labelled sets."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from figures.reference import our_training, reference
from figures.session import fresh
from figures.setting import Bench
from mlm_pretrain.config import TaskConfig
from mlm_pretrain.console import telemetry
from mlm_pretrain.errors import UserError
from mlm_pretrain.run import RunDirectory

BRIEF: dict[str, dict[str, Any]] = {
    "training": {"optim": "muon", "learning_rate": 1e-3, "lr_scheduler_type": "linear"},
    "objective": {"mlm_probability": 0.4},
}
"""How the encoder is pretrained, for a minute; AdamW and the default schedule weren't compared with it on so few steps
(configs/RECIPES.md)."""
ENCODER_SECONDS = 15
"""Of its pretraining, for each whole minute of the figure's time."""
EXAMPLES = (60, 1000)
"""To train on: of all sets together, for each whole minute of the figure's time; and of each set at most."""
TEST_EXAMPLES = 1000
"""Of each set at most, and no more than twice those to train on."""
RECIPE: dict[str, Any] = {
    "num_train_epochs": 3,
    "learning_rate": 3e-4,
    "per_device_train_batch_size": 16,
    "warmup_steps": 0.1,
    "seeds": [0],
}
"""For both sides."""
MINUTES_A_SET = 1.0
"""A set that gets less is measured by what every start costs, so that fewer sets are taken instead."""
ENDINGS = {".jsonl": "classification", ".conll": "ner"}


def text_of(data: Path | None) -> Path | None:
    """The folder `text` of a folder of labelled sets, where it has one."""
    return data / "text" if data is not None and (data / "text").is_dir() else None


def encoder(bench: Bench) -> Path:
    """The reference model, pretrained on the documentation strings; its folder."""
    config, _ = reference(bench, None, **BRIEF)
    seconds = ENCODER_SECONDS * bench.minutes

    def make(folder: Path) -> None:
        fresh(our_training, config, seconds, folder)

    depends = {"seconds": seconds, "config": config.model_dump(mode="json", exclude={"run"})}
    return RunDirectory(bench.kept("encoder", depends, make)).model


def sets_of(bench: Bench, examples: tuple[int, int] = EXAMPLES) -> list[TaskConfig]:
    """The labelled sets, each with as many examples to train on as suit the time, at most."""
    tasks = sets_in_time(bench)
    in_a_minute, most = examples
    share = min(in_a_minute * bench.minutes // len(tasks), most)
    sizes = {"max_train_samples": share, "max_eval_samples": min(2 * share, TEST_EXAMPLES)}
    return [task.model_copy(update=sizes) for task in tasks]


def sets_in_time(bench: Bench) -> list[TaskConfig]:
    """Of the labelled sets, by name, as many as have a minute each; two at least. What is left out is said."""
    tasks = labelled_sets(bench.data)
    fitting = max(int(bench.minutes / MINUTES_A_SET), 2)
    if left_out := [task.name for task in tasks[fitting:]]:
        telemetry.say(f"no time for {', '.join(left_out)}: --minutes {len(tasks) * MINUTES_A_SET:g} measures all sets")
    return tasks[:fitting]


def with_seed(task: TaskConfig, number: int) -> TaskConfig:
    """For a round: a seed of its own."""
    return task.model_copy(update={"seeds": [number]})


def mean_and_std(name: str, scores: list[float]) -> dict[str, float]:
    """The mean over the rounds, and the standard deviation where there is more than one."""
    deviation = {f"{name}_std": statistics.stdev(scores)} if len(scores) > 1 else {}
    return {name: statistics.fmean(scores), **deviation}


def labelled_sets(data: Path | None) -> list[TaskConfig]:
    """The sets of a folder, or those that come from the installed documentation.

    Args:
        data: a folder with a folder a set, in which the files that begin with `train`, `dev` or `val`, and `test` are
            its splits: jsonl with `text` and `label`, or CoNLL.

    Raises:
        UserError: there is none.
    """
    if data is None:
        kinds = {"library": "classification", "api": "ner"}
        return [TaskConfig(task=task, name=name, source="installed_docs", **RECIPE) for name, task in kinds.items()]
    tasks = [task for folder in sorted(data.iterdir()) if (task := _task_of(folder)) is not None]
    if not tasks:
        raise UserError(f"--data: {data} has no folder with train.jsonl or train.conll, and test")
    return tasks


def _task_of(folder: Path) -> TaskConfig | None:
    for ending, task in ENDINGS.items():
        files = {
            split: next((str(path) for name in names for path in sorted(folder.glob(f"{name}*{ending}"))), None)
            for split, names in {"train": ("train",), "validation": ("dev", "val"), "test": ("test",)}.items()
        }
        if files["train"] and files["test"]:
            return TaskConfig(task=task, name=folder.name, **files, **RECIPE)
    return None
