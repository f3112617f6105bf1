"""The labelled data of a task: from files, the Hub or the installed documentation, as train, validation and test.

Every choice (which examples are held out for validation, which remain under `max_train_samples`) follows a hash of
the text, so that it is the same in every run and on every machine, and duplicates stay on one side.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import datasets
from datasets import Dataset, load_dataset

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.errors import UserError, nearest
from mlm_pretrain.tasks.adapter import Example, TaskAdapter
from mlm_pretrain.tasks.data.examples import Examples, Row
from mlm_pretrain.tasks.data.readers import read_rows, with_names
from mlm_pretrain.tasks.labels.names import label_columns
from mlm_pretrain.text.datasets_cache import settle_datasets_cache


@dataclass(frozen=True)
class Splits:
    """Labelled data as its source has it."""

    train: list[Example]
    validation: list[Example] | None
    test: list[Example] | None
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)
    """By split and reason, the rows that couldn't be used."""


@dataclass(frozen=True)
class LabelledData:
    """What a task trains on, chooses by, and is scored on."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]
    test_is_validation: bool
    """There is no test set: the scores are those on validation."""


def read_splits(
    task: TaskConfig, adapter: type[TaskAdapter], held_out_fraction: float = 0.0, most: int | None = None
) -> Splits:
    """Read all labelled data of a task.

    Args:
        adapter: the task, which makes the examples.
        held_out_fraction: installed_docs: share of the documents that pretraining doesn't see.
        most: of each split, only so many rows.

    Raises:
        UserError: with the place, for whatever is missing or malformed.
    """
    source = task.source or ("hub" if task.path else "files" if task.train else None)
    if source is None:
        problem = "no data; give train (a file), path (a Hub dataset) or source: installed_docs"
        raise UserError(f"task '{task.name}': {problem}")
    plain = TaskConfig(task=task.task, name=task.name, tags_column="tags") if source == "installed_docs" else task
    examples = Examples(adapter, plain)
    found = {"files": _from_files, "hub": _from_hub, "installed_docs": _from_installed_docs}[source]
    for split, (rows, place) in found(task, adapter, held_out_fraction).items():
        examples.read(split, islice(rows, most), place)
    examples.settle()
    made = examples.splits
    return Splits(made["train"], made.get("validation"), made.get("test"), examples.unusable.dropped())


def complete(splits: Splits, task: TaskConfig, adapter: type[TaskAdapter]) -> LabelledData:
    """Carve validation out of train where it is missing, score on validation where test is missing, and limit all.

    Raises:
        UserError: too little data to hold any out.
    """
    train, validation = splits.train, splits.validation
    if validation is None:
        train, validation = _hold_out(train, task, adapter)
    data = LabelledData(
        train=first_examples(train, task.max_train_samples, adapter),
        validation=first_examples(validation, task.max_eval_samples, adapter),
        test=first_examples(validation if splits.test is None else splits.test, task.max_eval_samples, adapter),
        test_is_validation=splits.test is None,
    )
    for name in ("train", "validation", "test"):
        if not getattr(data, name):
            raise UserError(f"task '{task.name}': the {name} set is empty")
    return data


Sources = dict[str, tuple[Iterable[Row], str]]
"""By split its rows, and where they are from."""


def _from_files(task: TaskConfig, adapter: type[TaskAdapter], held_out_fraction: float) -> Sources:
    if task.train is None:
        raise UserError(f"task '{task.name}': train names no file; fine-tuning needs labelled examples")
    files = {"train": task.train, "validation": task.validation, "test": task.test}
    columns = label_columns(task, adapter.label_key)
    return {name: (read_rows(file, task, adapter.reads_conll, columns), file) for name, file in files.items() if file}


def _from_installed_docs(task: TaskConfig, adapter: type[TaskAdapter], held_out_fraction: float) -> Sources:
    # Reading the installed packages is nothing that the other sources need.
    from mlm_pretrain.tasks.data.installed_docs import load_examples

    return {
        name: (((row, f"installed_docs, {name} example {number}") for number, row in enumerate(rows)), "installed_docs")
        for name, rows in load_examples(task.task, held_out_fraction).items()
    }


def _from_hub(task: TaskConfig, adapter: type[TaskAdapter], held_out_fraction: float) -> Sources:
    """The splits that the config names, or those called train, validation and test where they exist."""
    if task.path is None:
        raise UserError(f"task '{task.name}': source hub needs path, a dataset repository or folder")
    found = _load_dataset(task)
    sources = {"train": _hub_rows(task, adapter, found, task.train or "train")}
    for name, given in (("validation", task.validation), ("test", task.test)):
        if given is not None:
            sources[name] = _hub_rows(task, adapter, found, given)
        # Public benchmarks often hide the labels of their test split (-1): as good as no test split.
        # A split that is the test set must not choose models too.
        elif (
            name in found
            and not (name == "validation" and task.test == name)
            and not _is_unlabelled(found[name], task, adapter)
        ):
            sources[name] = _hub_rows(task, adapter, found, name)
    return sources


def _load_dataset(task: TaskConfig, split: str | None = None) -> Any:
    settle_datasets_cache()
    try:
        return load_dataset(task.path, name=task.config_name, revision=task.revision, split=split)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        named = task.path if split is None else f"{task.path}, split '{split}'"
        raise UserError(f"task '{task.name}': can't load the dataset {named}: {error}") from None


def _hub_rows(task: TaskConfig, adapter: type[TaskAdapter], found: Any, split: str) -> tuple[Iterable[Row], str]:
    if split in found:
        dataset = found[split]
    elif "[" in split or "+" in split:  # the slices and sums of `load_dataset`
        dataset = _load_dataset(task, split)
    else:
        raise UserError(f"task '{task.name}': {task.path} has no split '{split}'{nearest(split, found)}")
    place = f"{task.path}[{split}]"
    return _named_rows(dataset, label_columns(task, adapter.label_key), task.label_names, place), place


def _named_rows(dataset: Dataset, columns: list[str], given: list[str] | None, place: str) -> Iterator[Row]:
    """Rows whose class numbers are class names."""
    own = {column: names for column in columns if (names := class_names(dataset.features.get(column)))}
    for number, row in enumerate(dataset):
        yield with_names(row, given, own, columns, f"{place}, row {number}")


def class_names(feature: Any) -> list[str] | None:
    """The names behind the integers of a `ClassLabel` column, or of a column of lists of them."""
    feature = getattr(feature, "feature", feature)
    return feature.names if isinstance(feature, datasets.ClassLabel) else None


def _is_unlabelled(dataset: Dataset, task: TaskConfig, adapter: type[TaskAdapter]) -> bool:
    """Whether a split hides its labels behind -1, as the test sets of public benchmarks do."""
    columns = label_columns(task, adapter.label_key)
    plain = all(isinstance(dataset.features.get(name), datasets.ClassLabel | datasets.Value) for name in columns)
    return plain and all(label in (-1, None) for name in columns for label in dataset[name])


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _hold_out(
    examples: list[Example], task: TaskConfig, adapter: type[TaskAdapter]
) -> tuple[list[Example], list[Example]]:
    """Split by the hash of what belongs together, the lowest hashes to validation."""
    of = [_digest(adapter.group_of(example)) for example in examples]
    digests = sorted(set(of))
    if len(digests) < 2:
        raise UserError(
            f"task '{task.name}': {len(digests)} distinct example, so none can be held out for validation; "
            "give more, or a validation file"
        )
    held_out = set(digests[: min(max(round(task.validation_fraction * len(digests)), 1), len(digests) - 1)])
    return (
        [example for example, digest in zip(examples, of, strict=True) if digest not in held_out],
        [example for example, digest in zip(examples, of, strict=True) if digest in held_out],
    )


def first_examples(examples: list[Example], limit: int | None, adapter: type[TaskAdapter]) -> list[Example]:
    """At most `limit` examples, in the order of their hashes; classes keep their shares.

    The examples of a class with n examples stand at (i + ½)/n of the order, so that every beginning of it has about
    the class shares of the whole.
    """
    if limit is None or len(examples) <= limit:
        return examples
    by_class: dict[str, list[tuple[bytes, int]]] = defaultdict(list)
    for number, example in enumerate(examples):
        by_class[adapter.stratum(example)].append((_digest(adapter.text_of(example)), number))
    order = []
    for members in by_class.values():
        for rank, (digest, number) in enumerate(sorted(members)):
            order.append(((rank + 0.5) / len(members), digest, number))
    return [examples[number] for _, _, number in sorted(order)[:limit]]
