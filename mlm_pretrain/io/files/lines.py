"""A text file's characters and its lines.

Bytes that are not valid in the encoding and lines too long to be kept are marked by characters that Unicode keeps out
of text, so that reading continues after them; `problem_of` says what a mark means. Line ends are LF, CRLF and CR,
also mixed. A byte-order mark at the beginning of a line is no text: files joined by `cat` have them in the middle.
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from mlm_pretrain.errors import UserError
from mlm_pretrain.io.files.compression import Bytes, open_bytes

LONGEST = 2**26
"""Characters of a line. A file may have no line end at all, as the gigabyte of zeros that a small gz file can hold."""

UNDECODABLE, TOO_LONG = "undecodable", "line_too_long"
"""Why a record is dropped."""
BYTE_ORDER_MARK = "\ufeff"

_BAD_BYTES, _LONG_LINE = "\ufdd0", "\ufdd1"
_MARKING = "mlm_pretrain.mark"
_LOOKED_AT = 2**12
_PACKED = {
    b"\x1f\x8b": ("compressed by gzip", "rename it to end in .gz"),
    b"\x28\xb5\x2f\xfd": ("compressed by Zstandard", "rename it to end in .zst"),
    b"\xfd7zXZ\x00": ("compressed by xz", "rename it to end in .xz"),
    b"BZh91AY&SY": ("compressed by bzip2", "rename it to end in .bz2"),
    b"PAR1\x15": ("a Parquet file", "rename it to end in .parquet"),
    b"PK\x03\x04": ("a zip archive", "unpack it, or export a spreadsheet as .csv and a document as .txt"),
}
"""By their first bytes, files that are no text."""


def _mark(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return _BAD_BYTES, error.end


codecs.register_error(_MARKING, _mark)


def characters(data: Bytes, file: str | Path, encoding: str, at_start: bool = True, keep_ends: bool = False) -> IO[str]:
    """Bytes as characters.

    Args:
        at_start: whether the bytes are the beginning of the file.
        keep_ends: leave line ends as they are, as tables need it, where they may be quoted; else all are LF.

    Raises:
        UserError: the file begins as UTF-16 or UTF-32 does, and the encoding is another; or it is no text at all.
    """
    is_utf8 = codecs.lookup(encoding).name in {"utf-8", "utf-8-sig"}
    if at_start:
        try:
            head = data.peek(_LOOKED_AT)[:_LOOKED_AT]
            _refuse_packed(head, file)
            if is_utf8:
                _refuse_wide_characters(head, file)
        except BaseException:
            data.close()
            raise
    if is_utf8:
        encoding = "utf-8-sig" if at_start else "utf-8"
    return io.TextIOWrapper(data, encoding=encoding, errors=_MARKING, newline="" if keep_ends else None)


def open_text(file: str | Path, encoding: str, keep_ends: bool = False) -> IO[str]:
    """A whole text file; see `characters`."""
    return characters(open_bytes(file), file, encoding, keep_ends=keep_ends)


def _refuse_packed(head: bytes, file: str | Path) -> None:
    for beginning, (kind, remedy) in _PACKED.items():
        if head.startswith(beginning):
            raise UserError(f"{file}: {kind}, though its name doesn't say so; {remedy}")


def _refuse_wide_characters(head: bytes, file: str | Path) -> None:
    found = None
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        found = "utf-32"
    elif head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        found = "utf-16"
    elif len(head) >= 64:
        zeros = [head[first::2].count(0) / (len(head) // 2) for first in (0, 1)]
        if min(zeros) < 0.1 and max(zeros) > 0.6:  # text in Latin letters, without the mark
            found = "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"
    if found:
        raise UserError(f"{file}: the file is in {found.upper()}; set encoding: {found}")


def read_lines(handle: IO[str]) -> Iterator[str]:
    """The lines with their ends, each one string; in place of a line longer than `LONGEST` a mark."""
    read = handle.readline
    limit = LONGEST
    while line := read(limit):
        if len(line) == limit and line[-1] not in "\r\n":
            while (rest := read(_LOOKED_AT)) and rest[-1] not in "\r\n":
                pass
            line = f"{_LONG_LINE}\n"
        yield line


def without_mark(line: str) -> str:
    """A line without byte-order marks in front."""
    return line.lstrip(BYTE_ORDER_MARK) if line.startswith(BYTE_ORDER_MARK) else line


def dropped_for(text: str) -> str | None:
    """The reason to drop what contains a mark, or None."""
    if _BAD_BYTES in text:
        return UNDECODABLE
    return TOO_LONG if _LONG_LINE in text else None


def problem_of(text: str, place: str, encoding: str) -> tuple[str, str] | None:
    """The reason to drop what contains a mark, and that in a line for people; or None."""
    reason = dropped_for(text)
    if reason == UNDECODABLE:
        others = "latin-1 or cp1252" if codecs.lookup(encoding).name.startswith("utf-8") else "utf-8"
        return reason, f"{place}: not valid {encoding} text; set encoding, {others} perhaps"
    if reason == TOO_LONG:
        return reason, f"{place}: a line of more than {LONGEST:,} characters"
    return None


def as_written(text: str) -> str:
    """Text with marks, for people: bytes that can't be decoded are �, the end of the line is gone."""
    return text.replace(_BAD_BYTES, "\ufffd").rstrip("\r\n")
