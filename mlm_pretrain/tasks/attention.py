"""How attention is computed in fine-tuning: on a CPU, as plain matrix products where the rows of a batch are short."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mlm_pretrain.models import product_attention
from mlm_pretrain.models.document_attention import LONGEST_PRODUCT
from mlm_pretrain.tasks.adapter import Feature, TaskAdapter
from mlm_pretrain.training.loss import Batch, to_device


class TrainingAttention:
    """The backward pass of PyTorch's fused attention takes a quarter of a step on short rows on a CPU, whose products
    alone take a fraction of that (configs/RECIPES.md).

    Args:
        model: in fp32, before Accelerate wraps it; elsewhere than in steps it keeps the attention that it has.
        features: rows to try it on: only a model that gives the same logits with both takes the other.
    """

    def __init__(self, model: PreTrainedModel, adapter: TaskAdapter, features: Sequence[Feature]) -> None:
        self._model = model
        self._own = model.config._attn_implementation
        self._other = product_attention.NAME if self._is_equal(adapter, features) else self._own

    @contextlib.contextmanager
    def of_step(self, batch: Batch) -> Iterator[None]:
        """For the forward and backward pass of a batch."""
        if self._other == self._own or batch["input_ids"].shape[1] > LONGEST_PRODUCT:
            yield
            return
        self._model.set_attn_implementation(self._other)
        try:
            yield
        finally:
            self._model.set_attn_implementation(self._own)

    def _is_equal(self, adapter: TaskAdapter, features: Sequence[Feature]) -> bool:
        if self._model.device.type != "cpu" or self._own != "sdpa":
            return False
        # The shortest and the longest: with padding. No more than the positions that products serve.
        by_length = sorted(features, key=lambda feature: len(feature["input_ids"]))
        short = [row for row in (by_length[0], by_length[-1]) if len(row["input_ids"]) <= LONGEST_PRODUCT]
        if not short:
            return False
        batch = to_device(adapter.collate(short), self._model.device)
        training = self._model.training
        self._model.eval()
        try:
            own = self._logits(adapter, batch)
            self._model.set_attn_implementation(product_attention.NAME)
            return torch.allclose(self._logits(adapter, batch), own, rtol=1e-3, atol=1e-4)
        except (RuntimeError, TypeError, ValueError, AttributeError):  # the model doesn't take another attention
            return False
        finally:
            self._model.set_attn_implementation(self._own)
            self._model.train(training)

    @torch.no_grad()
    def _logits(self, adapter: TaskAdapter, batch: Batch) -> Tensor:
        logits = adapter.logits(self._model, batch)
        # Of padding nobody asks.
        return logits[batch["attention_mask"].bool()] if logits.ndim > 2 else logits
