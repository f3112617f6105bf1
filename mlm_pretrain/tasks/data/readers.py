"""Rows of labelled files, of all formats and compressions that `mlm_pretrain.io` reads.

A row is a plain dict of columns with its place, the file and line that errors name. What a task makes of it is the
adapter's `make_example`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.console.telemetry import say
from mlm_pretrain.errors import UserError
from mlm_pretrain.io.files import formats
from mlm_pretrain.io.files.reading import Reading
from mlm_pretrain.io.files.records import Records, Words
from mlm_pretrain.io.files.tables import AMBIGUOUS
from mlm_pretrain.io.files.tally import REASONS
from mlm_pretrain.tasks.data.examples import Row
from mlm_pretrain.tasks.labels.names import named
from mlm_pretrain.tasks.labels.unusable import BadExample


def read_rows(
    file: str | Path, task: TaskConfig, conll: bool = False, label_columns: Sequence[str] = ()
) -> Iterator[Row]:
    """The rows of a labelled file, in its order; at the end, one line says what was read.

    Args:
        conll: whether `.txt`, `.tsv`, … are CoNLL files; their rows have `task.tokens_column` and `task.tags_column`.
        label_columns: what holds the labels. Numbers in it, if it is one, get the names that `task.label_names` or the
            file itself (Parquet of `datasets`) has for them; several are columns of 0 and 1.

    Raises:
        UserError: with file and line, for whatever can't be read.
    """
    tables = [suffix for suffix, form in formats.FORMATS.items() if form != "text"]
    known = dict.fromkeys((*tables, *(formats.CONLL if conll else ())))
    if formats.suffix_of(file) not in known:
        raise UserError(
            f"{file}: a file with labelled rows ends in {', '.join(known)} (or these with "
            f"{', '.join(formats.COMPRESSIONS)})"
        )
    words = Words(task.conll_columns, task.tokens_column, task.tags_column) if conll else None
    records = Records(file, Reading.of(task), words=words)
    for record in records:
        if record.dropped == AMBIGUOUS and record.problem is not None:
            raise UserError(record.problem)  # it may be many rows, which no policy of bad ones may drop
        if record.problem is not None and record.dropped is not None:
            problem = record.problem.removeprefix(f"{record.place}: ")
            yield BadExample(record.place, problem, REASONS.get(record.dropped, record.dropped)), record.place
        elif record.dropped is None:
            yield with_names(record.row, task.label_names, records.class_names, label_columns, record.place)
    say(str(records.tally))


def with_names(
    row: dict[str, Any],
    given: list[str] | None,
    own: Mapping[str, list[str]],
    columns: Sequence[str],
    place: str,
) -> Row:
    """A row whose class numbers are class names.

    Args:
        given: the names, as the config has them.
        own: those that a file or a dataset has itself, by column.
        columns: what holds the labels; several are columns of 0 and 1, and stay.
    """
    column = columns[0] if len(columns) == 1 else None
    names = given or own.get(column or "")
    if column in row and names:
        try:
            return {**row, column: named(row[column], names, place)}, place
        except BadExample as error:
            return error, place
    return row, place
