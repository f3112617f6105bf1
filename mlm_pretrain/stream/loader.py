"""Masked global batches, each with the state of the stream behind it.

Row number n of a run comes from lane n mod `lanes`; rows of one lane come in the lane's own order, whoever reads it.
So the sequence of global batches is a pure function of config, seed and corpus, and processes and loader workers are
only assigned lanes: lane l belongs to process l mod (number of processes), and there to one of its workers. Every
batch carries the state that follows it of each lane: however far a worker has read ahead, a checkpoint holds the
place of the batch that was trained on last.
"""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from mlm_pretrain.config import Config, TextConfig
from mlm_pretrain.config.batch_size import BatchSize
from mlm_pretrain.errors import UserError
from mlm_pretrain.objectives.base import Objective
from mlm_pretrain.objectives.random import RowRandom
from mlm_pretrain.stream.dealing import Lane, State
from mlm_pretrain.stream.opening import open_lanes
from mlm_pretrain.stream.pack import Row, Segmenter, collate, pack
from mlm_pretrain.stream.workers import side_by_side
from mlm_pretrain.text.mixture import source_names

PREFETCH = 8
"""Batches that a worker is ahead."""


@dataclass
class GlobalBatch:
    """One process's share of an optimizer step's rows, masked."""

    tensors: dict[str, torch.Tensor]
    """What the objective makes of the rows; each tensor is [rows, …], on the CPU. Where the text has ended, rows are
    padding alone, without labels."""
    rows: torch.Tensor
    """[rows] int64: their numbers in the run, ascending."""
    tokens: int
    """Real tokens, padding not counted."""
    lanes: dict[str, State]
    """The state behind this batch of each of this process's lanes; that of all lanes resumes the stream."""
    counts: dict[str, dict[str, Any]]
    """By source, over this process's lanes: `documents`, `bytes` and `tokens` taken, `epoch` (of the lane that is
    last), `dropped` (by reason)."""


def _share(
    config: Config,
    tokenizer: PreTrainedTokenizerBase,
    objective: Objective,
    packing: bool,
    state: dict[str, State] | None,
    step: int,
    lanes: list[int],
) -> Iterator[dict[str, Any]]:
    """What some lanes give to the batches from `step` on."""
    of, length = config.stream.lanes, config.stream.sequence_length
    size = BatchSize(config.training.global_batch_size)
    streams = open_lanes(config, tokenizer, packing, [Lane(number, of) for number in lanes])
    for number, stream in zip(lanes, streams, strict=True):
        if state is None:
            stream.read_ahead()
        else:
            stream.restore(state[str(number)])
    names = source_names(config.text)
    random = RowRandom(config.run.seed)
    pad_id = int(tokenizer.pad_token_id)
    while True:
        taken: dict[int, Row | None] = {}
        for number, stream in zip(lanes, streams, strict=True):
            first, end = size.rows_before(step), size.rows_before(step + 1)
            numbers = range(first + (number - first) % of, end, of)
            taken |= zip(numbers, stream.take(len(numbers)), strict=True)
        index = sorted(taken)
        rows = collate([taken[number] for number in index], length, pad_id, index, step)
        counts = merge_counts(dict(zip(names, stream.counts(), strict=True)) for stream in streams)
        yield {
            "arrays": objective.corrupt(rows, random),
            "rows": rows.index,
            "tokens": sum(row.tokens for row in taken.values() if row),
            "lanes": {str(number): stream.state() for number, stream in zip(lanes, streams, strict=True)},
            "counts": counts,
        }
        step += 1


def global_batches(
    config: Config,
    tokenizer: PreTrainedTokenizerBase,
    objective: Objective,
    *,
    packing: bool,
    num_workers: int,
    state: dict[str, State] | None = None,
    step: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[GlobalBatch]:
    """One process's share of the masked global batches of a run, from `step` on; endless.

    The global batches depend on the config (text, stream, objective, seed, global batch size), the tokenizer and the
    corpus alone: not on the number of workers and processes, nor on where they were left and taken up again.

    Args:
        state: of every lane, by its number, behind the batch before `step`; None at the beginning.
        num_workers: 0 makes batches in this process, more make them beside it.

    Raises:
        UserError: a source can't be read, a worker was killed, or there are more processes than lanes or rows.
    """
    lanes = _lanes_of(config, rank, world_size)
    workers = min(num_workers, len(lanes))
    share = functools.partial(_share, config, tokenizer, objective, packing, state, step)
    makes = [functools.partial(share, lanes[worker::workers]) for worker in range(workers)]
    parts = side_by_side(makes, PREFETCH) if workers else ([part] for part in share(lanes))
    with contextlib.closing(parts):
        for each in parts:
            yield _joined(each)


def _lanes_of(config: Config, rank: int, world_size: int) -> list[int]:
    lanes, rows = config.stream.lanes, BatchSize(config.training.global_batch_size).values[0]
    if world_size > lanes:
        raise UserError(f"stream.lanes: {lanes} lanes are too few for {world_size} processes; give each one at least")
    # Where the lanes don't divide evenly, some process has no row among so few of the order.
    least = 2 * world_size if lanes % world_size else world_size
    if rows < least:
        raise UserError(f"training.global_batch_size: {rows} rows are too few for {world_size} processes")
    if rows < lanes and _is_finite(config.text):
        # A step takes a row of every lane, so that one without any tells that the text is at its end everywhere.
        raise UserError(
            f"training.global_batch_size: {rows} rows are too few for {lanes} lanes where the text ends "
            "(text.stopping_strategy, max_epochs); set stream.lanes to no more"
        )
    return list(range(rank, lanes, world_size))


def _is_finite(text: TextConfig) -> bool:
    return text.stopping_strategy is not None or all(source.max_epochs for source in text.sources)


def _joined(parts: list[dict[str, Any]]) -> GlobalBatch:
    """The workers' shares of a step as one batch, its rows in order."""
    # NumPy: torch would take its threads to this, away from the workers.
    rows = np.concatenate([part["rows"] for part in parts])
    order = np.argsort(rows)
    tensors = {
        name: torch.from_numpy(_in_order([part["arrays"][name] for part in parts], order))
        for name in parts[0]["arrays"]
    }
    return GlobalBatch(
        tensors,
        torch.from_numpy(rows[order]),
        sum(part["tokens"] for part in parts),
        {number: state for part in parts for number, state in part["lanes"].items()},
        merge_counts(part["counts"] for part in parts),
    )


def _in_order(parts: list[np.ndarray], order: np.ndarray) -> np.ndarray:
    return np.concatenate(parts)[order] if len(parts) > 1 else parts[0]


def merge_counts(parts: Iterable[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """The counts by source of several lanes or processes as one: sums, and the smallest epoch."""
    merged: dict[str, dict[str, Any]] = {}
    for part in parts:
        for name, counts in part.items():
            if name not in merged:
                merged[name] = counts
                continue
            so_far = merged[name]
            merged[name] = {
                **{key: so_far[key] + counts[key] for key in ("tokens", "documents", "bytes")},
                "epoch": min(so_far["epoch"], counts["epoch"]),
                "dropped": dict(sorted((Counter(so_far["dropped"]) + Counter(counts["dropped"])).items())),
            }
    return merged


def rows_of(
    documents: list[tuple[str, int]], tokenizer: PreTrainedTokenizerBase, sequence_length: int, packing: bool
) -> list[Row]:
    """All rows of a fixed set of documents (pairs of text and source number), in a fixed order."""
    segmenter = Segmenter(tokenizer, sequence_length)
    rows: list[Row] = []
    for source in sorted({source for _, source in documents}):
        block = pack(segmenter([text for text, of in documents if of == source]), sequence_length, packing)
        rows += [Row(block, number, source) for number in range(len(block))]
    return rows
