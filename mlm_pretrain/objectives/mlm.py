"""Masked language modelling (BERT, arXiv 1810.04805), masked anew for every row of the run."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from mlm_pretrain.config import ObjectiveConfig, Ramp
from mlm_pretrain.errors import UserError
from mlm_pretrain.models.ids import vocabulary_size
from mlm_pretrain.objectives.base import IGNORE, OBJECTIVES, Objective, Rows, rate_at
from mlm_pretrain.objectives.random import RowRandom
from mlm_pretrain.text.tokenizing.tokenizer import ordinary_token_ids, special_token_ids, word_start_tables


class MaskedLM:
    """Chooses tokens, hides most of them, and asks for all of them.

    Special tokens and padding are never chosen. What is chosen depends on `masking`:

    - `token`: each token with the probability of the rate; under `mask_count: exact`, ⌊rate × tokens of the row⌋ of
      them (the row's padding isn't counted), or all that can be chosen where these are fewer.
    - `whole_word`: all tokens of a word or none.
    - `span`: runs of up to `span_max_length` words, their lengths geometric (SpanBERT, arXiv 1907.10529), within one
      document and between special tokens. The row is laid out in such spans, of which some are chosen; two may touch.

    Every word or span is chosen with the probability of the rate, and the row's share of chosen tokens is the rate, up
    to the length of a word or span. Of the tokens chosen, `mask_replace_prob` become [MASK], `random_replace_prob` an
    ordinary token, the others stay; that is drawn per token, for spans per span.
    """

    def __init__(
        self, config: ObjectiveConfig, tokenizer: PreTrainedTokenizerFast, sequence_length: int | None = None
    ) -> None:
        """`sequence_length` is the tokens of a row, L, where they are known to be enough for an exact count.

        Raises:
            UserError: `mask_count: exact` asks for less than one token a row.
        """
        self._config = config
        rate = config.mlm_probability
        self._highest_rate = max(rate.start, rate.end) if isinstance(rate, Ramp) else rate
        exact = config.mask_count == "exact"
        if exact and sequence_length is not None and _floor(self._highest_rate * sequence_length) < 1:
            raise UserError(
                f"objective.mlm_probability: {self._highest_rate} of {sequence_length} tokens is less than one, "
                "and mask_count is exact; raise it, or stream.sequence_length"
            )
        self._mask_id = int(tokenizer.mask_token_id)
        self._ordinary = ordinary_token_ids(tokenizer)
        self._special = np.zeros(vocabulary_size(tokenizer), dtype=bool)
        self._special[special_token_ids(tokenizer)] = True
        self._words = None if config.masking == "token" else word_start_tables(tokenizer)

    def corrupt(self, rows: Rows, rng: RowRandom) -> dict[str, np.ndarray]:
        """Mask the rows.

        Returns:
            `input_ids` [B, L] int64, masked; `labels` [B, L] int64, the hidden ids, -100 elsewhere; the rows' own
            `segment_ids`, `position_ids`, `source_ids`. Under `mask_count: exact` also `label_positions` [B, k]
            int64, ascending, and `label_ids` [B, k] int64, with k = ⌊highest rate × L⌋ and -100 in unused slots,
            which point at the last position.
        """
        length, masking = rows.input_ids.shape[1], self._config.masking
        draws = rng.uniform(rows.index, {"token": 3, "whole_word": 4, "span": 5}[masking] * length)
        choice, fate, replacement, *more = np.split(draws, draws.shape[1] // length, axis=1)
        maskable = (rows.segment_ids > 0) & ~self._special[rows.input_ids]
        rate = rate_at(self._config.mlm_probability, rows.step)
        batch: dict[str, np.ndarray] = {}
        if self._config.mask_count == "exact":
            chosen, positions = self._choose_exactly(rows, maskable, rate, choice)
            used = np.arange(positions.shape[1]) < chosen.sum(axis=1, keepdims=True)
            ids = np.take_along_axis(rows.input_ids, positions, axis=1)
            batch |= {"label_positions": positions, "label_ids": np.where(used, ids, IGNORE)}
        elif self._words is None:
            chosen = maskable & (choice < rate)
        else:
            starts = self._words.word_starts(rows.input_ids, rows.segment_ids)
            if masking == "span":
                starts = self._span_starts(starts, maskable, rows.segment_ids, draws=more[1])
            first = np.maximum.accumulate(np.where(starts, np.arange(length), 0), axis=1)
            chosen = _choose_units(first, maskable, rate, choice, turn=more[0][:, :1])
            if masking == "span":
                fate = np.take_along_axis(fate, first, axis=1)
        return batch | {
            "input_ids": self._hide(rows.input_ids, chosen, fate, replacement),
            "labels": np.where(chosen, rows.input_ids, IGNORE),
            "segment_ids": rows.segment_ids,
            "position_ids": rows.position_ids,
            "source_ids": rows.source_ids,
        }

    def loss(
        self, model: Callable[[dict[str, Tensor]], Tensor], batch: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Summed cross-entropy in float32 (nats), the number of labels (int64), and `correct`: hits at first guess.

        Without a label the sum is 0, connected to the graph.
        """
        labels = batch["label_ids"].flatten() if "label_ids" in batch else batch["labels"][batch["labels"] != IGNORE]
        logits = model(batch).float()  # argmax, too, is several times faster in float32 than in bfloat16 on a CPU
        total = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
        correct = (logits.detach().argmax(-1) == labels).sum()
        return total, (labels != IGNORE).sum(), {"correct": correct}

    def _choose_exactly(
        self, rows: Rows, maskable: np.ndarray, rate: float, choice: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Which tokens are chosen, [B, L] bool, and where they stand, [B, k]; unused slots have the last position."""
        length = choice.shape[1]
        slots = int(_floor(self._highest_rate * length))
        tokens = (rows.segment_ids > 0).sum(axis=1)
        wanted = np.minimum(_floor(rate * tokens), np.minimum(maskable.sum(axis=1), slots))
        score = np.where(maskable, choice, 2.0)
        lowest = np.argpartition(score, slots - 1, axis=1)[:, :slots]
        order = np.argsort(np.take_along_axis(score, lowest, axis=1), axis=1)
        positions = np.take_along_axis(lowest, order, axis=1)
        positions[np.arange(slots) >= wanted[:, None]] = length
        positions.sort(axis=1)
        chosen = np.zeros((len(choice), length + 1), dtype=bool)
        np.put_along_axis(chosen, positions, True, axis=1)
        return chosen[:, :length], np.minimum(positions, length - 1)

    def _span_starts(
        self, word_starts: np.ndarray, maskable: np.ndarray, segment_ids: np.ndarray, draws: np.ndarray
    ) -> np.ndarray:
        """Where spans begin, [B, L] bool: every so many words, and at each document and special token."""
        # The inverse of the geometric distribution function, cut off at the longest span.
        stop, longest = self._config.span_geometric_p, self._config.span_max_length
        lengths = np.ceil(np.log1p(-draws * (1.0 - (1.0 - stop) ** longest)) / math.log(1.0 - stop))
        lengths = np.clip(lengths, 1, longest).astype(np.int64)
        first_words = np.cumsum(lengths, axis=1) - lengths
        is_first = np.zeros((len(draws), draws.shape[1] + 1), dtype=bool)
        np.put_along_axis(is_first, np.minimum(first_words, draws.shape[1]), True, axis=1)
        word = np.cumsum(word_starts, axis=1) - 1
        starts = word_starts & np.take_along_axis(is_first, word, axis=1)
        starts |= ~maskable
        starts[:, 1:] |= (segment_ids[:, 1:] != segment_ids[:, :-1]) | ~maskable[:, :-1]
        return starts

    def _hide(self, input_ids: np.ndarray, chosen: np.ndarray, fate: np.ndarray, replacement: np.ndarray) -> np.ndarray:
        hidden = input_ids.copy()
        to_mask = self._config.mask_replace_prob
        hidden[chosen & (fate < to_mask)] = self._mask_id
        random = chosen & (fate >= to_mask) & (fate < to_mask + self._config.random_replace_prob)
        # In float64: a float32 product may round up to the size of the vocabulary.
        hidden[random] = self._ordinary[(replacement[random].astype(np.float64) * len(self._ordinary)).astype(np.int64)]
        return hidden


@OBJECTIVES.register("mlm")
def masked_lm(config: ObjectiveConfig, tokenizer: PreTrainedTokenizerFast, sequence_length: int) -> Objective:
    return MaskedLM(config, tokenizer, sequence_length)


def _choose_units(
    first: np.ndarray, maskable: np.ndarray, rate: float, choice: np.ndarray, turn: np.ndarray
) -> np.ndarray:
    """Choose words or spans so that their tokens are the given share of each row's; [B, L] bool.

    The row's units are laid end to end in random order round a circle, and those that begin within an arc of the
    rate's length are chosen; the arc begins at random (`turn`, [B, 1]). So the chance of a unit is the rate exactly,
    whatever its length.

    Args:
        first: [B, L], where the unit of each token begins.
        choice: [B, L], a draw for each token, of which the first of a unit counts.
    """
    order = np.argsort(np.where(maskable, np.take_along_axis(choice, first, axis=1), 2.0), axis=1, kind="stable")
    place = np.empty_like(order)
    np.put_along_axis(place, order, np.arange(order.shape[1])[None], axis=1)
    around = np.maximum(maskable.sum(axis=1, keepdims=True), 1)
    begins = (np.take_along_axis(place, first, axis=1) + turn * around) % around
    return maskable & (begins < rate * around)


def _floor(product: Any) -> Any:
    """⌊rate × count⌋, of numbers or arrays, where the product's rounding may have fallen short of a whole number."""
    return np.floor(np.asarray(product) + 1e-9).astype(np.int64)
