"""JSON lines: an object a line. A `.json` file may also be one JSON document, read whole: a list of objects, an object
over several lines, or SQuAD's nested file."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

from mlm_pretrain.io.files import lines as text_lines
from mlm_pretrain.io.files import squad
from mlm_pretrain.io.files.lines import without_mark

_JSON = json.JSONDecoder()


def parse(line: str) -> tuple[dict[str, Any] | None, str]:
    """The object of a line; None and the problem if it holds none."""
    line = without_mark(line).strip()
    try:
        row, end = _JSON.raw_decode(line)  # twice as fast as `json.loads`
    except (ValueError, RecursionError) as error:
        # A plain ValueError is a number of thousands of digits.
        what = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply, or too long a number"
        return None, f"not valid JSON ({what}); JSON lines have one object a line"
    if end < len(line):
        return None, "not valid JSON (more after the object); JSON lines have one object a line"
    if not isinstance(row, dict):
        return None, f"a JSON {type(row).__name__}; JSON lines have one object a line"
    return row, ""


def document_rows(lines: Iterator[str]) -> tuple[list[dict[str, Any]] | None, Iterator[str]]:
    """The rows of a JSON document, or None if the lines are JSON lines (good or bad), and the lines, all of them."""
    first: list[str] = []
    for line in lines:
        first.append(line)
        if without_mark(line).strip():
            break
    head, _ = parse(first[-1]) if first else ({}, "")
    if head is not None and not squad.is_nested(head):
        return None, itertools.chain(first, lines)
    size = sum(map(len, first))
    for line in lines:
        first.append(line)
        size += len(line)
        if size > text_lines.LONGEST:
            return None, itertools.chain(first, lines)
    try:
        document = json.loads(without_mark("".join(first)))
    except (ValueError, RecursionError):
        return None, iter(first)
    return _rows(document), iter(first)


def _rows(document: Any) -> list[dict[str, Any]] | None:
    if isinstance(document, dict) and squad.is_nested(document):
        return list(squad.rows(document))
    if isinstance(document, dict):
        return [document]
    if isinstance(document, list) and all(isinstance(row, dict) for row in document):
        return document
    return None
