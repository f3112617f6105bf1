"""Documents of plain text: lines, paragraphs or whole files. However long they are, memory is bounded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import IO

from mlm_pretrain.text.files.long import boundary

LONGEST_READ = 2**22
"""Characters; a line, paragraph or file that has more is read as several documents."""
LOOKED_AT = 2**22
"""Characters at a file's beginning in which blank lines are looked for."""

_SEARCHED = 2**12
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n")


def document_of(handle: IO[str]) -> str:
    """What a document is in a text file by default: a paragraph; a line if there is no blank line between two
    others in the first four million characters."""
    return "paragraph" if _BLANK_LINE.search(handle.read(LOOKED_AT).strip()) else "line"


def documents(handle: IO[str], document: str) -> Iterator[str]:
    """The documents of a text file, each of about `LONGEST_READ` characters at most.

    Args:
        document: line, paragraph (what is between blank lines; white space counts as blank) or file.
    """
    lines = _lines(handle)
    if document == "line":
        for line in lines:
            yield line.rstrip("\n")
    elif document == "paragraph":
        for paragraph in _gathered(lines, at_blank_lines=True):
            yield paragraph.rstrip("\n")
    else:
        empty = True
        for part in _gathered(lines, at_blank_lines=False):
            empty = False
            yield part
        if empty:
            yield ""


def _lines(handle: IO[str]) -> Iterator[str]:
    """The lines with their ends; one without an end in sight comes in parts."""
    carried = ""
    while line := handle.readline(LONGEST_READ):
        line = carried + line
        carried = ""
        if len(line) >= LONGEST_READ and not line.endswith("\n"):
            cut = boundary(line, len(line), _SEARCHED)
            line, carried = line[:cut], line[cut:]
        yield line
    if carried:
        yield carried


def _gathered(lines: Iterable[str], at_blank_lines: bool) -> Iterator[str]:
    """Runs of lines, up to a blank one or the file's end, or as long as they may be."""
    held: list[str] = []
    size = 0
    for line in lines:
        blank = at_blank_lines and not line.strip()
        if not blank:
            held.append(line)
            size += len(line)
        if held and (blank or size >= LONGEST_READ):
            yield "".join(held)
            held, size = [], 0
    if held:
        yield "".join(held)
