"""The lanes of a config, opened: on its text or on prepared shards, each with its share of what is bounded over all."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from mlm_pretrain.config import Config, TextConfig
from mlm_pretrain.console import telemetry
from mlm_pretrain.stream.dealing import PIECES_PER_LANE, Lane, Origin
from mlm_pretrain.stream.lanes import LaneRows, RowSource, TextRows
from mlm_pretrain.stream.open_files import may_stay_open
from mlm_pretrain.stream.pack import Segmenter, least_chunk_bytes
from mlm_pretrain.stream.shards.reading import PreparedRows, prepared_folder, read_manifest
from mlm_pretrain.stream.shuffle import DocumentReader
from mlm_pretrain.text.files.listing import find_files
from mlm_pretrain.text.mixture import open_source, source_names

PACKING_BUFFER = 4_000_000
"""By default so many bytes of text are packed at a time, over all lanes and sources, but no fewer than
`least_chunk_bytes` in each."""


def open_lanes(
    config: Config, tokenizer: PreTrainedTokenizerBase, packing: bool, lanes: Sequence[Lane]
) -> list[LaneRows]:
    """The rows of some lanes of a run, from their beginning.

    Raises:
        UserError: a source or the prepared shards can't be read.
    """
    # Of all processes and workers, the one that has this lane warns.
    warns = any(lane.number == 0 for lane in lanes)
    prepared = config.stream.prepared
    sources = range(len(config.text.sources))
    stays_open = bool(prepared) or may_stay_open(len(lanes) * len(sources))
    open_source_rows = _open_prepared(config) if prepared else _open_text(config, tokenizer, packing, warns, stays_open)
    return [
        LaneRows([open_source_rows(Origin(config.run.seed, number, lane)) for number in sources], config.text)
        for lane in lanes
    ]


def _open_text(
    config: Config, tokenizer: PreTrainedTokenizerBase, packing: bool, warns: bool, stays_open: bool
) -> Callable[[Origin], RowSource]:
    length = config.stream.sequence_length
    segmenter = Segmenter(tokenizer, length)
    datasets = [open_source(source) for source in config.text.sources]
    if warns:
        _warn_of_few_pieces(config, [dataset.num_shards for dataset in datasets])

    def open_source_rows(origin: Origin) -> RowSource:
        documents = DocumentReader(
            datasets[origin.source],
            config.text.sources[origin.source],
            origin,
            window_bytes=_window_bytes(config, origin),
            held_out_fraction=config.text.validation_fraction,
            max_epochs=_max_epochs(config.text, origin.source),
            stays_open=stays_open,
        )
        return TextRows(origin, documents, segmenter, _chunk_bytes(config, origin), length, packing)

    return open_source_rows


@functools.cache  # told once by a process
def _warn_of_cost(name: str, pieces: int, lanes: int) -> None:
    telemetry.warn(
        f"{name}: can only be cut into {pieces} of the {PIECES_PER_LANE * lanes} pieces that {lanes} lanes want "
        "(compressed, CSV, few shards), so each lane reads all of it; more files or `mlm-pretrain prepare` save that"
    )


def _warn_of_few_pieces(config: Config, pieces: list[int]) -> None:
    for name, source, count in zip(source_names(config.text), config.text.sources, pieces, strict=True):
        # What is small costs little either way.
        small = source.source == "files" and sum(Path(file).stat().st_size for file in find_files(source.path)) < 2e7
        if count < PIECES_PER_LANE * config.stream.lanes and not small and source.source in {"files", "hub"}:
            _warn_of_cost(name, count, config.stream.lanes)


def _open_prepared(config: Config) -> Callable[[Origin], RowSource]:
    folder = prepared_folder(config)
    manifest = read_manifest(folder)

    def open_source_rows(origin: Origin) -> RowSource:
        entry = manifest["sources"][origin.source]
        limit = _max_epochs(config.text, origin.source)
        return PreparedRows(origin, folder, entry, _window_bytes(config, origin), limit)

    return open_source_rows


def _max_epochs(text: TextConfig, source: int) -> int | None:
    return text.sources[source].max_epochs or (1 if text.stopping_strategy == "first_exhausted" else None)


def _share(config: Config, origin: Origin) -> float:
    """A source's share in a lane of what is bounded over all of them."""
    weights = [source.weight for source in config.text.sources]
    return weights[origin.source] / sum(weights) / origin.lane.of


def _window_bytes(config: Config, origin: Origin) -> int:
    return max(int(config.stream.shuffle_window * _share(config, origin)), 1)


def _chunk_bytes(config: Config, origin: Origin) -> int:
    given = config.stream.packing_buffer
    if given is not None:
        return max(int(given * _share(config, origin)), 1)
    return max(int(PACKING_BUFFER * _share(config, origin)), least_chunk_bytes(config.stream.sequence_length))
