"""Masked global batches, each with the state of the stream behind it.

Text is taken, tokenised and packed in chunks of `packing_buffer` bytes. A chunk is a pure function of where the
documents stood when it began and of the segments that waited from the chunk before, so the state of the whole
stream is those two and the number of rows taken from the chunk. Every batch carries the state that follows it:
however far a worker has read ahead, a checkpoint holds the place of the batch that was trained on last.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from transformers import PreTrainedTokenizerBase

from mlm_pretrain.config import Config
from mlm_pretrain.errors import UserError
from mlm_pretrain.objectives.base import Objective
from mlm_pretrain.objectives.random import RowRandom
from mlm_pretrain.stream.pack import PackedRow, Segment, Segmenter, collate, fill, pack
from mlm_pretrain.stream.shuffle import DocumentStream, State


class RowStream:
    """The rows of a run in training order, endless.

    Args:
        config: its `text`, `stream` and `run.seed` shape the order.
        tokenizer: makes the tokens.
        packing: whether documents share rows; else each segment has a row of its own.
    """

    def __init__(self, config: Config, tokenizer: PreTrainedTokenizerBase, packing: bool) -> None:
        self._seed = config.run.seed
        self._sequence_length = config.stream.sequence_length
        self._chunk_bytes = config.stream.packing_buffer
        self._packing = packing
        self._documents = DocumentStream(config.text, config.run.seed, config.stream.shuffle_window)
        self._segment = Segmenter(tokenizer, self._sequence_length)
        self._begin: State = {"documents": self._documents.state(), "waiting": [], "row": 0}
        self._waiting: list[Segment] = []
        self._rows: list[PackedRow] = []
        self._taken = 0

    @property
    def names(self) -> list[str]:
        """The sources' names; `source_ids` index into it."""
        return self._documents.names

    def take(self, count: int) -> tuple[list[PackedRow], int]:
        """The next rows, and the number of the first of them in the run."""
        first = self._begin["row"] + self._taken
        rows: list[PackedRow] = []
        while len(rows) < count:
            if self._taken == len(self._rows):
                self._next_chunk()
            part = self._rows[self._taken : self._taken + count - len(rows)]
            self._taken += len(part)
            rows += part
        return rows, first

    def counts(self) -> dict[str, dict[str, Any]]:
        """By source: epoch, documents and bytes taken, drops by reason."""
        return self._documents.counts()

    def state(self) -> State:
        return {"begin": self._begin, "taken": self._taken}

    def restore(self, state: State) -> None:
        begin = state["begin"]
        self._documents.restore(begin["documents"])
        self._waiting = [Segment(ids, source) for ids, source in begin["waiting"]]
        self._begin, self._rows, self._taken = begin, [], 0
        if state["taken"]:
            self._make_chunk()
            self._taken = state["taken"]

    def _next_chunk(self) -> None:
        self._begin = {
            "documents": self._documents.state(),
            "waiting": [[segment.ids, segment.source] for segment in self._waiting],
            "row": self._begin["row"] + len(self._rows),
        }
        self._make_chunk()
        self._taken = 0

    def _make_chunk(self) -> None:
        segments = self._waiting + self._segment(self._documents.take(self._chunk_bytes))
        if self._packing:
            rows, self._waiting = pack(segments, self._sequence_length)
        else:
            rows, self._waiting = [[segment] for segment in segments], []
        # Packing sorts by length; a batch should see all lengths.
        order = np.random.default_rng([self._seed, 0, self._begin["row"]]).permutation(len(rows))
        self._rows = [rows[position] for position in order]


@dataclass
class GlobalBatch:
    """One optimizer step's rows, masked."""

    tensors: dict[str, torch.Tensor]
    """What the objective makes of the rows; each tensor is [global_batch_size, …], on the CPU."""
    tokens: int
    """Real tokens, padding not counted."""
    state: str
    """The stream's state behind this batch, as JSON: resuming from it gives the next batch."""
    counts: dict[str, dict[str, Any]]
    """By source: epoch, documents and bytes taken, drops by reason."""


class _Batches(IterableDataset):
    def __init__(
        self,
        config: Config,
        tokenizer: PreTrainedTokenizerBase,
        objective: Objective,
        packing: bool,
        state: str | None,
        step: int,
    ) -> None:
        super().__init__()
        self._make_rows = lambda: RowStream(config, tokenizer, packing)
        self._size = config.training.global_batch_size
        self._sequence_length = config.stream.sequence_length
        self._pad_id = int(tokenizer.pad_token_id)
        self._random = RowRandom(config.run.seed)
        self._objective = objective
        self._state = state
        self._step = step

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if get_worker_info() is not None:
            # A forked process has the tokenizer's thread pool without its threads, and would wait for them forever.
            os.environ["TOKENIZERS_PARALLELISM"] = "false"
        try:
            yield from self._batches()
        except UserError as error:
            # An exception from a worker would arrive wrapped in the worker's traceback.
            yield {"error": str(error)}

    def _batches(self) -> Iterator[dict[str, Any]]:
        stream = self._make_rows()
        if self._state is not None:
            stream.restore(json.loads(self._state))
        step = self._step
        while True:
            taken, first = stream.take(self._size)
            rows = collate(taken, self._sequence_length, self._pad_id, first, step)
            yield {
                "tensors": self._objective.corrupt(rows, self._random),
                "tokens": sum(fill(row) for row in taken),
                "state": json.dumps(stream.state()),
                "counts": json.dumps(stream.counts()),
            }
            step += 1


def global_batches(
    config: Config,
    tokenizer: PreTrainedTokenizerBase,
    objective: Objective,
    *,
    packing: bool,
    num_workers: int,
    state: str | None = None,
    step: int = 0,
) -> Iterator[GlobalBatch]:
    """The masked global batches of a run from `step` on; endless.

    The sequence depends on the config (text, stream, objective, seed, global batch size), the tokenizer and the
    corpus alone, not on `num_workers` nor on where it was left and taken up again.

    Args:
        state: what the batch before `step` carried; None at the beginning.
        num_workers: 0 makes batches in this process, 1 beside it.

    Raises:
        UserError: a source can't be read.
    """
    loader = DataLoader(
        _Batches(config, tokenizer, objective, packing, state, step),
        batch_size=None,
        num_workers=num_workers,
        prefetch_factor=4 if num_workers else None,
        pin_memory=torch.cuda.is_available(),
        multiprocessing_context="fork" if num_workers else None,
        # A loader draws a seed for its workers: not from the generator that dropout draws from.
        generator=torch.Generator(),
    )
    for item in loader:
        if "error" in item:
            raise UserError(item["error"])
        yield GlobalBatch(item["tensors"], item["tokens"], item["state"], json.loads(item["counts"]))


def rows_of(
    documents: list[tuple[str, int]], tokenizer: PreTrainedTokenizerBase, sequence_length: int, packing: bool
) -> list[PackedRow]:
    """All rows of a fixed set of documents (pairs of text and source number), in a fixed order."""
    segments = Segmenter(tokenizer, sequence_length)(documents)
    if not packing:
        return [[segment] for segment in segments]
    rows, waiting = pack(segments, sequence_length)
    return rows + pack_all(waiting, sequence_length)


def pack_all(segments: list[Segment], sequence_length: int) -> list[PackedRow]:
    """Pack segments without letting any wait for more."""
    rows: list[PackedRow] = []
    while segments:
        row: PackedRow = []
        rest: list[Segment] = []
        room = sequence_length
        for segment in segments:
            if len(segment.ids) <= room:
                row.append(segment)
                room -= len(segment.ids)
            else:
                rest.append(segment)
        rows.append(row)
        segments = rest
    return rows
