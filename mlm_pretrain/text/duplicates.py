"""Exact copies of documents in a corpus of any size: their hashes are sorted on disk.

Work goes by part, a shard of a source; parts are numbered in a fixed order, and any process may hash any part.
`write_hashes` leaves one file a part: 128 bits of BLAKE2b and the number of each text (here its row), grouped into 256
buckets by the hash's first byte. Copies of a text lie in the same bucket of their parts, so `find_duplicates` takes the
buckets one after another. The first text of its kind stays (lowest part, then lowest row); the row numbers of all
others are written down for each part.

Texts are compared as they are, byte by byte of their UTF-8, with no normalisation. That two different texts share a
hash is left out of account (one chance in 10²⁰ among a billion texts).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from mlm_pretrain.errors import UserError

BUCKETS = 256
RECORD = np.dtype([("high", "<u8"), ("low", "<u8"), ("row", "<u8")])
CHUNK = 1 << 20
"""Records that are held in memory at a time."""

_HEADER = (BUCKETS + 1) * 8  # where each bucket begins, in records, and where the last one ends; uint64


def write_hashes(texts: Iterable[tuple[int, str]], part: int, folder: Path) -> int:
    """Hash the texts of one part into its file, which is there whole or not at all.

    Memory: 110 MB at most, whatever the number of texts. Disk: 24 bytes a text, twice that while it runs.

    Args:
        texts: row numbers within the part, ascending, and the texts.
        part: the part's number.
        folder: where the files of all parts lie; it belongs to one corpus.

    Returns:
        The number of texts.

    Raises:
        UserError: the disk is full, or the folder can't be written.
    """
    target = _hashes(folder, part)
    # Names without the process: what a killed one left is written over.
    beside = target.with_name(f".{target.name}.tmp")
    spilled = target.with_name(f".{target.name}.spilled")
    bounds: list[np.ndarray] = []  # of the buckets within each spilled chunk
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        spilled.write_bytes(b"")
    try:
        for records in _record_chunks(texts):
            bucket = (records["high"] >> 56).astype(np.uint8)
            bounds.append(np.concatenate([[0], np.cumsum(np.bincount(bucket, minlength=BUCKETS))]))
            with _writing(folder), spilled.open("ab") as handle:
                # Stable, so that rows stay in order within a bucket.
                records[np.argsort(bucket, kind="stable")].tofile(handle)
        with _writing(folder):
            _group(spilled, bounds, beside)
            beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)
        spilled.unlink(missing_ok=True)
    return int(sum(bound[-1] for bound in bounds))


def has_hashes(folder: Path, part: int) -> bool:
    """Whether `write_hashes` has finished with this part."""
    return _hashes(folder, part).exists()


def find_duplicates(folder: Path, parts: Sequence[int]) -> dict[int, int]:
    """Find the copies among all parts, and write the row numbers to drop of each; see `duplicates_of`.

    Memory: 16 bytes for each distinct text of a bucket (a 256th of all), three times while it is sorted, and 170 MB
    for what is read at a time: about 370 MB for a billion texts. Texts with millions of copies take no more. To find
    the rows of a part in order, 8 bytes for each copy in it.

    Args:
        folder: as given to `write_hashes`.
        parts: the numbers of all parts, ascending.

    Returns:
        The number of rows to drop by part.

    Raises:
        UserError: a part has no hashes, or its file is damaged; the disk is full.
    """
    assert list(parts) == sorted(set(parts)), "the first copy is told by the order of the parts"
    bounds = {part: _read_bounds(folder, part) for part in parts}
    with _writing(folder):
        for part in parts:
            _duplicates(folder, part).unlink(missing_ok=True)
            _found(folder, part).write_bytes(b"")
        for bucket in range(BUCKETS):
            for part, rows in _copies_in_bucket(folder, bounds, bucket):
                with _found(folder, part).open("ab") as handle:
                    rows.tofile(handle)
        return {part: _finish(folder, part) for part in parts}


def duplicates_of(folder: Path, part: int) -> np.ndarray:
    """The row numbers of a part that hold copies of earlier texts: uint64 [copies], ascending.

    Raises:
        UserError: `find_duplicates` has not been through.
    """
    file = _duplicates(folder, part)
    try:
        return np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{file}: no list of duplicates ({_reason(error)}); find them again") from None


# -- hashing a part ----------------------------------------------------------------------------------------------


def _record_chunks(texts: Iterable[tuple[int, str]]) -> Iterator[np.ndarray]:
    digests, rows = bytearray(), array("Q")
    last = -1
    for row, text in texts:
        assert row > last, "rows come in ascending order"
        last = row
        digests += hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        rows.append(row)
        if len(rows) == CHUNK:
            yield _records(digests, rows)
            digests, rows = bytearray(), array("Q")
    if rows:
        yield _records(digests, rows)


def _records(digests: bytearray, rows: array[int]) -> np.ndarray:
    numbers = np.frombuffer(digests, dtype=">u8").reshape(-1, 2)
    records = np.empty(len(rows), RECORD)
    records["high"], records["low"], records["row"] = numbers[:, 0], numbers[:, 1], rows
    return records


def _group(spilled: Path, bounds: Sequence[np.ndarray], target: Path) -> None:
    """Join the buckets of the spilled chunks: a header with the buckets' bounds, then the records, bucket by bucket."""
    sizes = sum((np.diff(bound) for bound in bounds), np.zeros(BUCKETS, dtype=np.int64))
    starts = np.cumsum([0, *(bound[-1] for bound in bounds)])
    with spilled.open("rb") as source, target.open("wb") as handle:
        np.concatenate([[0], np.cumsum(sizes)]).astype("<u8").tofile(handle)
        for bucket in range(BUCKETS):
            for start, bound in zip(starts[:-1], bounds, strict=True):
                source.seek(int(start + bound[bucket]) * RECORD.itemsize)
                handle.write(source.read(int(bound[bucket + 1] - bound[bucket]) * RECORD.itemsize))
        handle.flush()
        os.fsync(handle.fileno())


# -- finding copies ----------------------------------------------------------------------------------------------


def _read_bounds(folder: Path, part: int) -> np.ndarray:
    """Where the buckets of a part's file begin and end, in records: [257]."""
    file = _hashes(folder, part)
    try:
        bounds = np.fromfile(file, dtype="<u8", count=BUCKETS + 1).astype(np.int64)
        size = file.stat().st_size
    except OSError as error:
        raise UserError(f"{file}: no hashes of part {part} ({_reason(error)}); hash the part again") from None
    if len(bounds) != BUCKETS + 1 or (np.diff(bounds) < 0).any() or size != _HEADER + bounds[-1] * RECORD.itemsize:
        raise UserError(f"{file}: damaged (cut short?); delete it and hash part {part} again")
    return bounds


def _copies_in_bucket(folder: Path, bounds: dict[int, np.ndarray], bucket: int) -> Iterator[tuple[int, np.ndarray]]:
    """The rows to drop because of this bucket, as pairs of part and row numbers."""
    seen = np.empty((2, 0), dtype=np.uint64)
    for parts, records in _batches(folder, bounds, bucket):
        # What was seen before goes first, then all in order of part and row: a stable sort keeps the first in front.
        high = np.concatenate([seen[0], records["high"]])
        low = np.concatenate([seen[1], records["low"]])
        order = np.lexsort((low, high))
        high, low = high[order], low[order]
        is_copy = np.zeros(len(order), dtype=bool)
        is_copy[1:] = (high[1:] == high[:-1]) & (low[1:] == low[:-1])
        copies = np.sort(order[is_copy] - seen.shape[1])
        seen = np.stack([high[~is_copy], low[~is_copy]])
        owners = parts[copies]
        for part in np.unique(owners):
            yield int(part), records["row"][copies[owners == part]]


def _batches(folder: Path, bounds: dict[int, np.ndarray], bucket: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The records of a bucket in order of part and row, at most `CHUNK` at a time, with the part of each."""
    records: list[np.ndarray] = []
    owners: list[np.ndarray] = []
    room = CHUNK
    for part, bound in bounds.items():
        start, end = int(bound[bucket]), int(bound[bucket + 1])
        while start < end:
            count = min(end - start, room)
            offset = _HEADER + start * RECORD.itemsize
            records.append(np.fromfile(_hashes(folder, part), RECORD, count=count, offset=offset))
            owners.append(np.full(count, part))
            start, room = start + count, room - count
            if not room:
                yield np.concatenate(owners), np.concatenate(records)
                records, owners, room = [], [], CHUNK
    if records:
        yield np.concatenate(owners), np.concatenate(records)


def _finish(folder: Path, part: int) -> int:
    """Sort the rows that were found for a part into its file."""
    found, target = _found(folder, part), _duplicates(folder, part)
    rows = np.fromfile(found, dtype="<u8")
    rows.sort()
    beside = target.with_name(f".{target.name}.tmp")
    with beside.open("wb") as handle:
        np.save(handle, rows, allow_pickle=False)
        handle.flush()
        os.fsync(handle.fileno())
    beside.replace(target)
    found.unlink()
    return len(rows)


# -- files -------------------------------------------------------------------------------------------------------


def _hashes(folder: Path, part: int) -> Path:
    return folder / f"part-{part:06d}.hashes"


def _found(folder: Path, part: int) -> Path:
    return folder / f".part-{part:06d}.found"


def _duplicates(folder: Path, part: int) -> Path:
    return folder / f"part-{part:06d}.duplicates.npy"


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{folder}: cannot write the hashes of the documents ({_reason(error)}); they take 24 bytes a document, "
            "twice that for a while: make room, or choose another folder"
        ) from None


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
