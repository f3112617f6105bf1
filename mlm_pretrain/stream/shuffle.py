"""Documents of one source in one lane, in training order: the pieces are dealt to the lanes, and what a lane reads
is shuffled in windows.

A source is a row of pieces (shards of its dataset). Every epoch deals them anew, in an order that depends on (seed,
source, epoch) alone. A window is as much of the lane's part as fits in its share of `shuffle_window` bytes, and its
order depends on (seed, source, lane, number of the window). So the place in a source is a few small numbers: epoch,
piece, the dataset's own state within the piece where the window began, and how many documents of the window are
taken. To come back, the window is read again (not tokenised), and the stream goes on behind the documents that were
taken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any, NamedTuple

import datasets
import numpy as np

from mlm_pretrain.config import SourceConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.text.mixture import documents, is_held_out

State = dict[str, Any]
"""Plain JSON data, a few hundred bytes; never changed once it is made."""

ORDER = 3
"""To be raised with every change of the code that gives runs another order (of pieces, windows, rows): a run that was
begun before is then refused, not continued with other batches."""
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
        """The next row; None once behind the last one of each epoch."""
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


class _Window:
    """Documents in a shuffled order, as UTF-8 in one piece of memory: as strings they would take up to twice as much,
    and leave holes behind them."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._ends = [0]
        self._order: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self._ends) - 1

    @property
    def size(self) -> int:
        """UTF-8 bytes of the documents."""
        return len(self._data)

    def add(self, text: str) -> None:
        self._data += text.encode()
        self._ends.append(len(self._data))

    def shuffle(self, order: np.ndarray) -> None:
        self._order = order.tolist()

    def __getitem__(self, place: int) -> tuple[str, int]:
        """The document at a place of the order, and its size."""
        number = self._order[place]
        start, end = self._ends[number], self._ends[number + 1]
        return self._data[start:end].decode(), end - start


class DocumentReader:
    """The training documents of one source in one lane, shuffled, epoch after epoch.

    Args:
        dataset: the source's stream; lanes may share it.
        window_bytes: UTF-8 bytes of text that are shuffled together.
        held_out_fraction: share of the documents that are never given.
        max_epochs: end after so many; None goes on for ever.
        stays_open: whether a file is kept open from one window to the next.
        copies: which documents of a piece (see `document_number`) are copies of others, and dropped.
    """

    def __init__(
        self,
        dataset: datasets.IterableDataset,
        source: SourceConfig,
        origin: Origin,
        window_bytes: int,
        held_out_fraction: float,
        max_epochs: int | None,
        stays_open: bool = True,
        copies: Callable[[int], Container[int]] | None = None,
    ) -> None:
        self._rows = RowReader(dataset, origin)
        self._copies = copies
        self._source = source
        self._origin = origin
        self._window_bytes = window_bytes
        self._held_out_fraction = held_out_fraction
        self._max_epochs = max_epochs
        self._stays_open = stays_open
        self._next: State = {"rows": self._rows.place(), "window": 0, "dropped": {}}
        self._begin = self._next
        self._window = _Window()
        self._taken = 0

    def take(self, size: int) -> list[str]:
        """The next documents, until they have `size` UTF-8 bytes or more or the epoch ends; none after the last epoch.

        Raises:
            UserError: the source has no text.
        """
        taken: list[str] = []
        epoch = self.epoch
        while size > 0:
            if self._taken == len(self._window) and not self._read_next_window():
                break
            if taken and self.epoch > epoch:
                break
            epoch = self.epoch
            text, text_size = self._window[self._taken]
            self._taken += 1
            size -= text_size
            taken.append(text)
        return taken

    @property
    def is_untouched(self) -> bool:
        """Whether no document was taken yet, in the whole run."""
        return self._next["window"] == 0

    @property
    def epoch(self) -> int:
        """The epoch of the next document, from 0."""
        return (self._next if self._taken == len(self._window) else self._begin)["rows"]["epoch"]

    @property
    def dropped(self) -> dict[str, int]:
        """Drops by reason, among the rows read so far."""
        return self._next["dropped"]

    def state(self) -> State:
        return {"begin": self._begin, "taken": self._taken}

    def restore(self, state: State) -> None:
        self._window, self._taken = _Window(), 0
        self._begin = self._next = state["begin"]
        self._rows.go(self._begin["rows"])
        if state["taken"]:
            self._read_window()
            self._taken = state["taken"]

    def _read_next_window(self) -> bool:
        """Whether there is another window; it is never empty."""
        # A small source may have nothing for this lane in some epochs, but not in as many as there are lanes.
        last = self._next["rows"]["epoch"] + self._origin.lane.of
        while self._max_epochs is None or self._next["rows"]["epoch"] < self._max_epochs:
            self._begin = self._next
            self._read_window()
            if len(self._window):
                return True
            if self._begin["rows"]["epoch"] > last:
                raise UserError(f"text.sources: '{self._source.source}' ({self._source.path}) has no text to train on")
        return False

    def _read_window(self) -> None:
        """Read the window that begins at `_begin`, where the rows stand; sets what the next one begins at."""
        window = self._window = _Window()  # the last one goes before this one is filled
        self._taken = 0
        dropped: Counter[str] = Counter(self._begin["dropped"])
        number, lane = self._begin["window"], self._origin.lane
        # Lanes take turns in reading a window, where all at once would keep the training waiting.
        size = self._window_bytes if number else self._window_bytes * (lane.number + 1) // lane.of
        while window.size < max(size, 1) and (row := self._rows.next()) is not None:
            copies = self._copies(self._rows.piece) if self._copies is not None else ()
            for part, (text, _) in enumerate(documents(row, self._source, dropped)):
                if is_held_out(text, self._held_out_fraction):
                    continue
                if copies and document_number(self._rows.number, part) in copies:
                    dropped["copy"] += 1
                    continue
                window.add(text)
        window.shuffle(order_of(WINDOW, self._origin, number, size=len(window)))
        self._next = {"rows": self._rows.place(), "window": number + 1, "dropped": dict(sorted(dropped.items()))}
        if not self._stays_open:
            self._rows.close()
