"""From rows to examples, whatever their source."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.console.telemetry import warn
from mlm_pretrain.errors import UserError
from mlm_pretrain.tasks.adapter import Example, TaskAdapter
from mlm_pretrain.tasks.labels.unusable import BadExample, Unusable

Row = tuple[dict[str, Any] | BadExample, str]
"""The columns, or why they can't be read, and the place."""


class Examples:
    """The labelled examples of a task: read split by split, then settled together.

    >>> examples = Examples(adapter, task)                 # doctest: +SKIP
    >>> examples.read("train", read_rows("train.csv", task))
    >>> examples.settle()
    >>> examples.splits["train"]
    """

    def __init__(self, adapter: type[TaskAdapter], task: TaskConfig) -> None:
        self.splits: dict[str, list[Example]] = {}
        self.unusable = Unusable()
        self._adapter = adapter
        self._task = task

    def read(self, split: str, rows: Iterable[Row], source: str) -> None:
        """Make the examples of one split; what can't be used is kept for `settle`.

        Raises:
            UserError: there are no rows in `source`.
        """
        made: list[Example] = []
        for row, place in rows:
            self.unusable.rows[split] += 1
            try:
                if isinstance(row, BadExample):
                    raise row
                example = self._adapter.make_example(row, self._task, place)
                check_characters(example, place)
                made.append(example)
            except BadExample as error:
                self.unusable.add(split, error)
        if not self.unusable.rows[split]:
            raise UserError(f"{source}: no examples in it; give a file with labelled rows")
        self.splits[split] = made

    def settle(self, known: Collection[str] = ()) -> None:
        """Bring labels into one form over all splits, and refuse or drop what can't be used.

        Args:
            known: the labels of a finished model.

        Raises:
            UserError: `on_bad_examples: error` and there are bad ones, or a split has no good one.
        """
        for split, bad in self._adapter.settle(self.splits, known):
            self.unusable.add(split, bad)
        if self._task.on_bad_examples == "error":
            self.unusable.refuse()
        self.unusable.refuse_empty_splits()
        if self.unusable.dropped():
            warn(f"{self._task.name}: {self.unusable.describe()}; they are dropped")
        for examples in self.splits.values():
            self._adapter.review(examples)


def check_characters(values: dict[str, Any], place: str) -> None:
    """
    Raises:
        BadExample: a string can't be written in UTF-8.
    """
    for name, value in values.items():
        try:
            for text in _texts(value):
                text.encode("utf-8")
        except UnicodeEncodeError:
            problem = f"half a character (a lone surrogate) in '{name}'"
            raise BadExample(place, problem, "half a character") from None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _texts([*value, *value.values()])
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
