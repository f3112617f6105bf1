"""The rows of one source in one lane: its pieces are dealt to the lanes, and every epoch deals them anew.

A source is a row of pieces (shards of its dataset). Their order depends on (seed, source, epoch) alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import datasets
import numpy as np

State = dict[str, Any]
"""Plain JSON data, a few hundred bytes; never changed once it is made."""

PIECES_PER_LANE = 4
"""With fewer pieces than this a lane's luck in the deal would make it much longer or shorter than the others."""


class Part(NamedTuple):
    """Every `of`-th row of a piece, from `first` on."""

    piece: int
    first: int
    of: int


class Lane(NamedTuple):
    """One of the parts in which a run's text is read side by side."""

    number: int
    of: int


class Origin(NamedTuple):
    """Whose rows these are; what is drawn for them depends on it."""

    seed: int
    source: int
    """The source's number in the config."""
    lane: Lane


def shuffled(purpose: int, *key: int, size: int) -> np.ndarray:
    """A permutation of `size` numbers that depends on the purpose and the key alone."""
    return np.random.default_rng([purpose, *key]).permutation(size)


def order_of(purpose: int, origin: Origin, number: int, size: int) -> np.ndarray:
    """The order of something of a lane's source that has a number in the run."""
    return shuffled(purpose, origin.seed, origin.source, origin.lane.number, number, size=size)


DEAL, WINDOW, ROWS = 1, 2, 3
"""What an order is drawn for: the first part of its key."""


def deal(pieces: int, origin: Origin, epoch: int) -> list[Part]:
    """What a lane reads of a source in an epoch, in order; together the lanes read every row once.

    Many pieces are dealt out like cards; of few, each lane takes every `of`-th row of all. The hands go round: in as
    many epochs as there are lanes, each lane has had everything once, so that no lane repeats a short hand for ever.
    """
    lane = origin.lane
    hand = (lane.number + epoch) % lane.of
    order = shuffled(DEAL, origin.seed, origin.source, epoch, size=pieces)
    if pieces < PIECES_PER_LANE * lane.of:
        return [Part(piece, hand, lane.of) for piece in order.tolist()]
    dealt = shuffled(DEAL, origin.seed, origin.source, 0, size=pieces)[hand :: lane.of]
    return [Part(piece, 0, 1) for piece in order[np.isin(order, dealt)].tolist()]


def document_number(row: int, part: int) -> int:
    """The number of a document in its piece, ascending: of the only part of a row, or of one of many."""
    return row << 24 | part


class RowReader:
    """The raw rows of one source in one lane, epoch after epoch."""

    def __init__(self, dataset: datasets.IterableDataset, origin: Origin) -> None:
        self._dataset = dataset
        self._origin = origin
        self._epoch = self._part = self._row = 0
        self._parts: list[Part] = []
        self._state: dict[str, Any] | None = None
        """What the piece's dataset is to go on from, once it is opened."""
        self._piece: datasets.IterableDataset | None = None
        self._rows: Iterator[dict[str, Any]] | None = None
        self.go({"epoch": 0, "part": 0, "row": 0, "reader": None})

    def next(self) -> dict[str, Any] | None:
        """The next row; None once after the last one of each epoch."""
        while self._part < len(self._parts):
            part = self._parts[self._part]
            if self._rows is None:
                self._open(part)
            assert self._rows is not None
            for row in self._rows:
                mine = self._row % part.of == part.first
                self._row += 1
                if mine:
                    return row
            self._part, self._row = self._part + 1, 0
            self.close()
        self.go({"epoch": self._epoch + 1, "part": 0, "row": 0, "reader": None})
        return None

    @property
    def piece(self) -> int:
        """The piece that the last row was in."""
        return self._parts[self._part].piece

    @property
    def number(self) -> int:
        """The number of the last row in its piece."""
        return self._row - 1

    def place(self) -> State:
        """Where the next row is: `epoch`, number of the `part` in it, number of the `row` in its piece, and the state
        of the piece's dataset."""
        reader = self._state if self._piece is None else self._piece.state_dict()
        return {"epoch": self._epoch, "part": self._part, "row": self._row, "reader": reader}

    def go(self, place: State) -> None:
        self._epoch, self._part, self._row = place["epoch"], place["part"], place["row"]
        self._parts = deal(self._dataset.num_shards, self._origin, self._epoch)
        self._state, self._piece, self._rows = place["reader"], None, None

    def close(self) -> None:
        """Close the file that is read; the next row is found again in it."""
        if self._piece is not None:
            self._state = self._piece.state_dict() if self._row else None
            self._piece = self._rows = None

    def _open(self, part: Part) -> None:
        self._piece = self._dataset.shard(num_shards=self._dataset.num_shards, index=part.piece)
        if self._state is not None:
            self._piece.load_state_dict(self._state)
        self._rows = iter(self._piece)
