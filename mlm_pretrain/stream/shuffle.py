"""Documents of one source in one lane, in training order: what the lane is dealt (`dealing.py`) is shuffled in windows.

A window is as much of the lane's part as fits in its share of `shuffle_window` bytes, and its order depends on (seed,
source, lane, number of the window). So the place in a source is a few small numbers: epoch, piece, the dataset's own
state within the piece where the window began, and how many documents of the window are taken. To come back, the window
is read again (not tokenised), and the stream resumes after the documents that were taken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Sequence

import datasets
import numpy as np

from mlm_pretrain.config import SourceConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.stream.dealing import WINDOW, Origin, RowReader, State, document_number, order_of
from mlm_pretrain.text.mixture import documents, is_held_out

ORDER = 3
"""To be raised with every change of the code that gives runs another order (of pieces, windows, rows): a run that was
begun before is then refused, not continued with other batches."""


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
