"""Results by class, of a size that people and pages can take: of few classes all, of thousands those that say most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlm_pretrain.io.plain_json import dumps
from mlm_pretrain.io.whole import write_text

FEW = 100
"""So many classes at most have a line each in results, and a whole matrix of confusions."""
ENDS = 10
"""Of more, so many with the highest F1 are kept in results, and so many with the lowest."""
PAIRS = 100
"""Of more, so many of the commonest confusions."""
TOP = 10
"""Of more, so many scores are printed with a prediction unless `top_k` says otherwise."""

Figures = dict[str, Any]


def confusion(labels: Sequence[str], pairs: Iterable[tuple[str, str]]) -> Figures:
    """Which class is taken for which.

    Args:
        labels: of the model.
        pairs: true and predicted class of each example.

    Returns:
        Of few classes `labels` and `matrix`, counts [true, predicted]; of more `classes`, their number, and
        `commonest`, the commonest confusions as [true, predicted, count].
    """
    counts = Counter(pairs)
    names = list(dict.fromkeys([*labels, *(name for pair in counts for name in pair)]))
    if len(names) > FEW:
        return {"classes": len(names), "commonest": commonest(counts)}
    return {"labels": names, "matrix": [[counts[true, predicted] for predicted in names] for true in names]}


def commonest(counts: Mapping[tuple[str, str], int], most: int = PAIRS) -> list[tuple[str, str, int]]:
    """The commonest confusions: true class, predicted class, count."""
    wrong = [(*pair, count) for pair, count in counts.items() if pair[0] != pair[1] and count]
    return sorted(wrong, key=lambda found: -found[2])[:most]


def cut(figures: Figures) -> tuple[Figures, Figures]:
    """Results by class or type, cut to what is shown of many.

    Returns:
        The figures, in which a table of more than `FEW` rows has those with the highest and the lowest F1 alone, and
        how many rows there were, as `classes: {by_class: 5000}`; and what was cut, whole, as columns.
    """
    whole, kept = {}, dict(figures)
    for name, table in figures.items():
        if not isinstance(table, dict) or len(table) <= FEW or not all(isinstance(row, dict) for row in table.values()):
            continue
        columns = list(dict.fromkeys(column for row in table.values() for column in row))
        whole[name] = {"name": list(table)} | {key: [row.get(key) for row in table.values()] for key in columns}
        order = sorted(table, key=lambda each, table=table: (-(table[each].get("f1") or 0.0), each))  # type: ignore[misc]
        kept[name] = {each: table[each] for each in (*order[:ENDS], *order[-ENDS:])}
    if whole:
        kept["classes"] = {name: len(table["name"]) for name, table in whole.items()}
    return kept, whole


def write_whole(path: Path, whole: Figures) -> None:
    """Write what `cut` has taken away, a column an array; nothing if nothing was cut."""
    if whole:
        write_text(path, dumps(whole) + "\n")
    else:
        path.unlink(missing_ok=True)


def note(figures: Mapping[str, Any], name: str, file: str) -> str:
    """What a table says of the rows that it lacks; empty if it is whole."""
    count = (figures.get("classes") or {}).get(name)
    return f"the {ENDS} with the highest and the {ENDS} with the lowest F1 of {count:,}; all: {file}" if count else ""


def top_scores(labels: Sequence[str], chances: Any, top_k: int | None) -> dict[str, float]:
    """The scores that a prediction is printed with.

    Args:
        chances: [labels].
        top_k: so many of the highest; by default all of a few labels, in the model's order, and `TOP` of more.
    """
    if top_k is None and len(labels) <= FEW:
        return {label: float(chance) for label, chance in zip(labels, chances, strict=True)}
    order = chances.argsort(kind="stable")[::-1][: top_k or TOP]
    return {labels[number]: float(chances[number]) for number in order}
