"""The columns of labelled rows, by the keys of the config that name them."""

from __future__ import annotations

import functools
from typing import Any

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.errors import nearest
from mlm_pretrain.tasks.labels.names import is_gap
from mlm_pretrain.tasks.labels.unusable import BadExample


def column(row: dict[str, Any], key: str, task: TaskConfig, place: str) -> Any:
    """The value of the column that the config names under `key`.

    Raises:
        BadExample: the row has no such column.
    """
    return cell(row, getattr(task, key), key, place)


def cell(row: dict[str, Any], name: str, key: str, place: str) -> Any:
    """As `column`, by the column's own name."""
    if name not in row:
        raise BadExample(place, _no_column(name, key, tuple(map(str, row))), f"no column '{name}'")
    return row[name]


@functools.lru_cache
def _no_column(name: str, key: str, columns: tuple[str, ...]) -> str:
    hint = nearest(name, columns)
    return f"no column '{name}' ({key}){hint}" + (f" The columns are {', '.join(columns)}" * ("allowed" not in hint))


def text_column(row: dict[str, Any], key: str, task: TaskConfig, place: str) -> str:
    """As `column`, and a string.

    Raises:
        BadExample: the row has no such column, or something else in it.
    """
    text = column(row, key, task, place)
    if not isinstance(text, str):
        reason = f"no {getattr(task, key)}" if is_gap(text) else f"{getattr(task, key)} is no string"
        raise BadExample(place, f"{getattr(task, key)} is {text!r:.80}; it must be a string", reason)
    return text
