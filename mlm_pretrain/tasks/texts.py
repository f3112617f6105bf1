"""The rows to predict, streamed from a file of any size: jsonl, csv, tsv, or one text a line; each also gzipped.

A line that can't be read is given with its problem, and reading goes on behind it.
"""

from __future__ import annotations

import csv
import zlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mlm_pretrain.errors import UserError
from mlm_pretrain.tasks.readers import parse_json_line, read_raw_lines

DELIMITERS = {".csv": ",", ".tsv": "\t"}
OTHER_FORMATS = (".parquet", ".arrow", ".zip", ".bz2", ".xz", ".zst")
LONGEST_FIELD = 1 << 24
"""Characters of a csv field; an unbalanced quote swallows no more than that before it is found out."""

NumberedLine = tuple[int, bytes]


class Record(NamedTuple):
    """A row of the input, or a bad line."""

    line: int
    """The first line of it, counted from 1."""
    last_line: int
    row: dict[str, Any]
    """The columns; empty where there is a problem."""
    problem: str | None = None
    raw: str = ""
    """What stands there; bytes that are not UTF-8 are replaced."""


def read_records(path: Path, text_column: str = "text", skip: int = 0) -> Iterator[Record]:
    """The rows of a file in their order, without empty lines; its ending tells the format.

    Args:
        path: `.jsonl` or `.json` (an object a line), `.csv` or `.tsv` (with a header), or else a text a line; the same
            with `.gz` behind.
        text_column: the column that the lines of a text file are taken for.
        skip: the number of lines at the beginning that are passed over, a csv header included.

    Raises:
        UserError: there is no such file, it is of another format, a damaged gzip file, or without csv header.
    """
    ending = (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()
    if ending in OTHER_FORMATS:
        raise UserError(f"{path}: predict reads .jsonl, .csv, .tsv and .txt (one text a line), each also as .gz")
    if path.is_dir():
        raise UserError(f"{path}: a folder; give a file with texts")
    try:
        if ending in DELIMITERS:
            yield from _table(path, DELIMITERS[ending], skip)
        else:
            yield from _lines(path, ending in (".jsonl", ".json"), text_column, skip)
    except zlib.error:
        raise UserError(f"{path}: the gzip file is damaged; fetch it again") from None


def _lines(path: Path, is_json: bool, text_column: str, skip: int) -> Iterator[Record]:
    for number, raw in read_raw_lines(path):
        if number <= skip:
            continue
        place = f"{path}:{number}"
        try:
            line = _decoded(raw, number, place).rstrip("\r\n")
            if line.strip():
                row = parse_json_line(line, place) if is_json else {text_column: line}
                yield Record(number, number, row, raw=line)
        except UserError as error:
            yield _bad(error, [(number, raw)])


def _table(path: Path, delimiter: str, skip: int) -> Iterator[Record]:
    csv.field_size_limit(LONGEST_FIELD)
    lines = _Lines(path)
    header = lines.record(delimiter)
    if header is None:
        return
    if header.problem:
        raise UserError(header.problem)
    names = header.row["fields"]
    lines.skip(skip)
    while record := lines.record(delimiter):
        fields = record.row.get("fields", ())
        if record.problem:
            yield record
        elif fields and len(fields) != len(names):
            problem = f"{path}:{record.line}: {len(fields)} fields, but the header names {len(names)} columns"
            yield record._replace(row={}, problem=problem)
        elif fields:
            yield record._replace(row=dict(zip(names, fields, strict=True)))


class _Lines:
    """The lines of a csv file, of which some may be put back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines = read_raw_lines(path)
        self._back: deque[NumberedLine] = deque()

    def skip(self, count: int) -> None:
        """Pass over the lines up to this number."""
        while (line := self._next()) is not None:
            if line[0] > count:
                self._back.appendleft(line)
                return

    def record(self, delimiter: str) -> Record | None:
        """The next record, with its `fields` for a row; none at the end of the file.

        Of a record that isn't valid only the first line counts as read: an unbalanced quote takes no other line along.
        """
        taken: list[NumberedLine] = []

        def decoded() -> Iterator[str]:
            while (line := self._next()) is not None:
                taken.append(line)
                yield _decoded(line[1], line[0], f"{self.path}:{line[0]}")

        try:
            # strict: an unbalanced quote is an error rather than a field that swallows the lines after it.
            fields = next(csv.reader(decoded(), delimiter=delimiter, strict=True), None)
        except (csv.Error, UserError) as error:
            self._back.extendleft(reversed(taken[1:]))
            if isinstance(error, csv.Error):
                error = UserError(f"{self.path}:{taken[0][0]}: not valid csv: {error}")
            elif len(taken) > 1:
                error = UserError(f"{self.path}:{taken[0][0]}: not valid csv: a quote isn't closed in UTF-8 text")
            return _bad(error, taken[:1])
        if fields is None:
            return None
        return Record(taken[0][0], taken[-1][0], {"fields": fields}, raw=_raw(taken))

    def _next(self) -> NumberedLine | None:
        return self._back.popleft() if self._back else next(self._lines, None)


def _decoded(raw: bytes, number: int, place: str) -> str:
    try:
        return raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{place}: not UTF-8 text; convert the file (iconv -t UTF-8)") from None


def _bad(error: Exception, lines: list[NumberedLine]) -> Record:
    return Record(lines[0][0], lines[-1][0], {}, str(error), _raw(lines))


def _raw(lines: list[NumberedLine]) -> str:
    return b"".join(raw for _, raw in lines).decode("utf-8", "replace").rstrip("\r\n")
