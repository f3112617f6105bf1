"""Rows of labelled files: jsonl, csv and tsv, Parquet, CoNLL; each text format also gzipped.

A row is a plain dict of columns with its place, the file and line that errors name. What a task makes of it is the
adapter's `make_example`.
"""

from __future__ import annotations

import csv
import gzip
import json
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

import pyarrow.parquet

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.tasks.adapter import Example, TaskAdapter
from mlm_pretrain.tasks.conll import read_conll

Row = tuple[dict[str, Any], str]
"""The columns, and the place."""


def read_examples(file: str | Path, adapter: type[TaskAdapter], task: TaskConfig) -> list[Example]:
    """Read one labelled file whole; its ending tells the format.

    Args:
        file: `.jsonl`, `.csv`, `.tsv` or `.parquet`, for tasks that label words CoNLL too (`.conll`, `.conllu`, `.txt`,
            `.tsv`, `.bio`, `.iob`, `.iob2`); the text formats may end in `.gz`.
        task: names the columns.

    Raises:
        UserError: with file and line, for whatever can't be read.
    """
    examples = [adapter.make_example(row, task, place) for row, place in read_rows(file, task, adapter.reads_conll)]
    if not examples:
        raise UserError(f"{file}: no examples in it; give a file with labelled rows")
    adapter.review(examples)
    return examples


def read_rows(file: str | Path, task: TaskConfig, conll: bool = False) -> Iterator[Row]:
    """The rows of a labelled file, in its order.

    Args:
        conll: whether `.txt`, `.tsv`, … are CoNLL files; their rows have `task.tokens_column` and `task.tags_column`.

    Raises:
        UserError: with file and line, for whatever can't be read.
    """
    path = Path(file)
    ending = (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()
    known = {**ROWS, **(CONLL if conll else {})}
    if ending not in known:
        raise UserError(f"{path}: a file with labelled rows ends in {', '.join(known)} (text may be gzipped, .gz)")
    return known[ending](path, task)


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file with their numbers, counted from 1.

    Raises:
        UserError: the file can't be opened, or a line is not UTF-8.
    """
    for number, raw in read_raw_lines(path):
        try:
            yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise UserError(f"{path}:{number}: not UTF-8 text; convert the file (iconv -t UTF-8)") from None


def read_raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """As `read_lines`, before decoding."""
    try:
        # cast: gzip.open's type doesn't say that it is a binary stream.
        with cast(IO[bytes], gzip.open(path) if path.suffix == ".gz" else path.open("rb")) as handle:
            yield from enumerate(handle, start=1)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (EOFError, zlib.error):
        raise UserError(f"{path}: the gzip file is cut off or damaged; fetch it again") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None


def parse_json_line(line: str, place: str) -> dict[str, Any]:
    """
    Raises:
        UserError: the line is no JSON object.
    """
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        # A plain ValueError is a number of thousands of digits.
        problem = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply, or too long a number"
        raise UserError(f"{place}: not valid JSON ({problem}); jsonl has one object a line") from None
    if not isinstance(row, dict):
        raise UserError(f"{place}: a JSON {type(row).__name__}; jsonl has one object a line")
    return row


def _jsonl(path: Path, task: TaskConfig) -> Iterator[Row]:
    for number, line in read_lines(path):
        if line.strip():
            place = f"{path}:{number}"
            yield parse_json_line(line, place), place


def _delimited(delimiter: str) -> Callable[[Path, TaskConfig], Iterator[Row]]:
    def read(path: Path, task: TaskConfig) -> Iterator[Row]:
        csv.field_size_limit(sys.maxsize)
        # strict: an unbalanced quote is an error rather than a field that swallows the lines after it.
        reader = csv.reader((line for _, line in read_lines(path)), delimiter=delimiter, strict=True)
        header: list[str] | None = None
        try:
            for fields in reader:
                place = f"{path}:{reader.line_num}"
                if header is None:
                    header = fields
                elif fields and len(fields) != len(header):
                    raise UserError(f"{place}: {len(fields)} fields, but the header names {len(header)} columns")
                elif fields:
                    yield dict(zip(header, fields, strict=True)), place
        except csv.Error as error:
            raise UserError(f"{path}:{reader.line_num}: not valid csv: {error}") from None

    return read


def _parquet(path: Path, task: TaskConfig) -> Iterator[Row]:
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    yield row, f"{path}, row {number}"
                    number += 1
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path}: not a Parquet file that can be read: {error}") from None


def _conll(path: Path, task: TaskConfig) -> Iterator[Row]:
    for tokens, tags, place in read_conll(path, read_lines(path), task.conll_columns):
        yield {task.tokens_column: tokens, task.tags_column: tags}, place


Reader = Callable[[Path, TaskConfig], Iterator[Row]]
ROWS: dict[str, Reader] = {
    ".jsonl": _jsonl,
    ".json": _jsonl,
    ".csv": _delimited(","),
    ".tsv": _delimited("\t"),
    ".parquet": _parquet,
}
CONLL: dict[str, Reader] = dict.fromkeys((".conll", ".txt", ".tsv", ".conllu", ".bio", ".iob", ".iob2"), _conll)
