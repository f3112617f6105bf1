"""The records of any file that examples, or texts to predict, come from, and what is wrong with them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from mlm_pretrain.io.files import conll, formats, json_lines, parquet
from mlm_pretrain.io.files.compression import errors_of
from mlm_pretrain.io.files.lines import UNDECODABLE, as_written, open_text, problem_of, read_lines, without_mark
from mlm_pretrain.io.files.reading import Reading
from mlm_pretrain.io.files.tables import Table
from mlm_pretrain.io.files.tally import Tally


class Record(NamedTuple):
    """A line, a row of a table or a sentence of a file."""

    place: str
    """The file and the line, for messages."""
    line: int
    """Its first line, counted from 1; in Parquet and in JSON documents the number of the row."""
    last_line: int
    row: dict[str, Any]
    """The columns; empty if it is dropped."""
    dropped: str | None = None
    """The reason, in a word."""
    problem: str | None = None
    """What is wrong, with the place; None if nothing is lost with it, as with a header that is repeated."""
    raw: str = ""
    """As the file has it; bytes that can't be decoded are replaced."""


class Words(NamedTuple):
    """How files of words and tags (CoNLL) are read: which columns, and what these are called in the rows."""

    columns: conll.Columns = (0, -1)
    tokens: str = "tokens"
    tags: str = "ner_tags"


class Records:
    """Iterates over the records of a file, dropped ones too; blank lines are none.

    Args:
        file: its ending tells the format, one of `formats.FORMATS` with or without a compression's, or else a text a
            line.
        words: given, `.txt`, `.tsv`, … are CoNLL files.
        text_column: what the lines of a text file are called in the rows.
        skip: how many lines (of Parquet and JSON documents: rows) at the beginning are skipped.
        keep_blank: a blank line of a text file is a text.

    Raises:
        UserError: there is no such file, it is damaged, in another encoding, or of a format that can't be read.
    """

    def __init__(
        self,
        file: str | Path,
        reading: Reading | None = None,
        *,
        words: Words | None = None,
        text_column: str = "text",
        skip: int = 0,
        keep_blank: bool = False,
    ) -> None:
        self.tally = Tally(str(file))
        """Of what has been read so far."""
        self.class_names: dict[str, list[str]] = {}
        """The names behind integers by column, of a Parquet file that has them; known once the first record is."""
        self._file = file
        self._reading = reading or Reading()
        self._words = words if formats.suffix_of(file) in formats.CONLL else None
        self._text_column = text_column
        self._skip = skip
        self._keep_blank = keep_blank

    def __iter__(self) -> Iterator[Record]:
        with errors_of(self._file), contextlib.ExitStack() as opened:
            for record in self._records(opened):
                if record.dropped is None:
                    self.tally.count(record.row, record.place)
                else:
                    self.tally.dropped[record.dropped] += 1
                yield record

    def _records(self, opened: contextlib.ExitStack) -> Iterator[Record]:
        if self._words is not None:
            return self._sentences(self._open(opened), self._words)
        form = formats.format_of(self._file)
        if form == "parquet":
            file = opened.enter_context(parquet.open_parquet(self._file))
            self.class_names = parquet.class_names(file.schema_arrow)
            return self._numbered(parquet.rows(file, self._skip))
        if form in formats.TABLES:
            return self._table(self._open(opened, keep_ends=True), form)
        handle = self._open(opened)
        return self._json(handle) if form == "json" else self._texts(handle)

    def _texts(self, handle: IO[str]) -> Iterator[Record]:
        for number, line, place in self._lines(read_lines(handle)):
            text = line.rstrip("\n")
            if text.strip() or self._keep_blank:
                yield self._checked(Record(place, number, number, {self._text_column: text}, raw=text))

    def _json(self, handle: IO[str]) -> Iterator[Record]:
        lines = read_lines(handle)
        if formats.suffix_of(self._file) == ".json":
            rows, lines = json_lines.document_rows(lines)
            if rows is not None:
                yield from self._numbered(iter(rows[self._skip :]))
                return
        for number, line, place in self._lines(lines):
            if not line.strip():
                continue
            record = self._checked(Record(place, number, number, {}, raw=line.rstrip("\n")))
            if record.problem is None:
                row, problem = json_lines.parse(line)
                record = record._replace(row=row) if row is not None else _bad(record, UNDECODABLE, problem)
            yield record

    def _table(self, handle: IO[str], form: str) -> Iterator[Record]:
        table = Table(self._file, read_lines(handle), form, self._reading)
        table.skip_lines(self._skip)
        for row in table:
            place = f"{self._file}:{row.line}"
            record = self._checked(Record(place, row.line, row.last_line, {}, row.dropped, raw="".join(row.lines)))
            if record.problem is None and row.problem:
                record = _bad(record, row.dropped or UNDECODABLE, row.problem)
            elif record.dropped is None:
                record = record._replace(row=dict(zip(table.header, row.fields, strict=True)))
            self.tally.unquoted = table.unquoted
            self.tally.over_lines += record.dropped is None and row.last_line > row.line
            yield record

    def _sentences(self, handle: IO[str], words: Words) -> Iterator[Record]:
        lines = read_lines(handle)
        skipped = self.tally.skipped
        for sentence in conll.read_conll(self._file, lines, words.columns, self._reading.encoding, skipped):
            row = {} if sentence.dropped else {words.tokens: sentence.words, words.tags: sentence.tags}
            place = f"{self._file}:{sentence.line}"
            yield Record(place, sentence.line, sentence.line, row, sentence.dropped, sentence.problem)

    def _numbered(self, rows: Iterator[dict[str, Any]]) -> Iterator[Record]:
        for number, row in enumerate(rows, start=self._skip + 1):
            yield Record(f"{self._file}, row {number - 1}", number, number, row)

    def _open(self, opened: contextlib.ExitStack, keep_ends: bool = False) -> IO[str]:
        return opened.enter_context(open_text(self._file, self._reading.encoding, keep_ends))

    def _lines(self, lines: Iterator[str]) -> Iterator[tuple[int, str, str]]:
        """Numbers, lines and places of those that aren't skipped."""
        for number, line in enumerate(lines, start=1):
            if number > self._skip:
                yield number, without_mark(line), f"{self._file}:{number}"

    def _checked(self, record: Record) -> Record:
        """With its problem, if there are bytes in it that can't be decoded, or a line that is too long."""
        found = problem_of(record.raw, record.place, self._reading.encoding)
        record = record._replace(raw=as_written(record.raw))
        return record if found is None else record._replace(row={}, dropped=found[0], problem=found[1])


def _bad(record: Record, reason: str, problem: str) -> Record:
    return record._replace(row={}, dropped=reason, problem=f"{record.place}: {problem}")
