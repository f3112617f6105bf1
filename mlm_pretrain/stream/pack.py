"""Documents into rows: long ones are cut into chunks, short ones share a row, and no token is lost.

A row holds segments. A segment is a document, or a chunk of one, between the tokenizer's special tokens; segments
of a row don't see each other (the model is given `segment_ids`). Rows are made a block at a time, and a block is
a handful of flat arrays: nothing is done token by token in Python.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from mlm_pretrain.errors import panics_as_errors
from mlm_pretrain.objectives.base import Rows

TEXT_BYTES_PER_TOKEN = 4
"""About, in most languages and tokenizers."""


@dataclass(frozen=True)
class Segments:
    """S segments, one behind another."""

    ids: np.ndarray
    """[tokens] int32, special tokens included."""
    starts: np.ndarray
    """[S + 1] int64: where each segment begins in `ids`."""
    documents: np.ndarray
    """[S] int32: 1 for the first segment of a document."""
    bytes: np.ndarray
    """[S] int64: UTF-8 bytes of the document that begins here, 0 elsewhere."""

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.starts)


@dataclass(frozen=True)
class Block:
    """R packed rows of one source, one behind another."""

    ids: np.ndarray
    """[tokens] int32, padding not stored."""
    row_starts: np.ndarray
    """[R + 1] int64: where each row begins in `ids`."""
    lengths: np.ndarray
    """[segments] int32: tokens of each segment."""
    segment_starts: np.ndarray
    """[R + 1] int64: where each row begins in `lengths`."""
    documents: np.ndarray
    """[R] int32: documents that begin in the row."""
    bytes: np.ndarray
    """[R] int64: UTF-8 bytes of these documents."""

    def __len__(self) -> int:
        return len(self.documents)

    @functools.cached_property
    def counts(self) -> list[tuple[int, int, int]]:
        """Tokens, documents and bytes of each row."""
        columns = (np.diff(self.row_starts), self.documents, self.bytes)
        return list(zip(*(column.tolist() for column in columns), strict=True))

    def rows(self, numbers: Sequence[int] | np.ndarray) -> Block:
        """Some of the rows, as a block of their own."""
        tokens, row_starts = _stretches(self.row_starts, numbers)
        segments, segment_starts = _stretches(self.segment_starts, numbers)
        chosen = np.asarray(numbers, dtype=np.int64)
        return Block(
            self.ids[tokens],
            row_starts,
            self.lengths[segments],
            segment_starts,
            self.documents[chosen],
            self.bytes[chosen],
        )

    @staticmethod
    def of(blocks: Sequence[Block]) -> Block:
        """Blocks one behind another, as one."""
        if len(blocks) == 1:
            return blocks[0]

        def joined(starts: list[np.ndarray]) -> np.ndarray:
            return np.concatenate([[0], np.cumsum(np.concatenate([np.diff(each) for each in starts]))])

        return Block(
            np.concatenate([block.ids for block in blocks]),
            joined([block.row_starts for block in blocks]),
            np.concatenate([block.lengths for block in blocks]),
            joined([block.segment_starts for block in blocks]),
            np.concatenate([block.documents for block in blocks]),
            np.concatenate([block.bytes for block in blocks]),
        )


class Row(NamedTuple):
    """A row of a block."""

    block: Block
    number: int
    source: int

    @property
    def tokens(self) -> int:
        return self.block.counts[self.number][0]


class Segmenter:
    """Text into segments of at most `sequence_length` tokens, special tokens included."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, sequence_length: int) -> None:
        self._before, self._after = special_token_frame(tokenizer)
        self._body = sequence_length - len(self._before) - len(self._after)
        assert self._body > 0, "config allows no sequence this short"
        # The Rust tokenizer itself: what transformers wraps around it costs a third of the encoding. A copy, because
        # these settings would change the user's own.
        self._tokenizer = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True  # a "[MASK]" that stands in the text is text

    def __call__(self, documents: Sequence[str]) -> Segments:
        """The segments of the documents, in order; a text without tokens gives none."""
        with panics_as_errors():
            encodings = self._tokenizer.encode_batch_fast(list(documents), add_special_tokens=False)
        texts: list[int] = []
        sizes = np.empty(len(documents), dtype=np.int64)
        for number, encoding in enumerate(encodings):
            ids = encoding.ids
            sizes[number] = len(ids)
            texts += ids
        # How many segments each document gives, and how long each is without its special tokens.
        counts = -(-sizes // self._body)
        document = np.repeat(np.arange(len(sizes)), counts)
        first = np.zeros(len(document), dtype=bool)
        first[(np.cumsum(counts) - counts)[counts > 0]] = True
        bodies = np.full(len(document), self._body, dtype=np.int64)
        last = (np.cumsum(counts) - 1)[counts > 0]
        bodies[last] = (sizes - (counts - 1) * self._body)[counts > 0]
        frame = len(self._before) + len(self._after)
        starts = np.concatenate([[0], np.cumsum(bodies + frame)])
        whole = np.empty(starts[-1], dtype=np.int32)
        shift = np.arange(len(bodies)) * frame + len(self._before)
        whole[np.arange(len(texts)) + np.repeat(shift, bodies)] = texts
        for place, token in enumerate(self._before):
            whole[starts[:-1] + place] = token
        for place, token in enumerate(reversed(self._after), start=1):
            whole[starts[1:] - place] = token
        size_in_bytes = np.fromiter((len(text.encode()) for text in documents), dtype=np.int64, count=len(sizes))
        return Segments(whole, starts, first.astype(np.int32), np.where(first, size_in_bytes[document], 0))


def special_token_frame(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The special tokens that this tokenizer puts before and after a text ([CLS] … [SEP], or whatever it uses)."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    framed = tokenizer("a")["input_ids"]
    for start in range(len(framed) - len(bare) + 1):
        if framed[start : start + len(bare)] == bare:
            return framed[:start], framed[start + len(bare) :]
    raise AssertionError("the special tokens of a text stand around it")


def least_chunk_bytes(sequence_length: int) -> int:
    """Bytes of text that fill 64 rows, about: the last row of a chunk is rarely full, and should be one of many."""
    return 64 * sequence_length * TEXT_BYTES_PER_TOKEN


def pack(segments: Segments, sequence_length: int, packing: bool = True) -> Block:
    """Rows of the segments, all of them.

    Args:
        packing: whether segments share rows; else each has a row of its own.
    """
    lengths = segments.lengths.tolist()
    rows = best_fit(lengths, sequence_length) if packing else [[number] for number in range(len(lengths))]
    order = np.fromiter((number for row in rows for number in row), dtype=np.int64, count=len(lengths))
    counts = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    segment_starts = np.concatenate([[0], np.cumsum(counts)])
    tokens, starts = _stretches(segments.starts, order)
    return Block(
        ids=segments.ids[tokens],
        row_starts=starts[segment_starts],
        lengths=np.diff(starts).astype(np.int32),
        segment_starts=segment_starts,
        documents=_sums(segments.documents[order], segment_starts),
        bytes=_sums(segments.bytes[order], segment_starts),
    )


def best_fit(lengths: Sequence[int], sequence_length: int) -> list[list[int]]:
    """Best-fit decreasing (Johnson et al., SIAM J. Comput. 1974): the longest first, each into the fullest row that
    still has room for it.

    Returns:
        For each row the numbers of its segments.
    """
    rows: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(sequence_length + 1)]
    rooms = 0  # bit r is set where some row has room for exactly r more tokens
    for segment in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        size = lengths[segment]
        fitting = rooms >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            number = with_room[room].pop()
            if not with_room[room]:
                rooms &= ~(1 << room)
            rows[number].append(segment)
            room -= size
        else:
            number, room = len(rows), sequence_length - size
            rows.append([segment])
        if room:
            with_room[room].append(number)
            rooms |= 1 << room
    return rows


def _stretches(starts: np.ndarray, numbers: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Some of the stretches that begin at `starts`, one behind another: where their elements are now, and where each
    stretch will begin."""
    chosen = np.asarray(numbers, dtype=np.int64)
    sizes = np.diff(starts)[chosen]
    new = np.concatenate([[0], np.cumsum(sizes)])
    return np.arange(new[-1]) + np.repeat(starts[chosen] - new[:-1], sizes), new


def _sums(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """The sums of the stretches that begin at `starts` (none of them is empty; the last start is the end)."""
    return np.diff(np.concatenate([[0], np.cumsum(values)])[starts]).astype(values.dtype)


def collate(
    rows: Sequence[Row | None], sequence_length: int, pad_id: int, index: Sequence[int] | np.ndarray, step: int
) -> Rows:
    """Packed rows as arrays [len(rows), sequence_length]; see `Rows` for their meaning.

    Args:
        rows: None is a row of padding alone.
        index: the rows' numbers in the run; they key the rows' randomness.
        step: the optimizer step that the rows belong to.
    """
    size = len(rows) * sequence_length
    input_ids = np.full(size, pad_id, dtype=np.int64)
    segment_ids = np.zeros(size, dtype=np.int32)
    position_ids = np.zeros(size, dtype=np.int64)
    source_ids = np.full(size, -1, dtype=np.int32)
    filled = [(place, row) for place, row in enumerate(rows) if row is not None]
    if filled:
        spans = [(row.block.row_starts[row.number], row.block.row_starts[row.number + 1]) for _, row in filled]
        ids = np.concatenate([row.block.ids[start:end] for (_, row), (start, end) in zip(filled, spans, strict=True)])
        tokens = np.array([end - start for start, end in spans])
        parts = [
            row.block.lengths[row.block.segment_starts[row.number] : row.block.segment_starts[row.number + 1]]
            for _, row in filled
        ]
        lengths = np.concatenate(parts)
        counts = np.array([len(part) for part in parts])
        places = np.array([place for place, _ in filled])
        sources = np.array([row.source for _, row in filled], dtype=np.int32)
        along = np.arange(len(ids))
        to = along + np.repeat(places * sequence_length - (np.cumsum(tokens) - tokens), tokens)
        numbers = np.arange(1, len(lengths) + 1) - np.repeat(np.cumsum(counts) - counts, counts)
        input_ids[to] = ids
        segment_ids[to] = np.repeat(numbers, lengths)
        position_ids[to] = along - np.repeat(np.cumsum(lengths) - lengths, lengths)
        source_ids[to] = np.repeat(sources, tokens)
    shape = (len(rows), sequence_length)
    return Rows(
        input_ids.reshape(shape),
        segment_ids.reshape(shape),
        position_ids.reshape(shape),
        source_ids.reshape(shape),
        np.asarray(index, dtype=np.int64),
        step,
    )
