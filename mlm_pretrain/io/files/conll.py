"""CoNLL files: a word and its tag a line, a blank line between sentences, columns by tabs or else blanks.

What begins with # is a word in some files and a comment in others, by the kind of the file:

- The first column numbers the words, as in CoNLL-U and GermEval: it is a comment, always.
- Else a line with as many columns as the others of its sentence is a word (`# SYM`, `#tag O`), unless it is written as
  comments are (`# name = value`, `# newdoc`); one with more or fewer is a comment. One word alone (`#tag`) is neither.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from mlm_pretrain.errors import UserError
from mlm_pretrain.io.files.lines import UNDECODABLE, problem_of, without_mark

Columns = tuple[int, int]
"""Those of the word and of the tag, counted from 0, or from -1 backwards."""

COMMENT, NO_WORD = "comment", "contraction or empty-node"
"""Which lines are no words."""

_NUMBER = re.compile(r"\d+")
_RANGE = re.compile(r"\d+[-.]\d+")
_ASSIGNMENT = re.compile(r"# ?\S+ =( |$)")
_KNOWN_NAME = re.compile(r"# ?(newdoc|newpar|sent_id|begin document|end document)\b")


class Sentence(NamedTuple):
    words: list[str]
    tags: list[str]
    line: int
    """That of the first word, counted from 1; of a sentence that can't be used, that of the first bad word."""
    dropped: str | None = None
    """The reason, in a word."""
    problem: str | None = None
    """What is wrong, with the place."""


class _Line(NamedTuple):
    number: int
    text: str
    fields: list[str]


class _Shape(NamedTuple):
    """How the lines of a sentence are built."""

    is_numbered: bool
    width: int
    by_tabs: bool


def read_conll(
    file: str | Path, lines: Iterable[str], columns: Columns, encoding: str, skipped: Counter[str]
) -> Iterator[Sentence]:
    """Sentences with the tags as the file has them; -DOCSTART- ends one.

    Args:
        lines: all of the file's.
        skipped: where lines that are no words are counted: `COMMENT`, and `NO_WORD` for those of CoNLL-U that are no
            words of their own (`3-4`, a contraction; `8.1`, an empty node).

    Raises:
        UserError: the column of the words is the one that numbers them.
    """
    shape: _Shape | None = None
    waiting: list[list[_Line]] = []  # until one shows what the lines of this file are
    for block in _blocks(lines, columns):
        seen = _shape(block, columns)
        if seen is None and shape is None:
            waiting.append(block)
            continue
        shape = known = seen or shape or _Shape(False, 0, False)
        for each in (*waiting, block):
            yield from _sentence(file, each, columns, known, encoding, skipped)
        waiting = []
    for each in waiting:
        own = _Shape(False, len(each[0].fields), "\t" in each[0].text)
        yield from _sentence(file, each, columns, own, encoding, skipped)


def _blocks(lines: Iterable[str], columns: Columns) -> Iterator[list[_Line]]:
    """The lines between blank ones."""
    block: list[_Line] = []
    for number, raw in enumerate(lines, start=1):
        text = without_mark(raw).rstrip("\r\n")
        fields = text.split("\t") if "\t" in text else re.split(" +", text.strip(" "))
        if text.strip(" \t") and "-DOCSTART-" not in (fields[0], *fields[columns[0] :][:1]):
            block.append(_Line(number, text, fields))
        elif block:
            yield block
            block = []
    if block:
        yield block


def _shape(block: list[_Line], columns: Columns) -> _Shape | None:
    """That of a block; None if each of its lines begins with #."""
    plain = [line for line in block if not line.text.startswith("#")]
    if not plain:
        return None
    width = Counter(len(line.fields) for line in plain).most_common(1)[0][0]
    by_tabs = any("\t" in line.text for line in plain)
    numbers = [int(line.fields[0]) for line in plain if _NUMBER.fullmatch(line.fields[0])]
    whole = len(numbers) + sum(_RANGE.fullmatch(line.fields[0]) is not None for line in plain) == len(plain)
    counts_up = whole and numbers in (list(range(len(numbers))), list(range(1, len(numbers) + 1)))
    # Words that are numbers are in the column of the words.
    is_numbered = counts_up and width > 2 and ((width == 10 and by_tabs) or columns[0] % width != 0)
    return _Shape(is_numbered, width, by_tabs)


def _sentence(
    file: str | Path, block: list[_Line], columns: Columns, shape: _Shape, encoding: str, skipped: Counter[str]
) -> Iterator[Sentence]:
    word_column, tag_column = columns
    words: list[str] = []
    tags: list[str] = []
    first = 0
    bad: Sentence | None = None
    for line in block:
        if _is_comment(line, shape):
            skipped[COMMENT] += 1
        elif (shape.is_numbered or len(line.fields) == 10) and _RANGE.fullmatch(line.fields[0]):
            skipped[NO_WORD] += 1
        elif found := _problem(line, columns, f"{file}:{line.number}", encoding):
            bad = bad or Sentence([], [], line.number, *found)
        elif shape.is_numbered and word_column % len(line.fields) == 0:
            raise UserError(
                f"{file}:{line.number}: the first of ten columns numbers the words; set conll_columns: [1, 3]"
            )
        else:
            first = first or line.number
            words.append(line.fields[word_column])
            tags.append(line.fields[tag_column].strip(" "))
    if bad or words:
        yield bad or Sentence(words, tags, first)


def _problem(line: _Line, columns: Columns, place: str, encoding: str) -> tuple[str, str] | None:
    """The reason to drop a sentence for this line, and that in a line for people; or None."""
    if found := problem_of(line.text, place, encoding):
        return found
    needed = max(column + 1 if column >= 0 else -column for column in columns)
    if len(line.fields) >= max(needed, 2):
        return None
    wanted = "a word, then a tag, by tab or blank" if needed <= 2 else f"conll_columns asks for {needed}"
    return UNDECODABLE, f"{place}: {_columns(len(line.fields))}; {wanted}"


def _is_comment(line: _Line, shape: _Shape) -> bool:
    if not line.text.startswith("#"):
        return False
    if shape.is_numbered or line.text.rstrip() == "#":
        return True
    if _ASSIGNMENT.match(line.text):
        return True
    if "\t" in line.text and len(line.fields) == shape.width:
        return False
    if _KNOWN_NAME.match(line.text):
        return True
    is_of_another_kind = shape.by_tabs and "\t" not in line.text
    return len(line.text.split()) > 1 and (is_of_another_kind or len(line.fields) != shape.width)


def _columns(count: int) -> str:
    return "only one column" if count == 1 else f"only {count} columns"
