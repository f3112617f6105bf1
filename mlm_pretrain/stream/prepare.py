"""Write the packed rows of one epoch ahead of training; `prepared.py` says what is written and reads it.

Each source is cut into lanes of its own, whose number depends on the corpus alone; a process writes a lane's shards
one after another. A shard carries the place where the next one begins, so that a lane which was interrupted goes on
behind its last whole shard.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from mlm_pretrain import telemetry
from mlm_pretrain.config import Config, dotted, fingerprint
from mlm_pretrain.errors import UserError
from mlm_pretrain.io.digests import MANIFEST, file_digest
from mlm_pretrain.io.locks import held
from mlm_pretrain.io.paths import files_inside, inside
from mlm_pretrain.io.whole import fsync, read_json, remove_leftovers, write_json
from mlm_pretrain.models.ids import vocabulary_size
from mlm_pretrain.stream.jobs import Meter, run_jobs
from mlm_pretrain.stream.lanes import TextRows
from mlm_pretrain.stream.pack import Block, Segmenter, least_chunk_bytes
from mlm_pretrain.stream.prepared import (
    SETTINGS,
    add_notes,
    footer_digest,
    listed_files,
    read_manifest,
    read_notes,
    shard_writer,
    stale_keys,
    write_group,
)
from mlm_pretrain.stream.shuffle import PIECES_PER_LANE, ROWS, DocumentReader, Lane, Origin, document_number, order_of
from mlm_pretrain.text import duplicates
from mlm_pretrain.text.mixture import documents, is_held_out, open_source, source_names

FORMAT = 2
"""To be raised with every change of what the shards hold."""
MOST_LANES = 64
WINDOW_BYTES = 16_000_000
"""Text that is shuffled before it is packed, in each process."""
CHUNK_BYTES = 4_000_000
SHARD_TOKENS = 16_000_000
GROUP_TOKENS = 1 << 18
HASHES = ".hashes"
_SHARD = re.compile(r"lane-\d{3,}-\d{5,}\.parquet|\.lane-.*\.tmp")


def prepared_settings(config: Config, packing: bool, vocabulary: str, corpus: dict[str, Any]) -> dict[str, Any]:
    """What prepared rows depend on, by dotted key.

    Args:
        packing: whether documents share rows.
        vocabulary: the tokenizer's fingerprint.
        corpus: the sources' fingerprints by name.
    """
    reading = {"text_column", "document", "encoding", "filters", "options"}
    sources = [source.model_dump(mode="json", include=reading) for source in config.text.sources]
    return dotted(
        {
            "format": FORMAT,
            "stream": {"sequence_length": config.stream.sequence_length},
            "prepare": {"deduplicate": config.prepare.deduplicate},
            "text": {"validation_fraction": config.text.validation_fraction, "sources": sources},
            "packing": packing,
            "the tokenizer": vocabulary,
            "corpus": corpus,
        }
    )


def prepare(
    config: Config,
    tokenizer: PreTrainedTokenizerBase,
    packing: bool,
    folder: Path,
    settings: dict[str, Any],
    anew: bool = False,
) -> dict[str, Any]:
    """Write the shards of all sources; what stands already and is whole is kept.

    Args:
        settings: see `prepared_settings`.
        anew: remove what stands first.

    Returns:
        The manifest: `sources`, each with its `name`, `files`, `rows`, `tokens`, `documents`, `bytes`, `dropped`.

    Raises:
        UserError: a source can't be read or has no text, the folder holds something else or is being written, or a
            process was killed.
    """
    with held(folder / ".lock", f"{folder}: another process is preparing these shards; wait for it"):
        if anew:
            remove_shards(folder)
        return _prepare(config, tokenizer, packing, folder, settings)


def _prepare(
    config: Config, tokenizer: PreTrainedTokenizerBase, packing: bool, folder: Path, settings: dict[str, Any]
) -> dict[str, Any]:
    _make_room(folder, settings)
    work = _Work(config, tokenizer, packing, folder, fingerprint(settings))
    if config.prepare.deduplicate:
        parts = work.parts()
        unhashed = [part for part in parts if not duplicates.has_hashes(work.hashes, part)]
        run_jobs("hash documents", work.hash_part, unhashed, work.meter, config.prepare.num_proc)
        found = duplicates.find_duplicates(work.hashes, parts)
        telemetry.say(f"exact copies: {sum(found.values()):,} documents are dropped")
    lanes = [(number, lane) for number in range(len(work.pieces)) for lane in range(work.lanes(number))]
    results = run_jobs("prepare", work.write_lane, lanes, work.meter, config.prepare.num_proc)
    sources = []
    for number, name in enumerate(source_names(config.text)):
        files = [
            file for (source, _), result in zip(lanes, results, strict=True) if source == number for file in result
        ]
        sources.append({"name": name, **_totals(files), "files": [_listed(file) for file in files if file["rows"]]})
        if not sources[-1]["rows"]:
            raise UserError(f"text.sources: '{name}' has no text to train on")
    write_json(folder / MANIFEST, {"settings": fingerprint(settings), "sources": sources})
    shutil.rmtree(work.hashes, ignore_errors=True)
    return read_manifest(folder)


def format_manifest(manifest: dict[str, Any], sequence_length: int) -> str:
    """What was written, as a table with a line a source."""
    rows = []
    for source in manifest["sources"]:
        fill = source["tokens"] / (source["rows"] * sequence_length)
        dropped = ", ".join(f"{count:,} {reason}" for reason, count in source["dropped"].items()) or "none"
        counts = [f"{source[key]:,}" for key in ("documents", "rows", "tokens")]
        rows.append([source["name"], *counts, f"{fill:.2%}", dropped])
    return telemetry.table(rows, ("source", "documents", "rows", "tokens", "filled", "dropped"))


def _make_room(folder: Path, settings: dict[str, Any]) -> None:
    """Leave in the folder only what belongs to these settings and is whole."""
    if not (folder / SETTINGS).exists() and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise UserError(f"{folder}: holds something else than prepared shards; name another folder as stream.prepared")
    stale = stale_keys(folder, settings) if (folder / SETTINGS).exists() else []
    if stale:
        telemetry.say(f"{folder}: made anew, the shards were stale ({', '.join(stale[:3])})")
        remove_shards(folder)
    for left in list(files_inside(folder, "source-*/.lane-*.tmp")):
        left.unlink(missing_ok=True)
    remove_leftovers(folder)
    write_json(folder / SETTINGS, settings)
    manifest = folder / MANIFEST
    if manifest.exists():
        for file, entry in listed_files(folder, read_json(manifest)):
            if file.is_file() and file_digest(file) != {key: entry[key] for key in ("size", "sha256")}:
                telemetry.warn(f"{file}: damaged (its size or SHA-256 is not the one that was written); made anew")
                file.unlink()
        manifest.unlink()


def remove_shards(folder: Path) -> None:
    """Remove what `prepare` has written into a folder, and nothing else."""
    shards = [file for file in files_inside(folder, "source-*/*lane-*.parquet*") if _SHARD.fullmatch(file.name)]
    for name in (MANIFEST, SETTINGS):
        (folder / name).unlink(missing_ok=True)
    for file in shards:
        file.unlink()
    for emptied in folder.glob("source-*"):
        with contextlib.suppress(OSError):  # somebody has put something there
            emptied.rmdir()
    shutil.rmtree(folder / HASHES, ignore_errors=True)


def _totals(files: list[dict[str, Any]]) -> dict[str, Any]:
    counts = ("rows", "tokens", "documents", "bytes")
    dropped: Counter[str] = Counter()
    for file in files:
        # Counted from a lane's beginning: the last shard of a lane has its whole count.
        if file["next"] is None:
            dropped += Counter(file["dropped"])
    return {**{key: sum(file[key] for file in files) for key in counts}, "dropped": dict(sorted(dropped.items()))}


def _listed(file: dict[str, Any]) -> dict[str, Any]:
    return {key: file[key] for key in ("name", "size", "sha256", "footer", "groups", "rows", "tokens")}


@dataclass
class _Work:
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
