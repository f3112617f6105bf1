"""The labelled data of a task: from files, the Hub or the installed documentation, as train, validation and test.

Every choice (which examples are held out for validation, which remain under `max_train_samples`) follows a hash of
the text, so that it is the same in every run and on every machine, and duplicates stay on one side.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import datasets
from datasets import Dataset, load_dataset

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.errors import UserError, nearest
from mlm_pretrain.tasks.adapter import Example, TaskAdapter
from mlm_pretrain.tasks.readers import read_examples


@dataclass(frozen=True)
class Splits:
    """Labelled data as its source has it."""

    train: list[Example]
    validation: list[Example] | None
    test: list[Example] | None


@dataclass(frozen=True)
class LabelledData:
    """What a task trains on, chooses by, and is scored on."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]
    test_is_validation: bool
    """There is no test set: the scores are those on validation."""


def read_splits(task: TaskConfig, adapter: type[TaskAdapter], held_out_fraction: float = 0.0) -> Splits:
    """Read all labelled data of a task.

    Args:
        adapter: the task, which makes the examples.
        held_out_fraction: installed_docs: share of the documents that pretraining doesn't see.

    Raises:
        UserError: with the place, for whatever is missing or malformed.
    """
    source = task.source or ("hub" if task.path else "files" if task.train else None)
    if source == "files":
        return _from_files(task, adapter)
    if source == "hub":
        return _from_hub(task, adapter)
    if source == "installed_docs":
        # Reading the installed packages is nothing that the other sources need.
        from mlm_pretrain.tasks.installed_docs import load_examples

        plain = TaskConfig(task=task.task, name=task.name, tags_column="tags")
        rows = load_examples(task.task, held_out_fraction)
        splits = {
            name: [
                adapter.make_example(row, plain, f"installed_docs, {name} example {number}")
                for number, row in enumerate(rows[name])
            ]
            for name in ("train", "validation", "test")
        }
        return Splits(**splits)
    raise UserError(f"task '{task.name}': no data; give train (a file), path (a Hub dataset) or source: installed_docs")


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


def _from_files(task: TaskConfig, adapter: type[TaskAdapter]) -> Splits:
    if task.train is None:
        raise UserError(f"task '{task.name}': train names no file; fine-tuning needs labelled examples")
    return Splits(
        train=read_examples(task.train, adapter, task),
        validation=read_examples(task.validation, adapter, task) if task.validation else None,
        test=read_examples(task.test, adapter, task) if task.test else None,
    )


def _from_hub(task: TaskConfig, adapter: type[TaskAdapter]) -> Splits:
    """The splits that the config names, or those called train, validation and test where they exist."""
    if task.path is None:
        raise UserError(f"task '{task.name}': source hub needs path, a dataset repository or folder")
    found = _load_dataset(task)
    train = _hub_rows(task, adapter, found, task.train or "train")
    parts: dict[str, list[Example] | None] = {}
    for name, given in (("validation", task.validation), ("test", task.test)):
        if given is not None:
            parts[name] = _hub_rows(task, adapter, found, given)
        else:
            # Public benchmarks often hide the labels of their test split (-1): as good as no test split.
            # A split that is the test set must not choose models too.
            taken = name == "validation" and task.test == name
            absent = taken or name not in found or _is_unlabelled(found[name], task, adapter)
            parts[name] = None if absent else _hub_rows(task, adapter, found, name)
    return Splits(train, parts["validation"], parts["test"])


def _load_dataset(task: TaskConfig, split: str | None = None) -> Any:
    try:
        return load_dataset(task.path, name=task.config_name, revision=task.revision, split=split)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        named = task.path if split is None else f"{task.path}, split '{split}'"
        raise UserError(f"task '{task.name}': can't load the dataset {named}: {error}") from None


def _hub_rows(task: TaskConfig, adapter: type[TaskAdapter], found: Any, split: str) -> list[Example]:
    if split in found:
        dataset = found[split]
    elif "[" in split or "+" in split:  # the slices and sums of `load_dataset`
        dataset = _load_dataset(task, split)
    else:
        raise UserError(f"task '{task.name}': {task.path} has no split '{split}'{nearest(split, found)}")
    place = f"{task.path}[{split}]"
    column = getattr(task, adapter.label_key)
    names = _class_names(dataset, column)
    examples = []
    for number, row in enumerate(dataset):
        if names is not None:
            row[column] = _named(row[column], names, f"{place}, row {number}")
        examples.append(adapter.make_example(row, task, f"{place}, row {number}"))
    adapter.review(examples)
    return examples


def _class_names(dataset: Dataset, column: str) -> list[str] | None:
    """The names behind the integers of a `ClassLabel` column, or of a column of lists of them."""
    feature = dataset.features.get(column)
    feature = getattr(feature, "feature", feature)
    return feature.names if isinstance(feature, datasets.ClassLabel) else None


def _named(value: Any, names: list[str], place: str) -> Any:
    if isinstance(value, list):
        return [_named(item, names, place) for item in value]
    if value is None or not 0 <= value < len(names):
        raise UserError(f"{place}: the label is {value}, which stands for no class; name a labelled split")
    return names[value]


def _is_unlabelled(dataset: Dataset, task: TaskConfig, adapter: type[TaskAdapter]) -> bool:
    """Whether a split hides its labels behind -1, as the test sets of public benchmarks do."""
    column = getattr(task, adapter.label_key)
    feature = dataset.features.get(column)
    plain = isinstance(feature, datasets.ClassLabel | datasets.Value)
    return plain and all(label in (-1, None) for label in dataset[column])


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
