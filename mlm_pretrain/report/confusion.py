"""Which class a task's model takes for which: whole if a page has room for it, else the commonest confusions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlm_pretrain.report.mistakes import Mistakes, classes_of, confusion_of
from mlm_pretrain.tasks.scores import many_classes

MOST_CLASSES = 40
"""A confusion matrix of more is shown as its commonest confusions, and whole as a PNG file."""
MOST_PAIRS = 25


@dataclass(frozen=True)
class Confusion:
    """Which class is taken for which: counts [true class, predicted class], or of many classes the commonest."""

    classes: int
    of: str
    """Which predictions."""
    labels: list[str] = field(default_factory=list)
    matrix: list[list[int]] = field(default_factory=list)
    pairs: Sequence[tuple[str, str, int]] = ()

    @property
    def is_whole(self) -> bool:
        """Whether the page has every cell."""
        return self.classes <= MOST_CLASSES

    def shares(self) -> list[list[float]]:
        """Of the true class."""
        return [[count / max(sum(row), 1) for count in row] for row in self.matrix]

    def commonest(self) -> list[tuple[str, str, int]]:
        cells = {
            (right, predicted): count
            for right, row in zip(self.labels, self.matrix, strict=True)
            for predicted, count in zip(self.labels, row, strict=True)
        }
        return many_classes.commonest(cells, MOST_PAIRS) if cells else list(self.pairs[:MOST_PAIRS])


def recorded_confusion(figured: Mapping[str, Any], place: str) -> Confusion | None:
    """What an evaluation has recorded of its predictions; None if it is no evaluation of classes."""
    recorded = figured.get("confusion") or {}
    labels, matrix = recorded.get("labels"), recorded.get("matrix")
    if labels and matrix:
        return Confusion(len(labels), place, [str(label) for label in labels], matrix)
    pairs = [(str(true), str(predicted), count) for true, predicted, count in recorded.get("commonest", [])]
    return Confusion(recorded.get("classes", 0), place, pairs=pairs) if pairs else None


def confusion_from_mistakes(mistakes: Mistakes | None, details: Mapping[str, Any], place: str) -> Confusion | None:
    """What follows from a task's mistakes and the numbers of examples by class; None if they don't tell it."""
    by_class = details.get("by_class") or {}
    support = {name: row["support"] for name, row in by_class.items() if isinstance(row.get("support"), int | float)}
    if mistakes is None or not support or (mistakes.total and not mistakes.confusion):
        return None
    of = f"{place}, the exported model"
    if count := (details.get("classes") or {}).get("by_class"):
        pairs = many_classes.commonest(mistakes.confusion)
        return Confusion(count, of, pairs=pairs) if pairs else None
    matrix, classes = confusion_of(mistakes, support), classes_of(mistakes, support)
    return Confusion(len(classes), of, classes, matrix) if matrix else None
