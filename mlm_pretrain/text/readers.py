"""Local files as rows: plain text, JSON lines, CSV, TSV and Parquet, also compressed by gzip, Zstandard or xz.

Rows are read raw here (`read_rows`) and decoded one by one (`decode_row`), so that a stream that is resumed in the
middle of a large file skips lines without parsing them. A row that can't be decoded is marked, never an exception;
a file that can't be read is a `UserError`.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import gzip
import io
import json
import lzma
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from mlm_pretrain.errors import UserError, nearest

UNDECODABLE = "undecodable"
NOT_TEXT = "not_text"

FORMATS = {
    **dict.fromkeys((".txt", ".text", ".md", ".rst"), "text"),
    **dict.fromkeys((".jsonl", ".json", ".ndjson"), "json"),
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".xz": "xz"}
_NOT_TEXT = {".zip", ".tar", ".tgz", ".bz2", ".7z", ".rar", ".pdf", ".doc", ".docx", ".epub", ".arrow", ".html"}

_MARK = "\ufdd0"
"""Stands where bytes could not be decoded: a code point that Unicode keeps out of text (U+FFFD occurs in it)."""
_MARKING = "mlm_pretrain.mark"


def _mark(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return _MARK, error.end


codecs.register_error(_MARKING, _mark)


def suffix_of(file: str) -> str:
    """The suffix that tells the format, below that of a compression."""
    suffixes = [suffix.lower() for suffix in Path(file).suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def format_of(file: str) -> str:
    """text, json, csv, tsv or parquet; an unknown suffix is taken for plain text."""
    suffix = suffix_of(file)
    if suffix in _NOT_TEXT:
        raise UserError(f"{file}: a {suffix} file cannot be read; unpack or convert it to {', '.join(FORMATS)}")
    return FORMATS.get(suffix, "text")


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
    files: list[str], label: str, text_column: str, document: str, encoding: str
) -> Iterator[dict[str, str | None]]:
    """The raw rows of files, for `IterableDataset.from_generator` (each file is a shard) and then `decode_row`.

    Yields:
        `text` (a document, or a JSON line still to be parsed), `source` (the label), `dropped` (None or a reason)
        and `format`.

    Raises:
        UserError: a file is gone, damaged, or lacks the text column.
    """
    for file in files:
        form = format_of(file)
        with errors_of(file):
            for text, dropped in _read(file, form, text_column, document, encoding):
                yield {"text": text, "source": label, "dropped": dropped, "format": form}


def decode_row(row: dict[str, Any], text_column: str) -> dict[str, str | None]:
    """Finish a raw row: parse a JSON line, and mark what is not valid in the file's encoding.

    Returns:
        `text`: str, or None where it is null or the row is dropped; `source`; `dropped`: None or a reason.
    """
    text, dropped = row["text"], row["dropped"]
    if text is not None and _MARK in text:
        text, dropped = None, UNDECODABLE
    elif text is not None and row["format"] == "json":
        text, dropped = _parse(text, text_column)
    return {"text": text, "source": row["source"], "dropped": dropped}


def _parse(line: str, text_column: str) -> tuple[str | None, str | None]:
    if not line.strip():
        return "", None
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None, UNDECODABLE
    if not isinstance(row, dict):
        return None, UNDECODABLE
    return as_text(row.get(text_column))


def as_text(value: Any) -> tuple[str | None, str | None]:
    """A column's value as (text, reason to drop it); null is (None, None)."""
    if value is None:
        return None, None
    if not isinstance(value, str):
        return None, NOT_TEXT
    try:
        value.encode()
    except UnicodeEncodeError:  # half a surrogate pair, written as a JSON escape
        return None, UNDECODABLE
    return value, None


def _read(
    file: str, form: str, text_column: str, document: str, encoding: str
) -> Iterator[tuple[str | None, str | None]]:
    if form == "parquet":
        parquet = open_parquet(file)
        check_column(file, text_column, parquet.schema_arrow.names)
        for batch in parquet.iter_batches(batch_size=1000, columns=[text_column]):
            for text in batch.column(0).to_pylist():
                yield text, None
        return
    with open_text(file, encoding, newline="" if form in {"csv", "tsv"} else None) as handle:
        if form in {"csv", "tsv"}:
            yield from _read_csv(file, csv_rows(handle, form), text_column)
        elif form == "json" or document == "line":
            for line in handle:
                yield line.rstrip("\n"), None
        elif document == "paragraph":
            for paragraph in _paragraphs(handle):
                yield paragraph, None
        else:
            yield handle.read(), None


def _read_csv(file: str, rows: Iterator[list[str]], text_column: str) -> Iterator[tuple[str | None, str | None]]:
    header = next(rows, None)
    if header is None:
        return
    check_column(file, text_column, header)
    column = header.index(text_column)
    for row in rows:
        # With too few or too many fields the text may have been cut at a comma.
        yield (row[column], None) if len(row) == len(header) else (None, UNDECODABLE)


def csv_rows(handle: IO[str], form: str) -> Iterator[list[str]]:
    """Rows of fields; quoting as in RFC 4180, for tabs too. Blank lines are none."""
    csv.field_size_limit(sys.maxsize)
    return (row for row in csv.reader(handle, delimiter="\t" if form == "tsv" else ",") if row)


def _paragraphs(lines: Iterable[str]) -> Iterator[str]:
    """Runs of lines between blank ones (white space counts as blank)."""
    paragraph: list[str] = []
    for line in lines:
        if line.strip():
            paragraph.append(line)
        elif paragraph:
            yield "".join(paragraph).rstrip("\n")
            paragraph = []
    if paragraph:
        yield "".join(paragraph).rstrip("\n")


def _open_bytes(file: str) -> gzip.GzipFile | lzma.LZMAFile | io.BufferedReader:
    compression = COMPRESSIONS.get(Path(file).suffix.lower())
    if compression == "gzip":
        return gzip.open(file, "rb")
    if compression == "xz":
        return lzma.open(file, "rb")
    if compression == "zstd":
        # Arrow's reader goes on after a frame's end, and tells where a file was cut; zstandard's does neither.
        return io.BufferedReader(pa.input_stream(file, compression="zstd"), 2**17)
    return Path(file).open("rb")


def open_text(file: str, encoding: str, newline: str | None) -> io.TextIOWrapper:
    if codecs.lookup(encoding).name == "utf-8":
        encoding = "utf-8-sig"  # the same, and a byte order mark is no text
    return io.TextIOWrapper(_open_bytes(file), encoding=encoding, errors=_MARKING, newline=newline)


def open_parquet(file: str) -> pq.ParquetFile:
    if Path(file).suffix.lower() in COMPRESSIONS:
        with _open_bytes(file) as handle:
            return pq.ParquetFile(pa.BufferReader(handle.read()))
    return pq.ParquetFile(file)


@contextlib.contextmanager
def errors_of(file: str) -> Iterator[None]:
    """Everything that can be wrong with a file as a whole, as one line."""
    try:
        yield
    except GeneratorExit:
        raise  # a stream left open when Python exits: the names below are gone by then
    except (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowInvalid, csv.Error) as error:
        if isinstance(error, OSError) and error.strerror:
            raise UserError(f"{file}: {error.strerror}") from None
        raise UserError(f"{file}: the file is damaged, or not of the kind that its name says: {error}") from None
    except UnicodeError as error:
        raise UserError(f"{file}: not in the encoding of text.sources.encoding: {error}") from None
