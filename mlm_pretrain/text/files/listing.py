"""Which local files a source stands for, whether they can be read, how they are cut, and what identifies them."""

from __future__ import annotations

import glob
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from mlm_pretrain.errors import UserError
from mlm_pretrain.io.files import formats
from mlm_pretrain.io.files.compression import errors_of
from mlm_pretrain.io.files.lines import open_text, read_lines
from mlm_pretrain.io.files.parquet import open_parquet
from mlm_pretrain.io.files.reading import Reading
from mlm_pretrain.io.files.tables import Table
from mlm_pretrain.text.files import pieces, readers
from mlm_pretrain.text.files.digests import digests
from mlm_pretrain.text.files.pieces import Piece

_TEXT = (
    *(pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
    *(pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view),
)
"""Bytes too: older writers leave text without saying that it is text."""


def find_files(path: str | Sequence[str] | None) -> list[str]:
    """The files that a file, a directory (searched whole), a glob pattern or a list of them stand for.

    Returns:
        Paths, each once; sorted within what one pattern or directory stands for. Of a directory only files with a
        known suffix, and none that are hidden.

    Raises:
        UserError: nothing is there.
    """
    if not path:
        raise UserError("text.sources.path: source 'files' needs a path: a file, a directory or a glob pattern")
    found: dict[str, None] = {}
    for pattern in [path] if isinstance(path, str) else path:
        found |= dict.fromkeys(_find(str(Path(pattern).expanduser())))
    return list(found)


def _find(pattern: str) -> list[str]:
    if Path(pattern).is_file():
        return [pattern]
    if not Path(pattern).is_dir():
        matches = sorted(match for match in glob.glob(pattern, recursive=True) if Path(match).is_file())  # noqa: PTH207
        if not matches:
            what = "no file matches this pattern" if glob.has_magic(pattern) else "no such file or directory"
            raise UserError(f"{pattern}: {what} (text.sources.path)")
        return matches
    inside = []
    for folder, folders, names in os.walk(pattern):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside += [str(Path(folder, name)) for name in names if not name.startswith(".")]
    known = sorted(file for file in inside if formats.suffix_of(file) in formats.FORMATS)
    if not known:
        what = f"none of the {len(inside)} files in it is" if inside else "the directory is empty; expected"
        raise UserError(
            f"{pattern}: {what} {', '.join(formats.FORMATS)} (or these with {', '.join(formats.COMPRESSIONS)})"
        )
    return known


def check_files(files: Iterable[str], text_column: str, reading: Reading) -> None:
    """Look into files before a run depends on them.

    Raises:
        UserError: a file can't be read or lacks the text column, or all are empty.
    """
    filled = False
    names = list(files)
    for file in names:
        form = formats.format_of(file)
        # Plain text has no columns: one file with something in it is enough.
        if form != "text" or not filled:
            with errors_of(file):
                filled |= _check(file, form, text_column, reading)
    if not filled:
        raise UserError(f"{names[0]}{' and all other files' if len(names) > 1 else ''}: there is no text in it")


def _check(file: str, form: str, text_column: str, reading: Reading) -> bool:
    """Whether there is any row in the file."""
    if form == "parquet":
        parquet = open_parquet(file)
        readers.check_column(file, text_column, parquet.schema_arrow.names)
        # By its number: a table may have two columns of one name.
        kind = parquet.schema_arrow.field(parquet.schema_arrow.names.index(text_column)).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not any(is_text(kind) for is_text in _TEXT):
            raise UserError(f"{file}: column '{text_column}' holds {kind}, not text (text.sources.text_column)")
        return bool(parquet.metadata.num_rows)
    is_table = form in formats.TABLES
    with open_text(file, reading.encoding, keep_ends=is_table) as handle:
        if is_table:
            table = Table(file, read_lines(handle), form, reading)
            if table.header:
                readers.check_column(file, text_column, table.header)
            return next(iter(table), None) is not None
        lines = (line for line in read_lines(handle) if line.strip())
        if form == "text":
            return next(lines, None) is not None
        return _check_json(file, text_column, lines)


def _check_json(file: str, text_column: str, lines: Iterator[str]) -> bool:
    empty = True
    for line, _ in zip(lines, range(100), strict=False):
        empty = False
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            if line.strip() in "[{":
                raise UserError(f"{file}: not JSON lines; write one object per line") from None
            continue
        if isinstance(row, list):
            raise UserError(f"{file}: a JSON array, not JSON lines; write one object per line")
        if isinstance(row, dict):
            readers.check_column(file, text_column, row)
            break
    return not empty


def cut_files(files: Sequence[str], text_column: str, document: str | None, encoding: str) -> list[tuple[Piece, ...]]:
    """The shards of a corpus: parts of large files, single files, and neighbouring small ones together.

    Uncompressed text and JSON lines are cut by bytes, Parquet by rows. Compressed files, CSV and TSV (where
    line ends may be quoted), documents that are files, and encodings without plain line ends stay whole. How many
    pieces there are depends on the files alone.

    Raises:
        UserError: a file is gone or damaged.
    """
    sizes = []
    for file in files:
        with errors_of(file):
            sizes.append(Path(file).stat().st_size)
    wanted = pieces.piece_size(sum(sizes))
    cut = (
        (piece, size if piece.end is None else wanted)
        for file, size in zip(files, sizes, strict=True)
        for piece in _cut(file, size, wanted, text_column, document, encoding)
    )
    # A shard has a cost of its own: a hundred thousand small files are not as many shards.
    return pieces.merge_small(cut, min(sum(sizes) // pieces.PIECES, pieces.LARGEST))


def _cut(file: str, size: int, wanted: int, text_column: str, document: str | None, encoding: str) -> list[Piece]:
    form = formats.format_of(file)
    if size < 2 * wanted or Path(file).suffix.lower() in formats.COMPRESSIONS:
        return [Piece(file)]
    if form == "parquet":
        with errors_of(file):
            metadata = open_parquet(file).metadata
        column = next(i for i in range(metadata.num_columns) if metadata.schema.column(i).path == text_column)
        groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
        sizes = [(group.num_rows, group.column(column).total_uncompressed_size) for group in groups]
        return pieces.by_rows(file, sizes, wanted)
    whole = form in formats.TABLES or (form == "text" and document == "file")
    if whole or not pieces.can_be_cut(encoding):
        return [Piece(file)]
    return pieces.by_bytes(file, size, wanted)


def documents_of(files: Iterable[str], document: str | None, encoding: str) -> dict[str, int]:
    """What a document is in the files of plain text among these: how many have lines, paragraphs, or are one each.

    Raises:
        UserError: a file is gone or damaged.
    """
    texts = (file for file in files if formats.format_of(file) == "text")
    return dict(sorted(Counter(readers.document_of(file, document, encoding) for file in texts).items()))


def fingerprint_files(files: Sequence[str]) -> list[dict[str, Any]]:
    """Name (relative to the folder that all have in common), size in bytes and SHA-256 of each file."""
    common = os.path.commonpath([Path(file).absolute().parent for file in files])
    return [
        {
            "name": Path(file).absolute().relative_to(common).as_posix(),
            "size": Path(file).stat().st_size,
            "sha256": digest,
        }
        for file, digest in zip(files, digests(files), strict=True)
    ]
