"""Write the packed rows of one epoch ahead of training; `reading.py` says what is written and reads it.

The work itself, in several processes, is in `writing.py`.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from mlm_pretrain.config import Config, dotted, fingerprint
from mlm_pretrain.console import telemetry
from mlm_pretrain.errors import UserError
from mlm_pretrain.io.digests import DAMAGED, MANIFEST, is_as_written
from mlm_pretrain.io.locks import held
from mlm_pretrain.io.paths import files_inside
from mlm_pretrain.io.whole import read_json, remove_leftovers, write_json
from mlm_pretrain.stream.jobs import run_jobs
from mlm_pretrain.stream.shards.reading import SETTINGS, listed_files, read_manifest, stale_keys
from mlm_pretrain.stream.shards.writing import HASHES, Work
from mlm_pretrain.text import duplicates
from mlm_pretrain.text.mixture import source_names

FORMAT = 2
"""To be raised with every change of what the shards hold."""
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
    work = Work(config, tokenizer, packing, folder, fingerprint(settings))
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
            if file.is_file() and not is_as_written(file, {key: entry[key] for key in ("size", "sha256")}):
                telemetry.warn(f"{file}: {DAMAGED}; made anew")
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
