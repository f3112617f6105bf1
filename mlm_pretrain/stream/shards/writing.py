"""What the processes of `prepare.py` do: hash documents, and write the shards of lanes.

Each source is cut into lanes of its own, whose number depends on the corpus alone; a process writes a lane's shards
one after another. A shard carries the place where the next one begins, so that a lane which was interrupted resumes
after its last whole shard.
"""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from mlm_pretrain.config import Config
from mlm_pretrain.io.digests import file_digest
from mlm_pretrain.io.paths import inside
from mlm_pretrain.io.whole import fsync
from mlm_pretrain.models.ids import vocabulary_size
from mlm_pretrain.stream.dealing import PIECES_PER_LANE, ROWS, Lane, Origin, document_number, order_of
from mlm_pretrain.stream.jobs import Meter
from mlm_pretrain.stream.lanes import TextRows
from mlm_pretrain.stream.pack import Block, Segmenter, least_chunk_bytes
from mlm_pretrain.stream.shards.reading import add_notes, footer_digest, read_notes, shard_writer, write_group
from mlm_pretrain.stream.shuffle import DocumentReader
from mlm_pretrain.text import duplicates
from mlm_pretrain.text.mixture import documents, is_held_out, open_source

MOST_LANES = 64
WINDOW_BYTES = 16_000_000
"""Text that is shuffled before it is packed, in each process."""
CHUNK_BYTES = 4_000_000
SHARD_TOKENS = 16_000_000
GROUP_TOKENS = 1 << 18
HASHES = ".hashes"


@dataclass
class Work:
    """What the processes share; forked with it, so nothing of it is sent."""

    config: Config
    tokenizer: PreTrainedTokenizerBase
    packing: bool
    folder: Path
    settings: str

    def __post_init__(self) -> None:
        self.hashes = self.folder / HASHES
        self.datasets = [open_source(source) for source in self.config.text.sources]
        self.pieces = [dataset.num_shards for dataset in self.datasets]
        self.meter = Meter()

    def lanes(self, source: int) -> int:
        """Lanes of a source: no more than deal its pieces out whole."""
        return max(1, min(MOST_LANES, self.pieces[source] // PIECES_PER_LANE))

    def parts(self) -> list[int]:
        """The numbers of all pieces of all sources."""
        return list(range(sum(self.pieces)))

    # -- in the processes --------------------------------------------------------------------------------------

    def hash_part(self, part: int) -> None:
        source = next(number for number in range(len(self.pieces)) if part < sum(self.pieces[: number + 1]))
        settings = self.config.text.sources[source]
        piece = self.datasets[source].shard(num_shards=self.pieces[source], index=part - sum(self.pieces[:source]))

        def texts() -> Iterator[tuple[int, str]]:
            for number, row in enumerate(piece):
                for part, (text, _) in enumerate(documents(row, settings, Counter())):
                    if not is_held_out(text, self.config.text.validation_fraction):
                        self.meter.add(len(text.encode()))
                        yield document_number(number, part), text

        duplicates.write_hashes(texts(), part, self.hashes)

    def write_lane(self, lane: tuple[int, int]) -> list[dict[str, Any]]:
        """Write the shards of a lane that aren't there; what each holds."""
        source, number = lane
        folder = inside(self.folder, f"source-{source:02d}")
        folder.mkdir(exist_ok=True)
        rows = self._open_rows(Origin(0, source, Lane(number, self.lanes(source))))
        written: list[dict[str, Any]] = []
        while not written or written[-1]["next"] is not None:
            file = folder / f"lane-{number:03d}-{len(written):05d}.parquet"
            notes = read_notes(file)
            if notes is None or notes["settings"] != self.settings:
                if written:
                    rows.go(written[-1]["next"])
                notes = self._write_shard(rows, file)
            name = file.relative_to(self.folder).as_posix()
            written.append({**notes, "name": name, **file_digest(file), "footer": footer_digest(file)})
        return written

    def _open_rows(self, origin: Origin) -> TextRows:
        length = self.config.stream.sequence_length
        documents = DocumentReader(
            self.datasets[origin.source],
            self.config.text.sources[origin.source],
            origin,
            WINDOW_BYTES,
            self.config.text.validation_fraction,
            max_epochs=1,
            copies=self._copies_in(origin.source) if self.config.prepare.deduplicate else None,
        )
        chunk = max(CHUNK_BYTES, least_chunk_bytes(length))
        return TextRows(origin, documents, Segmenter(self.tokenizer, length), chunk, length, self.packing)

    def _copies_in(self, source: int) -> Callable[[int], _Sorted]:
        before = sum(self.pieces[:source])
        return functools.lru_cache(maxsize=1)(
            lambda piece: _Sorted(duplicates.duplicates_of(self.hashes, before + piece))
        )

    def _write_shard(self, rows: TextRows, file: Path) -> dict[str, Any]:
        """Write blocks until the shard is full or the lane at its end; what it holds and where the next one begins."""
        totals = Counter({"groups": 0, "rows": 0, "tokens": 0, "documents": 0, "bytes": 0})
        # A process whose parent was killed may still be at work on this shard for a moment: a name of our own.
        beside = file.with_name(f".{file.name}.{os.getpid()}.tmp")
        kind = np.uint16 if vocabulary_size(self.tokenizer) <= 1 << 16 else np.int32
        ended = False
        with shard_writer(beside, np.dtype(kind)) as writer:
            while not ended and totals["tokens"] < SHARD_TOKENS:
                block = rows.read()
                ended = block is None
                for group in _groups(block, rows.origin, totals["rows"]) if block else ():
                    write_group(writer, group)
                    totals.update(groups=1, rows=len(group), tokens=len(group.ids))
                    totals.update(documents=int(group.documents.sum()), bytes=int(group.bytes.sum()))
                    self.meter.add(int(group.bytes.sum()))
            place = None if ended else rows.place()
            notes = {**totals, "settings": self.settings, "next": place, "dropped": rows.drops()}
            add_notes(writer, notes)
        fsync(beside)
        beside.replace(file)
        fsync(file.parent)
        return notes


class _Sorted:
    """Sorted numbers that can be asked for one; a set would take ten times the memory."""

    def __init__(self, numbers: np.ndarray) -> None:
        self._numbers = numbers

    def __contains__(self, number: object) -> bool:
        place = int(np.searchsorted(self._numbers, np.uint64(number)))  # type: ignore[arg-type]
        return place < len(self._numbers) and self._numbers[place] == number


def _groups(block: Block, origin: Origin, first: int) -> Iterator[Block]:
    """A block's rows, shuffled, in groups of about `GROUP_TOKENS`."""
    order = order_of(ROWS, origin, first, size=len(block))
    groups = -(-len(block.ids) // GROUP_TOKENS)
    for numbers in np.array_split(order, max(groups, 1)):
        if len(numbers):
            yield block.rows(numbers)
