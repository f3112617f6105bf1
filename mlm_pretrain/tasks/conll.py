"""CoNLL files: a word and its tag a line, an empty line between sentences."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from mlm_pretrain.errors import UserError
from mlm_pretrain.tasks.schemes import is_tag

Sentence = tuple[list[str], list[str], str]
"""Words, tags, and the place of the first word."""


def read_conll(path: Path, lines: Iterable[tuple[int, str]], columns: tuple[int, int] = (0, -1)) -> Iterator[Sentence]:
    """Sentences with the tags as the file has them, by tabs or else blanks.

    Lines that start with -DOCSTART- are skipped, as are comments: `# …` without tabs whose tag column holds no tag.

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
    first = 0
    for number, line in lines:
        line = line.rstrip("\r\n")
        fields = line.split("\t") if "\t" in line else re.split(" +", line.strip(" "))
        comment = line.startswith("# ") and "\t" not in line and not is_tag(fields[-1])
        if line.strip(" \t") and not comment and fields[0] != "-DOCSTART-":
            if len(fields) < max(needed, 2):
                wanted = "a word, then a tag, by tab or blank" if needed <= 2 else f"conll_columns asks for {needed}"
                raise UserError(f"{path}:{number}: {_columns(len(fields))}; {wanted}")
            first = first or number
            tokens.append(fields[word_column])
            tags.append(fields[tag_column].strip(" "))
        elif not comment and tokens:
            yield tokens, tags, f"{path}:{first}"
            tokens, tags, first = [], [], 0
    if tokens:
        yield tokens, tags, f"{path}:{first}"


def _columns(count: int) -> str:
    return "only one column" if count == 1 else f"only {count} columns"
