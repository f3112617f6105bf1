"""The bytes of a file, whatever it is compressed by, and what can be wrong with them."""

from __future__ import annotations

import bz2
import contextlib
import csv
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import zstandard

from mlm_pretrain.errors import UserError
from mlm_pretrain.io.files.formats import compression_of

Bytes = io.BufferedReader | gzip.GzipFile | lzma.LZMAFile | bz2.BZ2File

_BUFFER = 2**17


def open_bytes(file: str | Path) -> Bytes:
    """A file for reading, decompressed as its name says (.gz, .zst, .xz, .bz2)."""
    match compression_of(file):
        case "gzip":
            return gzip.open(file, "rb")
        case "xz":
            return lzma.open(file, "rb")
        case "bzip2":
            return bz2.open(file, "rb")
        case "zstd":
            return io.BufferedReader(_Zstd(file), _BUFFER)
        case _:
            return Path(file).open("rb")


class _Zstd(io.RawIOBase):
    """The content of all frames of a Zstandard file.

    Windows may be as long as the format allows (`zstd --long=31`), which Arrow refuses; and a file that was cut is an
    error, which `zstandard`'s own readers don't notice.
    """

    _CHUNK = 2**12
    """Bytes that are decompressed at once: the most that can come of them is 128 MB."""
    _LONGEST_WINDOW = 2**31

    def __init__(self, file: str | Path) -> None:
        self._file = Path(file).open("rb")  # noqa: SIM115
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=self._LONGEST_WINDOW)
        self._frame: Any = None
        self._compressed = b""
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            self._compressed = self._compressed or self._file.read(self._CHUNK)
            if not self._compressed:
                if self._frame is not None:
                    raise EOFError("the file ends within a frame")
                return 0
            self._frame = self._frame or self._decompressor.decompressobj()
            self._ready = memoryview(self._frame.decompress(self._compressed))
            self._compressed = b""
            if self._frame.eof:
                self._compressed, self._frame = self._frame.unused_data, None
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size

    def close(self) -> None:
        self._file.close()
        super().close()


@contextlib.contextmanager
def errors_of(file: str | Path) -> Iterator[None]:
    """Everything that can be wrong with a file as a whole, as one line.

    Raises:
        UserError: what the block raised, if it is the file's.
    """
    try:
        yield
    except GeneratorExit:
        raise  # a stream left open when Python exits: the names below are gone by then
    except FileNotFoundError:
        raise UserError(f"{file}: no such file") from None
    except (OSError, EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError, pa.ArrowException, csv.Error) as error:
        if isinstance(error, OSError) and error.strerror:
            raise UserError(f"{file}: {error.strerror}") from None
        raise UserError(
            f"{file}: the file is damaged or cut off, or not of the kind that its name says: {error}"
        ) from None
    except UnicodeError as error:
        raise UserError(f"{file}: not in the encoding that `encoding` names: {error}") from None
