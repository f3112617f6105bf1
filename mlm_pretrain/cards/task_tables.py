"""The tables of a task's card, and of the tasks on the encoder's: plain rows of text, made from a run's records."""

from __future__ import annotations

import math
from typing import Any

from mlm_pretrain.cards.tables import Row, number, optimizer_rows, percent, spread
from mlm_pretrain.config import TaskConfig
from mlm_pretrain.escaping import markdown_code
from mlm_pretrain.records.facts import CardFacts
from mlm_pretrain.records.tasks import TaskFacts, TaskResult
from mlm_pretrain.tasks.scores.many_classes import note

ADAPTATIONS = {
    "full": "all weights trained",
    "lora": "low-rank adapters (LoRA) and the head trained",
    "frozen": "frozen; a linear probe of its last hidden states",
}
NAMES = {"ece": "expected calibration error", "ece_uncalibrated": "expected calibration error without the temperature"}


def task_recipe_rows(task: TaskFacts) -> list[Row]:
    config, result = task.config, task.result
    if config is None:
        return []
    if result is not None:
        recorded = {"learning_rate": result.learning_rate, "num_train_epochs": result.num_train_epochs}
        config = config.model_copy(update={key: value for key, value in recorded.items() if value is not None})
    length = f"{config.max_steps:,} steps" if config.max_steps else _epochs(config)
    seeds = result.seeds if result and result.seeds else config.seeds
    how = (result.encoder if result else None) or config.encoder
    rank = f", rank {config.lora.r}" if how == "lora" else ""
    return [
        ("Encoder", ADAPTATIONS.get(how, how) + rank),
        ("Length", length),
        ("Batch size", str(config.per_device_train_batch_size)),
        *optimizer_rows(config, " (for 1,000 labels; less for more)" if how == "frozen" else ""),
        ("Seeds", ", ".join(str(seed) for seed in seeds)),
    ]


def _epochs(config: TaskConfig) -> str:
    return f"{config.num_train_epochs:g} epochs" if config.num_train_epochs else "by the number of examples"


def task_rows(facts: CardFacts, only: str | None = None) -> list[Row]:
    """Each task's test metric with its spread over the seeds, beside what it is compared with."""
    return [
        (
            name,
            result.metric or "not recorded",
            spread(result.pretrained, result.pretrained_std if len(result.seeds) > 1 else None),
            spread(result.scratch, result.scratch_std if len(result.seeds) > 1 else None),
            spread(result.bag_of_words, None),
            spread(result.majority, None),
            number(result.train_examples),
            number(result.test_examples) + (" (validation)" if result.test_is_validation else ""),
            number(len(result.seeds)) if result.seeds else "not recorded",
        )
        for name, result in facts.measured.items()
        if only in (None, name)
    ]


def behind_rows(facts: CardFacts, only: str | None = None) -> list[str]:
    """The tasks in which the encoder is behind a bag of words."""
    return [
        f"{name} is {result.behind}"
        for name, result in facts.measured.items()
        if result.behind and only in (None, name)
    ]


def result_rows(result: TaskResult | None) -> dict[str, list[Row]]:
    """The tables of a task's results by name; empty ones where there are no results."""
    tables = {"by_seed": seed_rows, "figures": figure_rows, "by_class": class_rows, "curve": curve_rows}
    return {name: rows(result) if result else [] for name, rows in (tables | {"sweep": sweep_rows}).items()}


def seed_rows(result: TaskResult) -> list[Row]:
    """The test metric of each seed; nothing where there is but one."""
    scratch = result.scratch_seeds if len(result.scratch_seeds) == len(result.seeds) else [None] * len(result.seeds)
    if len(result.seeds) < 2 or len(result.pretrained_seeds) != len(result.seeds):
        return []
    return [
        (str(seed), spread(value, None), spread(other, None))
        for seed, value, other in zip(result.seeds, result.pretrained_seeds, scratch, strict=True)
    ]


def figure_rows(result: TaskResult) -> list[Row]:
    """Every plain figure of the test set, means over the seeds; entities found by overlap (`relaxed`) among them."""
    rows: list[Row] = []
    for name, value in result.details.items():
        if name == "relaxed" and isinstance(value, dict):
            rows += [(f"{key}, by overlap", _figure(each)) for key, each in value.items()]
        elif not isinstance(value, dict):
            rows.append((NAMES.get(name, name), _figure(value)))
    return rows


def class_rows(result: TaskResult) -> list[Row]:
    """Precision, recall, F1 and support of each class, or each type of entity, means over the seeds."""
    nested = result.details.get("by_class") or result.details.get("by_type") or {}
    return [
        (
            markdown_code(name),
            *(_figure(row.get(key)) for key in ("precision", "recall", "f1")),
            _count(row.get("support")),
        )
        for name, row in nested.items()
        if isinstance(row, dict)
    ]


def class_note(result: TaskResult | None, name: str) -> str:
    """What the table of classes says of those that it lacks; the file lies beside the task's folder."""
    nested = next((key for key in ("by_class", "by_type") if result and result.details.get(key)), "")
    return note(result.details, nested, f"{name}.classes.json") if result else ""


def curve_rows(result: TaskResult) -> list[Row]:
    several = len(result.seeds) > 1
    return [
        (
            percent(point.fraction),
            number(point.examples),
            spread(point.pretrained, point.pretrained_std if several else None),
            spread(point.scratch, point.scratch_std if several else None),
            spread(point.bag_of_words, None),
        )
        for point in result.learning_curve
    ]


def sweep_rows(result: TaskResult) -> list[Row]:
    """Each recipe that was tried, and what it came to on validation."""
    trials = result.sweep.trials if result.sweep else []
    return [
        (f"{trial.learning_rate:g}", f"{trial.num_train_epochs:g}", _figure((trial.model_extra or {}).get(metric)))
        for metric in [result.metric or ""]
        for trial in trials
        if trial.learning_rate is not None and trial.num_train_epochs is not None
    ]


def _figure(value: Any) -> str:
    return spread(value, None) if isinstance(value, int | float) and math.isfinite(value) else "not recorded"


def _count(value: Any) -> str:
    return number(value, 1) if isinstance(value, int | float) and math.isfinite(value) else "not recorded"
