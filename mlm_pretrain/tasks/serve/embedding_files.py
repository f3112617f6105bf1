"""The files of `embed`: texts of many formats in, vectors as `.npy` or Parquet out."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow
import pyarrow.parquet

from mlm_pretrain.errors import UserError
from mlm_pretrain.io.files.reading import Reading
from mlm_pretrain.io.files.records import Records


class Text(NamedTuple):
    """A text, and the `id` of its row."""

    text: str
    id: Any = None


Write = Callable[[Sequence[Text], np.ndarray], None]
"""Takes texts and their vectors, float32 [texts, hidden]."""


class Texts:
    """The texts of a file, and a count of its bad lines."""

    def __init__(self, path: Path, text_column: str, reading: Reading | None = None) -> None:
        self.path = path
        self.text_column = text_column
        self.read = self.bad = 0
        self.first_problem: str | None = None
        # A blank line of a text file is a text too, so that vectors and lines have the same numbers.
        self._records = Records(path, reading, text_column=text_column, keep_blank=True)
        self.tally = self._records.tally

    def __iter__(self) -> Iterator[Text]:
        for record in self._records:
            text = record.row.get(self.text_column)
            if record.dropped:
                if record.problem:
                    self._refuse(record.problem)
            elif not isinstance(text, str):
                columns = ", ".join(record.row)
                self._refuse(f"{record.place}: no text in '{self.text_column}'; the columns are {columns}")
            elif any("\ud800" <= character <= "\udfff" for character in text):
                self._refuse(f"{record.place}: half a character (a lone surrogate) in '{self.text_column}'")
            else:
                self.read += 1
                yield Text(text, record.row.get("id"))

    def _refuse(self, problem: str) -> None:
        self.bad += 1
        self.first_problem = self.first_problem or problem


@contextlib.contextmanager
def open_output(output: Path, size: int) -> Iterator[Write]:
    """A file for vectors of a size, by its ending one of `ENDINGS`; it appears under its name when all is written.

    Raises:
        UserError: it can't be written.
    """
    beside = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as handle, ENDINGS[output.suffix](handle, size) as write:
            yield write
        beside.replace(output)
    except OSError as error:
        raise UserError(f"{output}: can't write: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


@contextlib.contextmanager
def _npy(handle: IO[bytes], size: int) -> Iterator[Write]:
    count = 0

    def header() -> int:
        # NumPy pads it, so that a larger count has room.
        shape = {"descr": "<f4", "fortran_order": False, "shape": (count, size)}
        np.lib.format.write_array_header_1_0(handle, shape)
        return handle.tell()

    def write(texts: Sequence[Text], vectors: np.ndarray) -> None:
        nonlocal count
        count += len(vectors)
        handle.write(np.ascontiguousarray(vectors, dtype="<f4").tobytes())

    start = header()
    yield write
    handle.seek(0)
    assert header() == start, "the header has outgrown its room"


@contextlib.contextmanager
def _parquet(handle: IO[bytes], size: int) -> Iterator[Write]:
    writer: Any = None

    def write(texts: Sequence[Text], vectors: np.ndarray) -> None:
        nonlocal writer
        flat = pyarrow.array(vectors.reshape(-1), pyarrow.float32())
        columns = {
            "text": pyarrow.array([each.text for each in texts], pyarrow.string()),
            "embedding": pyarrow.FixedSizeListArray.from_arrays(flat, size),
        }
        ids = [each.id for each in texts]
        try:
            if writer is None and any(value is not None for value in ids):
                columns["id"] = pyarrow.array(ids)
            elif writer is not None and "id" in writer.schema.names:
                columns["id"] = pyarrow.array(ids, writer.schema.field("id").type)
        except pyarrow.ArrowException as error:
            raise UserError(f"id: the values are of several kinds, which a column can't hold ({error})") from None
        table = pyarrow.table(columns)
        writer = writer or pyarrow.parquet.ParquetWriter(handle, table.schema)
        writer.write_table(table)

    try:
        yield write
    finally:
        if writer is not None:
            writer.close()


ENDINGS: dict[str, Callable[[IO[bytes], int], contextlib.AbstractContextManager[Write]]] = {
    ".npy": _npy,
    ".parquet": _parquet,
}
