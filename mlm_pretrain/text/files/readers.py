"""Local files as rows: plain text, JSON lines, CSV, TSV and Parquet, also compressed (`mlm_pretrain.io` reads them).

Rows are read raw (`read_rows`) and decoded one by one where they are used (`decode_row`), so that a stream that is
resumed in the middle of a file skips lines without parsing them. A row that can't be decoded is marked, never an
exception; a file that can't be read is a `UserError`.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mlm_pretrain.errors import UserError, nearest
from mlm_pretrain.io.files import json_lines, parquet
from mlm_pretrain.io.files.compression import errors_of, open_bytes
from mlm_pretrain.io.files.formats import TABLES, format_of
from mlm_pretrain.io.files.lines import BYTE_ORDER_MARK, UNDECODABLE, characters, dropped_for, open_text, read_lines
from mlm_pretrain.io.files.reading import Reading
from mlm_pretrain.io.files.tables import AMBIGUOUS, Table
from mlm_pretrain.text.files import plain
from mlm_pretrain.text.files.pieces import Piece, open_piece

NOT_TEXT = "not_text"

_MARKS = re.compile(f"^{BYTE_ORDER_MARK}+", re.MULTILINE)
Raw = tuple[str | None, str | None]
"""A text, or the reason to drop it."""


def check_column(file: str, column: str, columns: Iterable[str]) -> None:
    names = [name if len(name) <= 40 else name[:39] + "…" for name in columns]
    if column not in names:
        hint = nearest(column, names)
        meant = hint if "did you mean" in hint else ""
        raise UserError(
            f"{file}: no column '{column}' (text.sources.text_column); "
            f"columns: {', '.join(names[:20]) or 'none'}{meant}"
        )


def read_rows(
    pieces: list[tuple[Piece, ...]], label: str, text_column: str, document: str | None, reading: Reading
) -> Iterator[dict[str, str | None]]:
    """The raw rows of pieces of files, for `IterableDataset.from_generator`; each entry of `pieces` is a shard.

    Yields:
        `text` (a document, or a JSON line), `source` (the label), `dropped` (None or a reason), and where `decode_row`
        is still to be called, `undecoded`: the format.

    Raises:
        UserError: a file is gone, damaged, or lacks the text column; or quotes in a table could mean two things.
    """
    for piece in itertools.chain.from_iterable(pieces):
        form = format_of(piece.file)
        with errors_of(piece.file):
            for text, dropped in _read(piece, form, text_column, document, reading):
                yield {"text": text, "source": label, "dropped": dropped, "undecoded": form}


def decode_row(row: Mapping[str, Any], text_column: str) -> Raw:
    """Finish a raw row: parse a JSON line, and find what was not valid in the file's encoding.

    Returns:
        The text (None if it is null or dropped), and the reason to drop it or None.
    """
    text = row["text"]
    if text is None:
        return None, row["dropped"]
    if reason := dropped_for(text):
        return None, reason
    if row["undecoded"] == "json":
        return _parse(text, text_column)
    return (_MARKS.sub("", text) if BYTE_ORDER_MARK in text else text), None


def _parse(line: str, text_column: str) -> Raw:
    if not line or line.isspace():
        return "", None
    row, _ = json_lines.parse(line)
    return (None, UNDECODABLE) if row is None else as_text(row.get(text_column))


def as_text(value: Any) -> Raw:
    """A column's value as (text, reason to drop it); null is (None, None)."""
    if value is None:
        return None, None
    if isinstance(value, bytes):
        value = parquet.as_text(value)
        if isinstance(value, bytes):
            return None, UNDECODABLE
    if not isinstance(value, str):
        return None, NOT_TEXT
    try:
        value.encode()
    except UnicodeEncodeError:  # half a surrogate pair, written as a JSON escape
        return None, UNDECODABLE
    return value, None


def _read(piece: Piece, form: str, text_column: str, document: str | None, reading: Reading) -> Iterator[Raw]:
    if form == "parquet":
        file = parquet.open_parquet(piece.file)
        check_column(piece.file, text_column, file.schema_arrow.names)
        for batch in parquet.batches(file, piece.start, piece.end, [text_column]):
            yield from map(as_text, batch.column(0).to_pylist())
        return
    what = document_of(piece.file, document, reading.encoding) if form == "text" else "record"
    data = open_bytes(piece.file) if piece.end is None else open_piece(piece, what)
    is_table = form in TABLES
    with characters(data, piece.file, reading.encoding, at_start=piece.start == 0, keep_ends=is_table) as handle:
        if is_table:
            yield from _column(piece.file, Table(piece.file, read_lines(handle), form, reading), text_column)
        elif form == "json":
            for line in read_lines(handle):
                yield line.rstrip("\n"), None
        else:
            for text in plain.documents(handle, what):
                yield text, None


def document_of(file: str, document: str | None, encoding: str) -> str:
    """What a document is in a file of plain text: `document`, or what the file's own text asks for.

    Raises:
        UserError: the file is gone or damaged.
    """
    if document is not None:
        return document
    with errors_of(file):
        return _document_of(file, Path(file).stat().st_mtime_ns, encoding)


@functools.lru_cache(maxsize=100_000)
def _document_of(file: str, modified: int, encoding: str) -> str:
    """`modified` makes the answer one for this state of the file; every piece asks."""
    with open_text(file, encoding) as handle:
        return plain.document_of(handle)


def _column(file: str, table: Table, text_column: str) -> Iterator[Raw]:
    if not table.header:
        return
    check_column(file, text_column, table.header)
    column = table.header.index(text_column)
    for row in table:
        if row.dropped == AMBIGUOUS:
            raise UserError(f"{file}:{row.line}: {row.problem}")
        # With too few or too many fields the text may have been cut at a comma.
        yield (row.fields[column], None) if row.dropped is None else (None, row.dropped)
