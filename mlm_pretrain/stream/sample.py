"""A bounded sample of a run's own training text: the rows that its stream begins with, at most one epoch of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from transformers import PreTrainedTokenizerBase

from mlm_pretrain.config import Config
from mlm_pretrain.console import bars
from mlm_pretrain.models.initialisation.registered import TextSample
from mlm_pretrain.stream.dealing import Lane
from mlm_pretrain.stream.lanes import LaneRows
from mlm_pretrain.stream.opening import open_lanes
from mlm_pretrain.stream.pack import Row
from mlm_pretrain.text.tokenizing.vocabulary import ordinary_token_ids


def sample_text(
    config: Config, tokenizer: PreTrainedTokenizerBase, *, packing: bool, tokens: int, description: str
) -> TextSample:
    """The first rows of a run, until they have so many tokens or every source has been through once.

    A pure function of what the stream's order is one of, and of `tokens`: pieces are dealt and documents shuffled
    over the whole corpus, so that its beginning is like the rest.

    Args:
        tokens: at least one row is read.
        description: of the progress bar.

    Raises:
        UserError: a source can't be read.
    """
    of = config.stream.lanes
    lanes = open_lanes(config, tokenizer, packing, [Lane(number, of) for number in range(of)])
    ids: list[np.ndarray] = []
    lengths: list[np.ndarray] = []
    taken = 0
    with bars.progress(tokens, description, unit="token") as bar:
        for row in _first_rows(lanes):
            block, number = row.block, row.number
            ids.append(block.ids[block.row_starts[number] : block.row_starts[number + 1]])
            lengths.append(block.lengths[block.segment_starts[number] : block.segment_starts[number + 1]])
            taken += row.tokens
            bar.update(min(row.tokens, tokens - bar.n))
            if taken >= tokens:
                break
        bar.update(tokens - bar.n)
    for lane in lanes:
        lane.close()
    return TextSample(np.concatenate(ids), np.concatenate(lengths), ordinary_token_ids(tokenizer))


def _first_rows(lanes: list[LaneRows]) -> Iterator[Row]:
    """Rows in the order of the run; a lane ends after the first epoch of the source of it that takes longest."""
    going = list(lanes)
    while going:
        for lane in list(going):
            (row,) = lane.take(1)
            if row is None or lane.is_through:
                going.remove(lane)
            else:
                yield row
