"""What a task learns from, read and looked at before there is any model."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.console.telemetry import say
from mlm_pretrain.errors import UserError, nearest
from mlm_pretrain.tasks.adapter import TaskAdapter
from mlm_pretrain.tasks.data.splits import LabelledData, Splits, complete, read_splits
from mlm_pretrain.tasks.kinds.registered import TASKS
from mlm_pretrain.tasks.labels.names import warn_of_twins, warn_of_unseen

MOST = 200_000
"""Rows of each split that are looked at before pretraining."""


@dataclass(frozen=True)
class Materials:
    """The labelled data of a task, and what follows from it."""

    adapter: type[TaskAdapter]
    data: LabelledData
    labels: list[str]
    """Of the model's outputs, in their order."""
    metric: str
    """The name of the score that chooses models."""
    dropped: dict[str, dict[str, int]]
    """By split and reason, the rows that couldn't be used."""


def read_materials(task: TaskConfig, held_out_fraction: float) -> Materials:
    """Read a task's data and check that the recipe goes with it.

    Raises:
        UserError: with the place, for whatever is missing, malformed, or no data to learn from.
    """
    adapter = TASKS[task.task]
    return _materials(task, adapter, read_splits(task, adapter, held_out_fraction))


def look_at(task: TaskConfig) -> Materials | None:
    """As `read_materials`, of the first `MOST` rows of each split; None if there are more, which may have more labels.

    Raises:
        UserError: as `read_materials`, as far as has been read.
    """
    adapter = TASKS[task.task]
    splits = read_splits(task, adapter, most=MOST + 1)
    if max(len(rows or ()) for rows in (splits.train, splits.validation, splits.test)) > MOST:
        say(f"{task.name}: the first {MOST:,} rows of each split can be used; the others aren't looked at yet")
        return None
    return _materials(task, adapter, splits)


def _materials(task: TaskConfig, adapter: type[TaskAdapter], splits: Splits) -> Materials:
    labels = adapter.label_names(splits.train, task)
    data = complete(splits, task, adapter)
    adapter.check(data.train, labels, task)
    warn_of_twins(task.name, labels)
    learnt = {name for example in data.train for name in adapter.labels_in(example)}
    scored = data.validation if data.test_is_validation else [*data.validation, *data.test]
    warn_of_unseen(task.name, learnt, Counter(name for example in scored for name in adapter.labels_in(example)))
    return Materials(adapter, data, labels, _metric(task, adapter, data), splits.dropped)


def _metric(task: TaskConfig, adapter: type[TaskAdapter], data: LabelledData) -> str:
    """The score that chooses models: the config's, looked for before anything is trained, or the task's own."""
    metric = task.metric_for_best_model
    if metric is None:
        return adapter.metric
    baseline = adapter.metrics(data.validation, adapter.majority(data.train, data.validation))
    names = sorted(name for name, value in baseline.items() if isinstance(value, int | float))
    if metric not in names:
        raise UserError(f"task '{task.name}': metric_for_best_model: no '{metric}'{nearest(metric, names)}")
    return metric
