"""Local files as rows: plain text, JSON lines, CSV, TSV and Parquet, also compressed by gzip, Zstandard or xz.

Rows are read raw (`read_rows`) and decoded one by one where they are used (`decode_row`), so that a stream that is
resumed in the middle of a file skips lines without parsing them. A row that can't be decoded is marked, never an
exception; a file that can't be read is a `UserError`.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import gzip
import io
import itertools
import json
import lzma
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from mlm_pretrain.errors import UserError, nearest
from mlm_pretrain.text.pieces import Piece, open_piece

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
_JSON = json.JSONDecoder()
_Binary = gzip.GzipFile | lzma.LZMAFile | io.BufferedReader


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
    pieces: list[tuple[Piece, ...]], label: str, text_column: str, document: str, encoding: str
) -> Iterator[dict[str, str | None]]:
    """The raw rows of pieces of files, for `IterableDataset.from_generator`; each entry of `pieces` is a shard.

    Yields:
        `text` (a document, or a JSON line), `source` (the label), `dropped` (None or a reason), and where `decode_row`
        is still to be called, `undecoded`: the format.

    Raises:
        UserError: a file is gone, damaged, or lacks the text column.
    """
    for piece in itertools.chain.from_iterable(pieces):
        form = format_of(piece.file)
        with errors_of(piece.file):
            if form == "parquet":
                for text in _read_parquet(piece, text_column):
                    yield {"text": text, "source": label, "dropped": None}
            else:
                for text, dropped in _read(piece, form, text_column, document, encoding):
                    yield {"text": text, "source": label, "dropped": dropped, "undecoded": form}


def decode_row(row: Mapping[str, Any], text_column: str) -> tuple[str | None, str | None]:
    """Finish a raw row: parse a JSON line, and find what was not valid in the file's encoding.

    Returns:
        The text (None where it is null or dropped), and the reason to drop it or None.
    """
    text = row["text"]
    if text is None:
        return None, row["dropped"]
    if _MARK in text:
        return None, UNDECODABLE
    return _parse(text, text_column) if row["undecoded"] == "json" else (text, None)


def _parse(line: str, text_column: str) -> tuple[str | None, str | None]:
    line = line.strip()
    if not line:
        return "", None
    try:
        row, end = _JSON.raw_decode(line)  # twice as fast as `json.loads`
    except (ValueError, RecursionError):
        return None, UNDECODABLE
    if end < len(line) or not isinstance(row, dict):
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


def _read_parquet(piece: Piece, text_column: str) -> Iterator[Any]:
    parquet = open_parquet(piece.file)
    check_column(piece.file, text_column, parquet.schema_arrow.names)
    metadata = parquet.metadata
    end = metadata.num_rows if piece.end is None else piece.end
    # Where each row group starts, and the last one ends.
    sizes = (metadata.row_group(number).num_rows for number in range(metadata.num_row_groups))
    starts = list(itertools.accumulate(sizes, initial=0))
    groups = [i for i, (first, behind) in enumerate(itertools.pairwise(starts)) if first < end and behind > piece.start]
    row = starts[groups[0]] if groups else end
    for batch in parquet.iter_batches(batch_size=1000, row_groups=groups, columns=[text_column]):
        if row >= end:
            break
        yield from batch.column(0)[max(piece.start - row, 0) : end - row].to_pylist()
        row += len(batch)


def _read(
    piece: Piece, form: str, text_column: str, document: str, encoding: str
) -> Iterator[tuple[str | None, str | None]]:
    paragraphs = form == "text" and document == "paragraph"
    data = _open_bytes(piece.file) if piece.end is None else open_piece(piece, paragraphs)
    with _characters(data, encoding, form, at_start=piece.start == 0) as handle:
        if form in {"csv", "tsv"}:
            yield from _read_csv(piece.file, csv_rows(handle, form), text_column)
        elif form == "json" or document == "line":
            for line in handle:
                yield line.rstrip("\n"), None
        elif paragraphs:
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


def _open_bytes(file: str) -> _Binary:
    compression = COMPRESSIONS.get(Path(file).suffix.lower())
    if compression == "gzip":
        return gzip.open(file, "rb")
    if compression == "xz":
        return lzma.open(file, "rb")
    if compression == "zstd":
        # Arrow's reader goes on after a frame's end, and tells where a file was cut; zstandard's does neither.
        return io.BufferedReader(pa.input_stream(file, compression="zstd"), 2**17)
    return Path(file).open("rb")


def open_text(file: str, encoding: str, form: str) -> io.TextIOWrapper:
    """A text file's characters, with marks where bytes can't be decoded."""
    return _characters(_open_bytes(file), encoding, form, at_start=True)


def _characters(data: _Binary, encoding: str, form: str, at_start: bool) -> io.TextIOWrapper:
    if codecs.lookup(encoding).name in {"utf-8", "utf-8-sig"}:
        encoding = "utf-8-sig" if at_start else "utf-8"  # a byte order mark at the start is no text
    # In tables, line ends may be quoted: they are left as they are.
    newline = "" if form in {"csv", "tsv"} else None
    return io.TextIOWrapper(data, encoding=encoding, errors=_MARKING, newline=newline)


def open_parquet(file: str) -> pq.ParquetFile:
    if Path(file).suffix.lower() in COMPRESSIONS:
        with _open_bytes(file) as handle:
            return pq.ParquetFile(pa.BufferReader(handle.read()))
    # Without these two, all of a column is in memory at once, and row groups may be as large as the file.
    return pq.ParquetFile(file, pre_buffer=False, buffer_size=2**20)


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
