"""Documents into rows: long ones are cut into chunks, short ones share a row, and no token is lost.

A row holds segments. A segment is a document, or a chunk of one, between the tokenizer's special tokens; segments
of a row don't see each other (the model is given `segment_ids`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from mlm_pretrain.objectives.base import Rows

# A row that is filled less than this waits for shorter documents to come; at most so many rows wait. Both bound
# what a checkpoint has to remember of the documents behind it.
WAITING_FILL = 0.97
MAX_WAITING_ROWS = 4


class Segment(NamedTuple):
    ids: list[int]
    source: int


PackedRow = list[Segment]


class Segmenter:
    """Text into segments of at most `sequence_length` tokens, special tokens included."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, sequence_length: int) -> None:
        self._tokenizer = tokenizer
        self._before, self._after = special_token_frame(tokenizer)
        self._body = sequence_length - len(self._before) - len(self._after)
        assert self._body > 0, "config allows no sequence this short"

    def __call__(self, documents: Sequence[tuple[str, int]]) -> list[Segment]:
        """Segments of the documents (pairs of text and source number), in order; a text without tokens gives none."""
        if not documents:
            return []
        encoded = self._tokenizer(
            [text for text, _ in documents],
            add_special_tokens=False,
            # A "[MASK]" that stands in the text is text.
            split_special_tokens=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]
        return [
            Segment([*self._before, *ids[start : start + self._body], *self._after], source)
            for ids, (_, source) in zip(encoded, documents, strict=True)
            for start in range(0, len(ids), self._body)
        ]


def special_token_frame(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The special tokens that this tokenizer puts before and after a text ([CLS] … [SEP], or whatever it uses)."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    framed = tokenizer("a")["input_ids"]
    for start in range(len(framed) - len(bare) + 1):
        if framed[start : start + len(bare)] == bare:
            return framed[:start], framed[start + len(bare) :]
    raise AssertionError("the special tokens of a text stand around it")


def pack(segments: Sequence[Segment], sequence_length: int) -> tuple[list[PackedRow], list[Segment]]:
    """Best-fit decreasing: the longest segment first, each into the fullest row that still has room for it.

    Returns:
        The rows to emit, and the segments of the few rows that wait for shorter documents.
    """
    rows: list[PackedRow] = []
    with_room: list[list[int]] = [[] for _ in range(sequence_length + 1)]
    rooms = 0  # bit r is set where some row has room for exactly r more tokens
    for segment in sorted(segments, key=lambda segment: -len(segment.ids)):
        size = len(segment.ids)
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
    emptiest = sorted(
        (number for room in range(sequence_length, 0, -1) for number in with_room[room]),
        key=lambda number: fill(rows[number]),
    )
    waiting = {number for number in emptiest[:MAX_WAITING_ROWS] if fill(rows[number]) < WAITING_FILL * sequence_length}
    carry = [segment for number in sorted(waiting) for segment in rows[number]]
    return [row for number, row in enumerate(rows) if number not in waiting], carry


def fill(row: PackedRow) -> int:
    """Tokens of a row."""
    return sum(len(segment.ids) for segment in row)


def collate(rows: Sequence[PackedRow], sequence_length: int, pad_id: int, first_index: int, step: int) -> Rows:
    """Packed rows as arrays [len(rows), sequence_length]; see `Rows` for their meaning.

    Args:
        first_index: number of the first row in the run; it keys the row's randomness.
        step: the optimizer step that the rows belong to.
    """
    shape = (len(rows), sequence_length)
    input_ids = np.full(shape, pad_id, dtype=np.int64)
    segment_ids = np.zeros(shape, dtype=np.int32)
    position_ids = np.zeros(shape, dtype=np.int64)
    source_ids = np.full(shape, -1, dtype=np.int32)
    for row_number, row in enumerate(rows):
        start = 0
        for number, segment in enumerate(row, start=1):
            end = start + len(segment.ids)
            input_ids[row_number, start:end] = segment.ids
            segment_ids[row_number, start:end] = number
            position_ids[row_number, start:end] = np.arange(end - start)
            source_ids[row_number, start:end] = segment.source
            start = end
    index = np.arange(first_index, first_index + len(rows), dtype=np.int64)
    return Rows(input_ids, segment_ids, position_ids, source_ids, index, step)
