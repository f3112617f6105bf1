"""The rows of one lane: each source gives blocks of rows, and the lane mixes the sources' rows by their weights.

A block is a pure function of the place in the source where it begins, so a source of rows is back where it was with
that place and the number of rows taken from the block. The rows of a block are shuffled: packing sorts them by
length, and a batch should see all lengths.
"""

from __future__ import annotations

import functools
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from mlm_pretrain.config import TextConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.stream.dealing import ROWS, Origin, State, order_of
from mlm_pretrain.stream.pack import Block, Row, Segmenter, pack
from mlm_pretrain.stream.shuffle import DocumentReader


class RowSource(ABC):
    """The rows of one source in one lane. What a block is read from is for the subclass to say."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self._begin: State = {"row": 0, "place": None}
        self._block: Block | None = None
        self._order: list[int] = []
        self._taken = 0
        self._dropped: dict[str, int] = {}
        self._ahead: Future[_Read] | None = None

    @abstractmethod
    def read(self) -> Block | None:
        """The next block; None if the source is at its end."""

    @abstractmethod
    def place(self) -> State:
        """Where the next block begins; its `epoch` is the one of its first document."""

    @abstractmethod
    def go(self, place: State) -> None:
        """Let the next block be the one that begins at `place`."""

    @abstractmethod
    def drops(self) -> dict[str, int]:
        """Drops by reason, among what was read so far."""

    @property
    def dropped(self) -> dict[str, int]:
        """Drops by reason, up to the block in hand."""
        return self._dropped

    @property
    def epoch(self) -> int:
        """The epoch in which the block in hand begins, from 0."""
        return self._begin["place"]["epoch"] if self._begin["place"] else 0

    def read_ahead(self) -> None:
        """Begin to read the next block."""
        if self._ahead is None:
            self._ahead = _readers().submit(self._read)

    def close(self) -> None:
        """Don't begin to read what isn't being read yet."""
        if self._ahead is not None:
            self._ahead.cancel()

    def take(self) -> Row | None:
        """The next row; None if the source is at its end.

        Raises:
            UserError: the source can't be read, or its text gives no tokens.
        """
        if self._taken == len(self._order) and not self._next_block():
            return None
        assert self._block is not None
        number = self._order[self._taken]
        self._taken += 1
        if 2 * self._taken >= len(self._order):
            self.read_ahead()
        return Row(self._block, number, self.origin.source)

    def state(self) -> State:
        return {"begin": self._begin, "taken": self._taken}

    def restore(self, state: State) -> None:
        self._wait()
        begin = state["begin"]
        if begin["place"] is not None:
            self.go(begin["place"])
            self._hold(self._read(), begin["row"])
            self._taken = state["taken"]

    def _next_block(self) -> bool:
        """Take the next block with rows in hand; whether there is one."""
        first_epoch = None
        while True:
            read = self._wait() or self._read()
            if read.block is None:
                # Nothing is ahead of the end: the place and the block in hand stay what they are.
                return False
            self._hold(read, self._begin["row"] + len(self._order))
            if self._order:
                return True
            first_epoch = self.epoch if first_epoch is None else first_epoch
            if self.epoch > first_epoch + self.origin.lane.of:
                raise UserError(f"text.sources.{self.origin.source}: its text gives no tokens")

    def _read(self) -> _Read:
        place = self.place()
        return _Read(place, self.read(), self.drops())

    def _wait(self) -> _Read | None:
        """What was read ahead, if anything was."""
        ahead, self._ahead = self._ahead, None
        return ahead.result() if ahead else None

    def _hold(self, read: _Read, first_row: int) -> None:
        assert read.block is not None, "a block that rows were taken from is there again"
        self._block, self._dropped, self._taken = read.block, read.dropped, 0
        self._begin = {"row": first_row, "place": read.place}
        self._order = order_of(ROWS, self.origin, first_row, size=len(read.block)).tolist()


class _Read(NamedTuple):
    """A block, the place where it begins, and the drops behind it."""

    place: State
    block: Block | None
    dropped: dict[str, int]


@functools.cache
def _readers() -> ThreadPoolExecutor:
    """The threads of this process that read the lanes' next blocks while rows are taken from those in hand.

    Two: one reads text, which takes one core, while the tokenizer has the others for the other's.
    """
    return ThreadPoolExecutor(max_workers=2)


# A forked process has this without its threads, and would wait for it forever.
os.register_at_fork(after_in_child=_readers.cache_clear)


class TextRows(RowSource):
    """Rows tokenised and packed on the way, `chunk_bytes` of text at a time."""

    def __init__(
        self,
        origin: Origin,
        documents: DocumentReader,
        segmenter: Segmenter,
        chunk_bytes: int,
        sequence_length: int,
        packing: bool,
    ) -> None:
        super().__init__(origin)
        self._documents = documents
        self._segmenter = segmenter
        self._chunk_bytes = chunk_bytes
        self._sequence_length = sequence_length
        self._packing = packing

    def read(self) -> Block | None:
        size = self._chunk_bytes
        if self._documents.is_untouched:
            # Lanes take turns in tokenising a chunk, where all at once would keep the training waiting.
            size = size * (self.origin.lane.number + 1) // self.origin.lane.of
        documents = self._documents.take(max(size, 1))
        if not documents:
            return None
        return pack(self._segmenter(documents), self._sequence_length, self._packing)

    def place(self) -> State:
        return {"epoch": self._documents.epoch, **self._documents.state()}

    def go(self, place: State) -> None:
        self._documents.restore(place)

    def drops(self) -> dict[str, int]:
        return self._documents.dropped


class LaneRows:
    """The rows of one lane in training order.

    Args:
        sources: in the order of the config.
        text: gives the weights and where the run ends.
    """

    def __init__(self, sources: Sequence[RowSource], text: TextConfig) -> None:
        self._sources = sources
        self._weights = [source.weight for source in text.sources]
        self._passes = [source.max_epochs or 1 for source in text.sources]
        self._stopping = text.stopping_strategy
        self._ended = [False] * len(sources)
        self._taken = [{"tokens": 0, "documents": 0, "bytes": 0} for _ in sources]

    def read_ahead(self) -> None:
        """Begin to read what the next rows are made of."""
        for source in self._sources:
            source.read_ahead()

    def close(self) -> None:
        """Read nothing ahead any more, because no further row will be taken."""
        for source in self._sources:
            source.close()

    @property
    def is_through(self) -> bool:
        """Whether every source has been read once."""
        return all(ended or source.epoch > 0 for ended, source in zip(self._ended, self._sources, strict=True))

    def take(self, count: int) -> list[Row | None]:
        """The next rows; None stands for each that isn't there because the text is at its end."""
        return [self._next() for _ in range(count)]

    def _next(self) -> Row | None:
        while not all(self._ended):
            number = self._furthest_behind() if len(self._sources) > 1 else 0
            row = self._sources[number].take()
            if row is not None and not self._all_passed():
                taken = self._taken[number]
                tokens, documents, size = row.block.counts[row.number]
                taken["tokens"] += tokens
                taken["documents"] += documents
                taken["bytes"] += size
                return row
            self._ended[number] = True
            if row is not None or self._stopping == "first_exhausted":
                self._ended = [True] * len(self._sources)
        return None

    def _furthest_behind(self) -> int:
        """The source that is furthest behind its share of the tokens."""
        going = [number for number, ended in enumerate(self._ended) if not ended]
        return min(going, key=lambda number: (self._taken[number]["tokens"] / self._weights[number], number))

    def _all_passed(self) -> bool:
        """Whether every source has been through as often as it has to, where that ends the run."""
        return self._stopping == "all_exhausted" and all(
            ended or source.epoch >= passes
            for ended, source, passes in zip(self._ended, self._sources, self._passes, strict=True)
        )

    def counts(self) -> list[dict[str, Any]]:
        """By source: tokens, documents and bytes of the rows taken so far, the epoch, drops by reason."""
        return [
            {**taken, "epoch": source.epoch, "dropped": source.dropped}
            for taken, source in zip(self._taken, self._sources, strict=True)
        ]

    def state(self) -> State:
        return {
            "ended": list(self._ended),
            "taken": [dict(taken) for taken in self._taken],
            "sources": [source.state() for source in self._sources],
        }

    def restore(self, state: State) -> None:
        self._ended = list(state["ended"])
        self._taken = [dict(taken) for taken in state["taken"]]
        for source, source_state in zip(self._sources, state["sources"], strict=True):
            source.restore(source_state)
