"""Large files in pieces that are read independently of each other, each beginning where a document begins.

A file of lines is cut at any byte, and the pieces on both sides move the cut to the same place: the first boundary at
or after it. A boundary is the start of a line or, where documents are paragraphs, the start of a blank line. So no
document is lost, doubled or divided. Only plain text without such a boundary for a megabyte is cut at the next best
one: at a line, else at white space, else between two characters. A boundary is looked for when a piece is opened, not
when the corpus is.
"""

from __future__ import annotations

import codecs
import functools
import io
import itertools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

PIECES = 256
SMALLEST, LARGEST = 2**16, 2**24
"""Bytes. On one core the smallest is tokenised in 17 ms, and opened in 0.4 ms (most of it in `IterableDataset.shard`,
whose time grows with the number of pieces)."""

MOST_PARTS_OF_A_GROUP = 32

_CHUNK = 2**16
_BUFFER = 2**17
_FAR = 2**20
# What ends just before a boundary; by document, best first.
_LINE = re.compile(rb"\n")
_BLANK_LINE = re.compile(rb"\n(?=[ \t\r\f\v]*\n)")
# Only files whose line ends are all CR come to these.
_CR = re.compile(rb"\r")
_BLANK_CR = re.compile(rb"\r(?=[ \t\f\v]*\r)")
_SPACE = re.compile(rb"[ \t\f\v]")
_CHARACTER = re.compile(rb"[\x00-\xff](?=[^\x80-\xbf])")
_BOUNDARIES = {
    "record": (_LINE,),
    "line": (_LINE, _CR, _SPACE, _CHARACTER),
    "paragraph": (_BLANK_LINE, _LINE, _BLANK_CR, _CR, _SPACE, _CHARACTER),
}
# In these encodings a byte 0x0A ends a line, wherever it stands.
_LINE_ENDS_ARE_BYTES = re.compile(r"utf-8(-sig)?|ascii|iso8859-\d+|cp125\d|koi8-[rtu]")


class Piece(NamedTuple):
    """A part of a file, from `start` up to `end`: bytes of a text file, rows of a Parquet file.

    Where `end` is None it is the whole file.
    """

    file: str
    start: int = 0
    end: int | None = None


def piece_size(total: int) -> int:
    """Bytes of a piece in a corpus of `total` bytes, within bounds so many that there are `PIECES`."""
    return min(max(total // PIECES, SMALLEST), LARGEST)


def can_be_cut(encoding: str) -> bool:
    """Whether text in this encoding has its line ends at bytes that are known without decoding."""
    return _LINE_ENDS_ARE_BYTES.fullmatch(codecs.lookup(encoding).name) is not None


def by_bytes(file: str, size: int, wanted: int) -> list[Piece]:
    """Pieces of `wanted` bytes; the last one has up to twice as many."""
    if size < 2 * wanted:
        return [Piece(file)]
    starts = range(0, size - wanted + 1, wanted)
    return [Piece(file, start, size if start == starts[-1] else start + wanted) for start in starts]


def by_rows(file: str, groups: Iterable[tuple[int, int]], wanted: int) -> list[Piece]:
    """Pieces of `wanted` bytes or more of a Parquet file, from the rows and the bytes of each row group.

    Small row groups are taken together. A large one is divided, into so many parts at most that skipping what is in
    front of each (a group can only be read from its start) stays short beside tokenising it.
    """
    cuts, row, filled = [0], 0, 0
    for rows, size in groups:
        if filled >= wanted:
            cuts.append(row)
            filled = 0
        parts = max(min(size // wanted, MOST_PARTS_OF_A_GROUP), 1)
        cuts += [row + rows * part // parts for part in range(1, parts)]
        filled = filled + size if parts == 1 else size // parts
        row += rows
    cuts = sorted({*cuts, row})
    if len(cuts) <= 2:
        return [Piece(file)]
    return [Piece(file, start, end) for start, end in itertools.pairwise(cuts)]


def merge_small(pieces: Iterable[tuple[Piece, int]], wanted: int) -> list[tuple[Piece, ...]]:
    """Join neighbours as long as they have no more than `wanted` bytes together; each comes with its size."""
    merged: list[list[Piece]] = []
    filled = 0
    for piece, size in pieces:
        if merged and filled + size <= wanted:
            merged[-1].append(piece)
            filled += size
        else:
            merged.append([piece])
            filled = size
    return [tuple(each) for each in merged]


def open_piece(piece: Piece, document: str) -> io.BufferedReader:
    """The bytes of a piece of a text file, as a file of its own.

    Args:
        document: what one is: a line, a paragraph, or a record (a line that is never divided).
    """
    assert piece.end is not None
    start, end = (_boundary(piece.file, cut, document) for cut in (piece.start, piece.end))
    return io.BufferedReader(_Range(piece.file, start, end), _BUFFER)


class _Range(io.RawIOBase):
    """The bytes of a file from `start` up to `end`."""

    def __init__(self, file: str, start: int, end: int) -> None:
        self._file = Path(file).open("rb", buffering=0)  # noqa: SIM115
        self._file.seek(start)
        self._left = end - start

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        taken = self._file.readinto(memoryview(buffer)[: self._left]) or 0
        self._left -= taken
        return taken

    def close(self) -> None:
        self._file.close()
        super().close()


def _boundary(file: str, position: int, document: str) -> int:
    """The first boundary at or after a position, of the best kind that is near; the file's end where there is none.

    The file is searched in chunks that don't depend on the position. A blank line that two chunks share is no boundary,
    from wherever the search begins; so what lies between two boundaries is the same for all pieces.
    """
    if position == 0:
        return 0
    status = Path(file).stat()
    kinds = _BOUNDARIES[document]
    far = status.st_size if len(kinds) == 1 else (position + _FAR) // _CHUNK * _CHUNK
    for kind in kinds:
        start = position
        while start < min(far, status.st_size):
            end = min((start // _CHUNK + 1) * _CHUNK, status.st_size)
            found = _first_boundary(file, status.st_mtime_ns, start, end, kind)
            if found is not None:
                return found
            start = end
        if far >= status.st_size:
            return status.st_size
    return position


@functools.lru_cache(maxsize=2**16)
def _first_boundary(file: str, modified: int, start: int, end: int, kind: re.Pattern[bytes]) -> int | None:
    """The first boundary at `start` or after it, if it shows in the bytes up to `end`.

    Kept, because a document longer than many pieces would be searched through from each of them.
    """
    with Path(file).open("rb", buffering=0) as handle:
        handle.seek(start - 1)
        data = handle.read(end - start + 1)
    match = kind.search(data)
    return start + match.start() if match else None
