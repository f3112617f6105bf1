"""What the figures about tasks share: an encoder, and labelled sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from figures.common import fresh, run_stage
from figures.trainer import reference_config, train_tokenizer
from mlm_pretrain import stages
from mlm_pretrain.config import TaskConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.run import RunDirectory

BRIEF: dict[str, dict[str, Any]] = {
    "training": {"optim": "muon", "learning_rate": 1e-3, "lr_scheduler_type": "linear"},
    "objective": {"mlm_probability": 0.4},
}
"""How the encoder is pretrained, for a minute; AdamW and the default schedule weren't compared with it on so few steps
(configs/RECIPES.md)."""
TRAIN_EXAMPLES = 1000
"""At most, of each set."""
TEST_EXAMPLES = 1000
SEEDS = (0, 1, 2)
RECIPE: dict[str, Any] = {
    "num_train_epochs": 3,
    "learning_rate": 3e-4,
    "per_device_train_batch_size": 16,
    "warmup_steps": 0.1,
    "max_train_samples": TRAIN_EXAMPLES,
    "max_eval_samples": TEST_EXAMPLES,
    "seeds": list(SEEDS),
}
"""For both sides."""
ENDINGS = {".jsonl": "classification", ".conll": "ner"}


def text_of(data: Path | None) -> Path | None:
    """The folder `text` of a folder of labelled sets, where it has one."""
    return data / "text" if data is not None and (data / "text").is_dir() else None


def encoder(folder: Path, minutes: float) -> Path:
    """Pretrain the reference model on the documentation strings for so many minutes; its folder."""
    training = {**BRIEF["training"], "budget": {"minutes": minutes}}
    config = reference_config(folder, None, **{**BRIEF, "training": training})
    train_tokenizer(config)
    fresh(run_stage, stages.pretrain, config)
    return RunDirectory.of(config).model


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
