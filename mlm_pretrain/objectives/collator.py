"""The masking of this package as a data collator for `transformers.Trainer`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info
from transformers import PreTrainedTokenizerFast

from mlm_pretrain.config import ObjectiveConfig
from mlm_pretrain.objectives.base import Rows
from mlm_pretrain.objectives.mlm import MaskedLM
from mlm_pretrain.objectives.random import RowRandom


class MaskingCollator:
    """A drop-in for `DataCollatorForLanguageModeling(tokenizer, mlm=True)`.

    Args:
        tokenizer: with a mask and a pad token.
        mlm_probability: probability that a token is chosen.
        masking: `token`, `whole_word` or `span`; see `MaskedLM`.
        mask_count: `exact` chooses ⌊mlm_probability × tokens⌋ of each row.
        mask_replace_prob: share of the chosen tokens that become the mask token.
        random_replace_prob: share that become a random token; the others stay as they are.
        pad_to_multiple_of: pad the batch's length up to a multiple.
        seed: by default masks follow torch's random state (`TrainingArguments.seed`, and the seeds of dataloader
            workers). With a seed they follow it and the number of rows that this collator has seen.

    Raises:
        pydantic.ValidationError: a value is out of range.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        mlm_probability: float = 0.15,
        *,
        masking: Literal["token", "whole_word", "span"] = "token",
        mask_count: Literal["bernoulli", "exact"] = "bernoulli",
        mask_replace_prob: float = 0.8,
        random_replace_prob: float = 0.1,
        pad_to_multiple_of: int | None = None,
        seed: int | None = None,
    ) -> None:
        config = ObjectiveConfig(
            mlm_probability=mlm_probability,
            masking=masking,
            mask_count=mask_count,
            mask_replace_prob=mask_replace_prob,
            random_replace_prob=random_replace_prob,
        )
        self._objective = MaskedLM(config, tokenizer)
        self._pad_id = int(tokenizer.pad_token_id)
        self._pad_left = tokenizer.padding_side == "left"
        self._multiple = pad_to_multiple_of or 1
        self._seed = seed
        self._seen = 0

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Pad and mask a batch.

        Args:
            features: each with `input_ids`; `attention_mask` and `special_tokens_mask` count where they are given.

        Returns:
            `input_ids`, `attention_mask`, `labels` (-100 where nothing was chosen): [B, L] int64.
        """
        longest = max(len(feature["input_ids"]) for feature in features)
        length = -(-longest // self._multiple) * self._multiple
        input_ids = self._padded(features, "input_ids", length, fill=self._pad_id)
        attention_mask = self._padded(features, "attention_mask", length, fill=0)
        special = self._padded(features, "special_tokens_mask", length, fill=0)
        rows = Rows(
            input_ids=input_ids,
            # Neither padding nor what the caller calls special is text.
            segment_ids=np.where((attention_mask == 1) & (special == 0), 1, 0),
            position_ids=np.zeros_like(input_ids),
            source_ids=np.zeros_like(input_ids),
            index=self._row_numbers(len(features)),
            step=0,
        )
        seed = int(torch.randint(2**63 - 1, ()).item()) if self._seed is None else self._seed
        batch = self._objective.corrupt(rows, RowRandom(seed))
        arrays = {"input_ids": batch["input_ids"], "attention_mask": attention_mask, "labels": batch["labels"]}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def _row_numbers(self, count: int) -> np.ndarray:
        """Numbers that differ between the processes and dataloader workers of a run, which may share a seed."""
        worker = get_worker_info()
        place = int(os.environ.get("RANK", "0")) << 8 | (worker.id + 1 if worker else 0)
        numbers = self._seen + np.arange(count, dtype=np.int64)
        self._seen += count
        return place << 40 | numbers

    def _padded(self, features: Sequence[Mapping[str, Any]], key: str, length: int, fill: int) -> np.ndarray:
        """[B, L] int64. A missing `attention_mask` is all ones, a missing `special_tokens_mask` all zeros."""
        padded = np.full((len(features), length), fill, dtype=np.int64)
        for row, feature in zip(padded, features, strict=True):
            size = len(feature["input_ids"])
            place = slice(length - size, length) if self._pad_left else slice(size)
            row[place] = feature.get(key, key == "attention_mask")
        return padded
