"""Labels as tables have them (gaps, floats that are whole numbers, lists in text), and their names in order."""

from __future__ import annotations

import ast
import math
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.console.telemetry import warn
from mlm_pretrain.tasks.labels.unusable import BadExample

GAPS = ("nan", "NaN", "<NA>")
"""What pandas writes where a column has nothing."""
SEPARATORS = "|;,"
"""Of labels in a string: the first of these that occurs in it."""
NAMED = 5
"""So many labels are named in a line."""

_WHOLE = re.compile(r"(-?\d{1,18})\.0+")
_FRACTION = re.compile(r"-?\d+\.\d+")
_INTEGER = re.compile(r"-?\d{1,18}")
_QUOTED = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
_ITEM = rf"(?:{_QUOTED}|-?\d+(?:\.\d*)?)"
# With commas as Python and JSON print it, without as NumPy does.
_LIST = re.compile(rf"\[\s*(?:{_ITEM}(?:(?:\s*,\s*|\s+){_ITEM})*)?\s*\]")


def is_gap(value: Any) -> bool:
    """Whether a cell is empty: nothing, a float that is no number, or what either is in a text file."""
    if isinstance(value, str):
        return not value.strip() or value in GAPS
    return value is None or (isinstance(value, float) and math.isnan(value))


def whole_number(value: Any) -> Any:
    """Floats without a fraction as integers: what a table with gaps makes of class numbers."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def label_columns(task: TaskConfig, label_key: str) -> list[str]:
    """What holds the labels of a task: one column, or one a label."""
    column = getattr(task, label_key)
    return [column] if isinstance(column, str) else list(column)


def named(value: Any, names: Sequence[str], place: str) -> Any:
    """Class numbers as class names, in lists and in text files too; what is a name already stays, and so does a gap.

    Raises:
        BadExample: a number is none of a class, as -1 where a row has no label.
    """
    if is_gap(value) or (isinstance(value, str) and value in names):
        return value
    several = _several(value)
    if several is not None:
        return [named(item, names, place) for item in several]
    number = whole_number(value)
    if isinstance(value, str) and (match := _INTEGER.fullmatch(value) or _WHOLE.fullmatch(value)):
        number = int(match[0].partition(".")[0])
    if not isinstance(number, int) or not 0 <= number < len(names):
        problem = f"the label is {value}, which is the number of no class"
        raise BadExample(place, problem, "no label" if number == -1 else "a label of no class")
    return names[number]


def _several(value: Any) -> list[Any] | None:
    """What a list holds, or a string with several labels or tags; None of a single one."""
    if not isinstance(value, str):
        return value if isinstance(value, list) else None
    if (given := read_list(value)) is not None:
        return given
    separator = next((mark for mark in SEPARATORS if mark in value), None)
    parts = value.split(separator)
    return [part.strip() for part in parts if part.strip()] if len(parts) > 1 else None


def read_list(text: str) -> list[Any] | None:
    """A list as Python, JSON or NumPy prints it; None if the text is none."""
    if not _LIST.fullmatch(text.strip()):
        return None
    return [ast.literal_eval(item) for item in re.findall(_ITEM, text)]


def whole_names(names: Collection[str], known: Collection[str] = ()) -> dict[str, str]:
    """The names that are whole numbers written as floats (`1.0`), and the integers that they are.

    If a number with a fraction is among the names (versions, say), they stay names.

    Args:
        names: of all splits.
        known: those that a model has; they stay.
    """
    wholes = {name: match[1] for name in names if (match := _WHOLE.fullmatch(name)) and name not in known}
    if any(_FRACTION.fullmatch(name) and not _WHOLE.fullmatch(name) for name in (*names, *known)):
        return {}
    return wholes


def are_fractions(names: Collection[str]) -> bool:
    """Whether names, as a csv file gives them, are all numbers with a decimal point."""
    return all(map(_FRACTION.fullmatch, names))


def in_order(names: Iterable[str]) -> list[str]:
    """Class names: integers by value, others by the alphabet."""
    names = sorted(set(names))
    return sorted(names, key=int) if all(map(_INTEGER.fullmatch, names)) else names


def warn_of_twins(task: str, names: Iterable[str]) -> None:
    """One line on names that a slip of the hand may have made two of one: `wet`, `Wet`, `wet `."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name in names:
        alike["".join(name.split()).casefold()].append(f"'{name}'")
    twins = [group for group in alike.values() if len(group) > 1]
    if twins:
        named = "; ".join(" and ".join(group) for group in twins[:NAMED])
        more = f"; and {len(twins) - NAMED:,} more" if len(twins) > NAMED else ""
        warn(f"{task}: labels that differ by blanks or capitals alone are learnt as several: {named}{more}")


def warn_of_unseen(task: str, learnt: Collection[str], counts: Counter[str]) -> None:
    """One line on the labels that a model can't have learnt; in scores they count as missed.

    Args:
        task: named first in the line.
        learnt: the labels of the training set, or of a finished model.
        counts: how often each label occurs where the model is scored.
    """
    unseen = sorted((name for name in counts if name not in learnt), key=lambda name: (-counts[name], name))
    if unseen:
        named = ", ".join(f"'{name}' ({counts[name]:,})" for name in unseen[:NAMED])
        more = f" and {len(unseen) - NAMED:,} more" if len(unseen) > NAMED else ""
        plural = "labels are" if len(unseen) > 1 else "label is"
        warn(f"{task}: {len(unseen):,} {plural} unknown to the model, and counted as missed: {named}{more}")
