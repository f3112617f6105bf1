"""CoNLL files: a word and its tag a line, an empty line between sentences."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from mlm_pretrain.errors import UserError
from mlm_pretrain.tasks.schemes import is_tag

Sentence = tuple[list[str], list[str], str]
"""Words, tags, and the place of the first word."""

_RANGE = re.compile(r"\d+[-.]\d+")


def read_conll(path: Path, lines: Iterable[tuple[int, str]], columns: tuple[int, int] = (0, -1)) -> Iterator[Sentence]:
    """Sentences with the tags as the file has them, by tabs or else blanks.

    -DOCSTART- ends a sentence. Skipped are comments (`# …` without tabs before a sentence, or with other columns than
    the words) and lines of CoNLL-U that are no words of their own (`3-4`, a contraction; `8.1`, an empty node).

    Args:
        lines: with their numbers, counted from 1.
        columns: of the word and of the tag.

    Raises:
        UserError: a line has too few columns.
    """
    word_column, tag_column = columns
    needed = max(column + 1 if column >= 0 else -column for column in columns)
    tokens: list[str] = []
    tags: list[str] = []
    first = width = 0
    for number, line in lines:
        line = line.rstrip("\r\n")
        fields = line.split("\t") if "\t" in line else re.split(" +", line.strip(" "))
        if not line.strip(" \t") or "-DOCSTART-" in (fields[0], *fields[word_column:][:1]):
            if tokens:
                yield tokens, tags, f"{path}:{first}"
            tokens, tags, first = [], [], 0
        elif _is_comment(line, fields, width, inside=bool(tokens)) or _is_no_word(fields):
            continue
        elif len(fields) < max(needed, 2):
            wanted = "a word, then a tag, by tab or blank" if needed <= 2 else f"conll_columns asks for {needed}"
            raise UserError(f"{path}:{number}: {_columns(len(fields))}; {wanted}")
        else:
            first, width = first or number, len(fields)
            tokens.append(fields[word_column])
            tags.append(fields[tag_column].strip(" "))
    if tokens:
        yield tokens, tags, f"{path}:{first}"


def _is_comment(line: str, fields: list[str], width: int, inside: bool) -> bool:
    """Whether `# …` is a comment rather than the word #.

    Args:
        width: how many fields the word before it has; 0 where there was none.
        inside: whether a word of the sentence stands before it.
    """
    if not line.startswith("# ") or "\t" in line:
        return False
    if width and len(fields) != width:
        return True
    if is_tag(fields[-1]):
        return not width and fields[2:3] == ["="]  # the first of all lines may be: # source = E-mail
    return not inside


def _is_no_word(fields: list[str]) -> bool:
    return len(fields) == 10 and _RANGE.fullmatch(fields[0]) is not None


def _columns(count: int) -> str:
    return "only one column" if count == 1 else f"only {count} columns"
