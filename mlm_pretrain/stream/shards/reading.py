"""Packed rows written ahead of training: Parquet shards and a manifest. Reading them; `prepare.py` writes them.

    prepared/
        mlm_pretrain.json                   what the rows depend on, by dotted key; written first
        source-00/lane-003-00012.parquet    rows of one lane of one source, in its order
        manifest.json                       files with their sizes and digests, counts by source; written last

The shards hold one epoch of each source. Training on them goes through the same lanes as training on text: the row
groups are the pieces that are dealt to the lanes, every epoch anew, and the rows are shuffled in windows.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mlm_pretrain.config import Config, fingerprint
from mlm_pretrain.errors import UserError
from mlm_pretrain.io.digests import MANIFEST
from mlm_pretrain.io.paths import inside
from mlm_pretrain.io.whole import read_json
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.stream.dealing import Origin, State, deal
from mlm_pretrain.stream.lanes import RowSource
from mlm_pretrain.stream.pack import TEXT_BYTES_PER_TOKEN, Block

SETTINGS = "mlm_pretrain.json"
NOTES = "mlm_pretrain"
REMEDY = "`mlm-pretrain prepare` writes it again"


def prepared_folder(config: Config) -> Path:
    """Where the shards of a run are: its own folder, or the one that `stream.prepared` names."""
    given = config.stream.prepared
    return Path(given) if isinstance(given, str) else RunDirectory.of(config).prepared


def shards_fingerprint(folder: Path) -> str:
    """What the shards hold, however their files came to be written.

    Raises:
        UserError: see `read_manifest`.
    """
    manifest = read_manifest(folder)
    counts = ("name", "groups", "rows", "tokens")
    files = [[entry[key] for key in counts] for source in manifest["sources"] for entry in source["files"]]
    return fingerprint(manifest["settings"], files)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of finished shards.

    Raises:
        UserError: the shards aren't finished, or a file is missing, of another size, or outside of the folder.
    """
    manifest = read_json(folder / MANIFEST)
    if not manifest:
        raise UserError(f"{folder}: no prepared shards (or unfinished ones); `mlm-pretrain prepare` writes them")
    for file, entry in listed_files(folder, manifest):
        if not file.is_file() or file.stat().st_size != entry["size"]:
            what = "has another size than was written" if file.is_file() else "is missing"
            raise UserError(f"{file}: {what}; {REMEDY}")
        if entry.get("footer") not in (None, footer_digest(file)):
            raise UserError(f"{file}: damaged (its footer is not the one that was written); delete it, and {REMEDY}")
    return manifest


def footer_digest(file: Path) -> str:
    """The SHA-256 of a Parquet file's footer, which says where everything is; the pages have checksums of their own."""
    with file.open("rb") as handle:
        size = handle.seek(0, os.SEEK_END)
        handle.seek(max(size - 8, 0))
        length = int.from_bytes(handle.read(4), "little") + 8
        handle.seek(max(size - length, 0))
        return hashlib.sha256(handle.read()).hexdigest()


def listed_files(folder: Path, manifest: dict[str, Any]) -> list[tuple[Path, dict[str, Any]]]:
    """The files of a manifest, each with what it says of it.

    Raises:
        UserError: one is outside of the folder, or the manifest is none.
    """
    place = folder / MANIFEST
    try:
        entries = [entry for source in manifest["sources"] for entry in source["files"]]
        return [(inside(folder, entry["name"], named_in=place), entry) for entry in entries]
    except (KeyError, TypeError):
        raise UserError(f"{place}: no manifest of prepared shards; delete it, and {REMEDY}") from None


def refuse_stale(folder: Path, settings: dict[str, Any]) -> None:
    """
    Raises:
        UserError: the shards were made from something else than `settings`; names the first key that differs.
    """
    differing = stale_keys(folder, settings) if (folder / SETTINGS).exists() else []
    if differing:
        key = differing[0]
        old = read_json(folder / SETTINGS).get(key)
        raise UserError(
            f"{folder}: these prepared shards are stale: {key} was {old!r} and is {settings.get(key)!r} now; "
            "`mlm-pretrain prepare --force` makes them anew, another stream.prepared keeps them"
        )


def stale_keys(folder: Path, settings: dict[str, Any]) -> list[str]:
    """The keys in which shards that stand in a folder differ from `settings`, sorted."""
    standing = read_json(folder / SETTINGS)
    return sorted(key for key in standing.keys() | settings if standing.get(key) != settings.get(key))


def is_whole(folder: Path, settings: dict[str, Any]) -> bool:
    """Whether finished shards for these settings stand in a folder."""
    try:
        return bool(read_manifest(folder)) and not stale_keys(folder, settings)
    except UserError:
        return False


class PreparedRows(RowSource):
    """The rows of one prepared source in one lane, epoch after epoch.

    Args:
        folder: of the shards.
        entry: the source's entry of the manifest.
        window_bytes: of text, about; the rows that are shuffled together.
        max_epochs: end after so many; None goes on for ever.
    """

    def __init__(
        self, origin: Origin, folder: Path, entry: dict[str, Any], window_bytes: int, max_epochs: int | None
    ) -> None:
        super().__init__(origin)
        assert entry["rows"], "a source without rows is refused when it is prepared"
        self._groups = [(folder / file["name"], group) for file in entry["files"] for group in range(file["groups"])]
        self._window_tokens = window_bytes // TEXT_BYTES_PER_TOKEN
        self._max_epochs = max_epochs
        self._drops = dict(entry["dropped"]) if origin.lane.number == 0 else {}
        self.go({"epoch": 0, "part": 0})

    def read(self) -> Block | None:
        blocks: list[Block] = []
        tokens, epoch = 0, self._epoch
        # A window ends with its epoch. A small source may have nothing for this lane in some of them.
        while not blocks or (tokens < self._window_tokens and self._epoch == epoch):
            epoch = self._epoch
            if self._max_epochs is not None and epoch >= self._max_epochs:
                break
            part = self._parts[self._part]
            group = read_group(*self._groups[part.piece])
            block = group if part.of == 1 else group.rows(range(part.first, len(group), part.of))
            if len(block):
                blocks.append(block)
                tokens += len(block.ids)
            if self._part + 1 < len(self._parts):
                self._part += 1
            else:
                self.go({"epoch": epoch + 1, "part": 0})
        return Block.of(blocks) if blocks else None

    def place(self) -> State:
        return {"epoch": self._epoch, "part": self._part}

    def go(self, place: State) -> None:
        self._epoch, self._part = place["epoch"], place["part"]
        self._parts = deal(len(self._groups), self.origin, self._epoch)

    def drops(self) -> dict[str, int]:
        return self._drops


def read_group(file: Path, group: int) -> Block:
    """A row group as a block.

    Raises:
        UserError: the file is gone or damaged (every page has a checksum).
    """
    with _errors_of(file), pq.ParquetFile(file, page_checksum_verification=True) as parquet:
        table = parquet.read_row_group(group)
    ids, row_starts = _lists(table.column("input_ids"))
    lengths, segment_starts = _lists(table.column("lengths"))
    documents, size = (table.column(name).to_numpy() for name in ("documents", "bytes"))
    return Block(ids, row_starts, lengths, segment_starts, documents, size)


def shard_writer(file: Path, kind: np.dtype[Any]) -> pq.ParquetWriter:
    """A writer for `write_group`; `kind` is the integer type of the tokens."""
    schema = pa.schema(
        {
            "input_ids": pa.list_(pa.from_numpy_dtype(kind)),
            "lengths": pa.list_(pa.int32()),
            "documents": pa.int32(),
            "bytes": pa.int64(),
        }
    )
    # Token ids have little to gain from a dictionary, and reading is what has to be fast.
    options = {"compression": "zstd", "use_dictionary": False, "write_page_checksum": True, "write_statistics": False}
    return pq.ParquetWriter(file, schema, **options)


def write_group(writer: pq.ParquetWriter, block: Block) -> None:
    """Write a block as a row group."""
    columns = [
        pa.ListArray.from_arrays(block.row_starts.astype(np.int32), block.ids.astype(_kind(writer))),
        pa.ListArray.from_arrays(block.segment_starts.astype(np.int32), block.lengths),
        block.documents,
        block.bytes,
    ]
    writer.write_table(pa.table(columns, schema=writer.schema), row_group_size=len(block))


def _kind(writer: pq.ParquetWriter) -> Any:
    return writer.schema.field("input_ids").type.value_type.to_pandas_dtype()


def add_notes(writer: pq.ParquetWriter, notes: dict[str, Any]) -> None:
    """Let a shard carry plain data about itself."""
    writer.add_key_value_metadata({NOTES: json.dumps(notes)})


def read_notes(file: Path) -> dict[str, Any] | None:
    """What a shard carries; None if it isn't there whole."""
    try:
        metadata = pq.read_metadata(file).metadata
        return json.loads(metadata[NOTES.encode()])
    except (OSError, pa.ArrowInvalid, KeyError, TypeError, ValueError):
        return None


def _lists(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Values and offsets of a column of lists, without copying."""
    array = column.combine_chunks()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    offsets = array.offsets.to_numpy().astype(np.int64)
    return array.values.to_numpy()[offsets[0] : offsets[-1]], offsets - offsets[0]


@contextlib.contextmanager
def _errors_of(file: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException, KeyError) as error:
        what = str(error).splitlines()[0]
        raise UserError(f"{file}: damaged, or not a prepared shard ({what}); delete it, and {REMEDY}") from None
