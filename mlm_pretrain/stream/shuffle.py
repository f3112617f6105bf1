"""Documents in training order: each source is read in windows, and each window is shuffled.

A window is as much of a source as fits in its share of `shuffle_window` bytes; its order depends on (seed, source,
epoch, window) alone. The place in a source is therefore four small things: the dataset's own state where the window
began, the epoch, the window's number, and how many documents of it are taken. To come back, the window is read
again (not tokenised), and the stream goes on behind the documents that were taken.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from mlm_pretrain.config import SourceConfig, TextConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.text.mixture import Document, document, is_held_out, next_source, open_source, source_names

State = dict[str, Any]
"""Plain JSON data, a few hundred bytes."""


class SourceReader:
    """The training documents of one source, epoch after epoch, each epoch in another order."""

    def __init__(
        self, source: SourceConfig, number: int, seed: int, window_bytes: int, held_out_fraction: float
    ) -> None:
        self._source = source
        self._key = (seed, number)
        self._window_bytes = window_bytes
        self._held_out_fraction = held_out_fraction
        self._dataset = open_source(source)
        self._window: list[Document] = []
        self._begin: State = {
            "epoch": 0,
            "window": 0,
            "reader": self._dataset.state_dict(),
            "counts": {"documents": 0, "bytes": 0, "dropped": {}},
        }
        self._first_reader_state = self._begin["reader"]
        self._next = self._begin
        self._taken = self._taken_bytes = 0
        self._rows = iter(self._dataset)

    def take(self) -> Document:
        """The next document.

        Raises:
            UserError: an epoch has passed without a document.
        """
        empty_reads = 0
        while self._taken == len(self._window):
            self._read_window(self._next)
            # The end of an epoch may fall on the end of a window; a whole epoch without text may not be.
            empty_reads = 0 if self._window else empty_reads + 1
            if empty_reads > 2:
                raise UserError(f"text.sources: '{self._source.source}' ({self._source.path}) has no text left")
        read = self._window[self._taken]
        self._taken += 1
        self._taken_bytes += len(read.text.encode())
        return read

    @property
    def epoch(self) -> int:
        """The epoch of the document that was taken last, counted from 0."""
        return self._begin["epoch"]

    def counts(self) -> dict[str, Any]:
        """Documents and bytes taken so far, over all epochs; drops by reason, among the rows read so far."""
        before = self._begin["counts"]
        return {
            "documents": before["documents"] + self._taken,
            "bytes": before["bytes"] + self._taken_bytes,
            "dropped": self._next["counts"]["dropped"],
        }

    def state(self) -> State:
        return {"begin": self._begin, "taken": self._taken}

    def restore(self, state: State) -> None:
        self._dataset.load_state_dict(state["begin"]["reader"])
        self._rows = iter(self._dataset)
        if state["taken"]:
            self._read_window(state["begin"])
        else:
            self._window, self._begin, self._next = [], state["begin"], state["begin"]
        self._taken = state["taken"]
        self._taken_bytes = sum(len(read.text.encode()) for read in self._window[: self._taken])

    def _read_window(self, begin: State) -> None:
        """Read the window that begins at `begin`, where the rows stand; sets what the next one begins at."""
        dropped = Counter(begin["counts"]["dropped"])
        window: list[Document] = []
        size = 0
        ended = True
        for row in self._rows:
            read = document(row, dropped)
            if read is None or is_held_out(read.text, self._held_out_fraction):
                continue
            window.append(read)
            size += len(read.text.encode())
            if size >= self._window_bytes:
                ended = False
                break
        order = np.random.default_rng([*self._key, begin["epoch"], begin["window"]]).permutation(len(window))
        self._window = [window[position] for position in order]
        self._begin, self._taken, self._taken_bytes = begin, 0, 0
        counts = {
            "documents": begin["counts"]["documents"] + len(window),
            "bytes": begin["counts"]["bytes"] + size,
            "dropped": dict(sorted(dropped.items())),
        }
        if ended:
            self._dataset.load_state_dict(self._first_reader_state)
            self._rows = iter(self._dataset)
            reader = self._first_reader_state
        else:
            reader = self._dataset.state_dict()
        self._next = {
            "epoch": begin["epoch"] + ended,
            "window": 0 if ended else begin["window"] + 1,
            "reader": reader,
            "counts": counts,
        }


class DocumentStream:
    """The training documents of all sources in one endless sequence, mixed by the sources' weights in bytes."""

    def __init__(self, text: TextConfig, seed: int, window_bytes: int) -> None:
        self.names = source_names(text)
        self._weights = [source.weight for source in text.sources]
        self._consumed = [0] * len(text.sources)
        total = sum(self._weights)
        self._readers = [
            SourceReader(source, number, seed, max(int(window_bytes * source.weight / total), 1), fraction)
            for number, source in enumerate(text.sources)
            for fraction in [text.validation_fraction]
        ]

    def take(self, size: int) -> list[tuple[str, int]]:
        """The next documents, until they have `size` bytes or more: pairs of text and source number."""
        taken = []
        while size > 0:
            number = next_source(self._consumed, self._weights)
            text = self._readers[number].take().text
            length = len(text.encode())
            self._consumed[number] += length
            size -= length
            taken.append((text, number))
        return taken

    def counts(self) -> dict[str, dict[str, Any]]:
        """By source: epoch, documents and bytes taken, drops by reason."""
        return {
            name: {"epoch": reader.epoch, **reader.counts()}
            for name, reader in zip(self.names, self._readers, strict=True)
        }

    def state(self) -> State:
        return {"consumed": list(self._consumed), "readers": [reader.state() for reader in self._readers]}

    def restore(self, state: State) -> None:
        self._consumed = list(state["consumed"])
        for reader, reader_state in zip(self._readers, state["readers"], strict=True):
            reader.restore(reader_state)
