"""Tables: a header, then records of fields between delimiters, quoted as in RFC 4180 or not at all.

Nobody says in a .tsv file whether quotes are quoting. Read as such, one quote at the beginning of a field swallows the
rows up to the next one; read as characters, they break a field that goes over several lines. So the beginning of a
table is read both ways, wherever the two differ, and the reading with fewer bad lines is taken for all of it
(`quoting` overrules that). If the two are equally good, the record that they differ in is reported.
"""

from __future__ import annotations

import csv
import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from mlm_pretrain.errors import UserError
from mlm_pretrain.escaping import counted
from mlm_pretrain.io.files import lines as text_lines
from mlm_pretrain.io.files.lines import UNDECODABLE, dropped_for, problem_of, without_mark
from mlm_pretrain.io.files.reading import Reading

HEADER = "header"
"""Why a record is dropped: it repeats the header, as in files joined by `cat`."""
AMBIGUOUS = "ambiguous_quotes"
"""Why a record is dropped: it may be one record or several, and only the user knows."""
SAMPLE = 2**20
"""Characters at the beginning of a table that are read both ways."""

_DELIMITERS = {"csv": ",", "tsv": "\t"}


class Row(NamedTuple):
    """A record of a table."""

    line: int
    """Its first line, counted from 1."""
    last_line: int
    lines: list[str]
    """As the file has them."""
    fields: list[str]
    dropped: str | None = None
    problem: str | None = None
    """What is wrong, in words. Of a row that isn't valid only the first line counts as read, so that an unbalanced
    quote takes no other row along."""


class _Quotes(Enum):
    QUOTING = "quoting"
    CHARACTERS = "characters"
    UNSURE = "unsure"


class Table:
    """The rows of a table after its header, in order, and what was found out about it.

    Args:
        handle: its characters, with the line ends as they are.
        form: csv or tsv.

    Raises:
        UserError: the header isn't valid, or another delimiter than the one that is expected is in it.
    """

    def __init__(self, file: str | Path, handle: Iterator[str], form: str, reading: Reading) -> None:
        csv.field_size_limit(text_lines.LONGEST)
        self._file = file
        self._delimiter = reading.delimiter or _DELIMITERS[form]
        self._lines = _Lines(handle)
        sample = self._lines.look_ahead(SAMPLE)
        self.header = self._read_header(sample, reading)
        """The columns' names, each once."""
        self._quotes = _Quotes.QUOTING if reading.quoting == "minimal" else _Quotes.CHARACTERS
        if reading.quoting is None:
            self._quotes = self._judge(sample)
        self.unquoted = 0
        """Rows with quotes that were taken for characters, though they look like quoting."""

    # -- the header

    def _read_header(self, sample: list[str], reading: Reading) -> list[str]:
        first = next((without_mark(line) for line in sample if without_mark(line).strip("\r\n")), "")
        other = next((sign for sign in ";\t|," if sign in first), None)
        if other and self._delimiter not in first and reading.delimiter is None:
            name = '"\\t"' if other == "\t" else f"'{other}'"
            raise UserError(f"{self._file}: the header is one column, {first.strip()!r:.60}; set delimiter: {name}")
        row = next(self._records(self._lines, literal=False), None)
        if row is None:
            return []
        if row.problem:
            raise UserError(f"{self._file}:{row.line}: the header is {row.problem}")
        if found := problem_of("".join(row.lines), f"{self._file}:{row.line}", reading.encoding):
            raise UserError(found[1])
        self._width = len(row.fields)
        self._raw_header = row.fields
        self._has_blanks = self._delimiter == "\t" or any(field.startswith(" ") for field in row.fields[1:])
        return distinct(row.fields)

    # -- the rows

    def skip_lines(self, last: int) -> None:
        """Continue after this line."""
        self._lines.skip_to(last)

    def __iter__(self) -> Iterator[Row]:
        if not self.header:
            return
        rows = self._records(self._lines, literal=self._quotes is _Quotes.CHARACTERS)
        for row in rows:
            if row.fields == self._raw_header and (self._width > 1 or row.lines[0].startswith("\ufeff")):
                yield row._replace(dropped=HEADER)
            elif self._quotes is _Quotes.UNSURE and (row.problem or self._is_suspicious(row)):
                yield self._decided(row)
            elif row.problem is None and len(row.fields) != self._width:
                yield self._uneven(row)
            else:
                self.unquoted += self._quotes is _Quotes.CHARACTERS and _begins_with_quote(row.fields)
                yield row

    def _uneven(self, row: Row) -> Row:
        problem = f"{counted(len(row.fields), 'field')}, but the header names {self._width} columns"
        return row._replace(dropped=dropped_for("".join(row.lines)) or UNDECODABLE, problem=problem)

    def _decided(self, row: Row) -> Row:
        """A row that looks wrong with its quotes as quoting, in a table that shows nothing about them.

        Its first line is a row of its own if it can be; the rest is read again.
        """
        fields = self._split(row.lines[0])
        if len(fields) == self._width and (row.problem or self._tabs_decide):
            self._lines.put_back(row.lines[1:])
            self.unquoted += 1
            return row._replace(last_line=row.line, lines=row.lines[:1], fields=fields, dropped=None, problem=None)
        if row.problem:
            return row
        return row._replace(
            dropped=AMBIGUOUS,
            problem=f"a quoted field goes over {len(row.lines)} lines, which have {self._width} columns each by "
            "themselves; set quoting: none if quotes are characters here, minimal if the field is one text",
        )

    def _records(self, lines: _Lines, literal: bool) -> Iterator[Row]:
        """Records by one reading, also those of another length than the header."""
        dialect = {"quoting": csv.QUOTE_NONE} if literal else {"strict": True}
        reader = csv.reader(lines.of_a_record(), delimiter=self._delimiter, **dialect)
        while True:
            lines.taken = []
            try:
                fields = next(reader, None)
            except csv.Error as error:
                taken = lines.taken
                lines.put_back(taken[1:])
                # A generator that came to its end has no more lines, whatever was put back.
                reader = csv.reader(lines.of_a_record(), delimiter=self._delimiter, **dialect)
                number = lines.number
                yield Row(number, number, taken[:1], [], UNDECODABLE, f"not valid csv: {error} (see quoting)")
                continue
            if fields is None:
                return
            if fields:
                yield Row(lines.number - len(lines.taken) + 1, lines.number, lines.taken, fields)

    # -- what quotes are

    @property
    def _tabs_decide(self) -> bool:
        """Whether lines that each have all columns are rows: there are hardly any texts with tabs in them."""
        return self._delimiter == "\t" and self._width > 1

    def _split(self, line: str) -> list[str]:
        return without_mark(line).rstrip("\r\n").split(self._delimiter)

    def _is_suspicious(self, row: Row) -> bool:
        """Whether (nearly) each line of a record over several lines has all columns by itself."""
        if len(row.lines) < 2 or self._width < 2:
            return False
        return sum(map(self._is_whole, row.lines)) >= 0.9 * len(row.lines)

    def _is_whole(self, line: str) -> bool:
        """Whether a line has all columns by itself; a comma with a blank after it is rather one of a sentence."""
        fields = self._split(line)
        in_prose = not self._has_blanks and any(field.startswith(" ") for field in fields[1:])
        return len(fields) == self._width and not in_prose

    def _judge(self, sample: list[str]) -> _Quotes:
        """Read the table's beginning both ways, and compare the bad lines."""
        as_quoting = as_characters = 0
        hard = False
        lines = _Lines(iter(sample))
        is_cut = sum(map(len, sample)) >= SAMPLE
        rows = self._records(lines, literal=False)
        header = next(rows, None)
        if header is not None and _begins_with_quote(self._split(header.lines[0])):
            return _Quotes.QUOTING  # as writers that quote every string leave it
        for row in rows:
            if is_cut and lines.reached_end:
                break  # how the last one continues is not known
            if len(row.lines) == 1 and self._split(row.lines[0]) == row.fields:
                continue
            is_bad = bool(row.problem) or len(row.fields) != self._width
            hard |= is_bad
            as_quoting += len(row.lines) if is_bad or self._is_suspicious(row) else 0
            as_characters += sum(not self._is_whole(line) for line in row.lines)
        if as_quoting > as_characters:
            return _Quotes.CHARACTERS if hard or self._tabs_decide else _Quotes.UNSURE
        return _Quotes.QUOTING if as_characters else _Quotes.UNSURE


class _Lines:
    """Lines, of which some may be put back."""

    def __init__(self, handle: Iterator[str]) -> None:
        self._rest = handle
        self._back: deque[str] = deque()
        self.reached_end = False
        self.number = 0
        """That of the last line taken, counted from 1."""
        self.taken: list[str] = []
        """Those of the record that is being read."""

    def look_ahead(self, size: int) -> list[str]:
        """Lines of so many characters together, or up to the end; they are still to be taken."""
        seen = []
        for line in self._rest:
            seen.append(line)
            size -= len(line)
            if size <= 0:
                break
        self._back.extend(seen)
        return seen

    def put_back(self, lines: list[str]) -> None:
        self._back.extendleft(reversed(lines))
        self.number -= len(lines)

    def skip_to(self, last: int) -> None:
        while self.number < last and self._next() is not None:
            pass

    def of_a_record(self) -> Iterator[str]:
        """The lines still to come; each is `taken`."""
        while (line := self._next()) is not None:
            self.taken.append(line)
            yield line if len(self.taken) > 1 else without_mark(line)

    def _next(self) -> str | None:
        line = self._back.popleft() if self._back else next(self._rest, None)
        self.number += line is not None
        self.reached_end |= line is None
        return line


def _begins_with_quote(fields: list[str]) -> bool:
    return any(field.startswith('"') for field in fields)


def distinct(names: Iterable[str]) -> list[str]:
    """Names of columns, each once: a second `x` is `x.1`, as in pandas."""
    found: dict[str, None] = {}
    for name in names:
        numbered = (f"{name}.{number}" if number else name for number in itertools.count())
        found[next(each for each in numbered if each not in found)] = None
    return list(found)
