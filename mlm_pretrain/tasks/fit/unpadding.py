"""Fine-tuning without padding: the rows of a batch go through the encoder as the documents of one packed row.

A head sees the padded batch that it knows; between its call of the encoder and the answer, padding is taken out and
put back, as ModernBERT has it (arXiv 2412.13663). So batches may be drawn at random, whatever the lengths of rows.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mlm_pretrain.models.attention import documents as document_attention
from mlm_pretrain.models.attention.documents import Documents
from mlm_pretrain.models.build import first_position
from mlm_pretrain.runtime.loss import Batch, to_device
from mlm_pretrain.tasks.adapter import Feature, TaskAdapter

LONGEST_TRIAL = 1024
"""Up to so many positions of an encoder, the packed row of the trial is longer than they are, as rows in training may
be: each document's own positions are what counts."""
LONGEST_TOGETHER = 128
"""Tokens of a batch's longest row up to which all rows go through attention together (configs/RECIPES.md)."""


class Unpadding:
    """On a CPU, where the model gives the same logits as with its own attention over padded rows.

    Args:
        model: in fp32, before Accelerate wraps it; elsewhere than in steps it stays as it is.
        features: rows to try it on.
    """

    def __init__(self, model: PreTrainedModel, adapter: TaskAdapter, features: Sequence[Feature]) -> None:
        self._model = model
        self._encoder: nn.Module = model.base_model
        self._own = model.config._attn_implementation
        self._forward = inspect.signature(self._encoder.forward)
        parameters = self._forward.parameters.values()
        self._further = next((each.name for each in parameters if each.kind is each.VAR_KEYWORD), "")
        self.works = self._is_equal(adapter, features)

    @contextlib.contextmanager
    def in_step(self) -> Iterator[None]:
        """For the forward and backward pass of a batch."""
        if not self.works:
            yield
            return
        with self._hooked():
            yield

    @contextlib.contextmanager
    def _hooked(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            stack.callback(self._encoder.register_forward_pre_hook(self._pack, with_kwargs=True).remove)
            stack.callback(self._encoder.register_forward_hook(self._unpack).remove)
            if (pooler := getattr(self._encoder, "pooler", None)) is not None:
                stack.callback(pooler.register_forward_pre_hook(self._unpack_for_pooler).remove)
            stack.callback(self._model.set_attn_implementation, self._own)
            self._model.set_attn_implementation(document_attention.NAME)
            yield

    def _pack(self, _encoder: nn.Module, args: Any, kwargs: Any) -> tuple[tuple[()], dict[str, Any]]:
        inputs = dict(self._forward.bind(*args, **kwargs).arguments)
        further = inputs.pop(self._further, {})
        places = self._places = _Places(inputs["attention_mask"])
        for name in ("input_ids", "token_type_ids"):
            if inputs.get(name) is not None:
                inputs[name] = places.pack(inputs[name])
        config = self._model.config
        positions = places.positions + first_position(config.model_type, config.pad_token_id)
        packed = {"attention_mask": None, "position_ids": positions, "documents": places.documents}
        return (), {**inputs, **further, **packed}

    def _unpack(self, _encoder: nn.Module, _inputs: Any, outputs: Any) -> Any:
        outputs["last_hidden_state"] = self._places.spread(outputs["last_hidden_state"])
        return outputs

    def _unpack_for_pooler(self, _pooler: nn.Module, inputs: Any) -> tuple[Tensor]:
        return (self._places.spread(inputs[0]),)

    def _is_equal(self, adapter: TaskAdapter, features: Sequence[Feature]) -> bool:
        takes_positions = "position_ids" in self._forward.parameters
        if self._model.device.type != "cpu" or self._own != "sdpa" or not (takes_positions and self._further):
            return False
        by_length = sorted(features, key=lambda feature: len(feature["input_ids"]))
        # The shortest beside the longest, so that there is padding.
        rows, longest = [by_length[0], by_length[-1]], by_length[-1]
        positions = getattr(self._model.config, "max_position_embeddings", None) or 0
        if positions <= LONGEST_TRIAL:
            rows += [longest] * (positions // len(longest["input_ids"]))
        batch = to_device(adapter.collate(rows), self._model.device)
        training = self._model.training
        self._model.eval()
        try:
            own = self._logits(adapter, batch)
            with self._hooked():
                return torch.allclose(self._logits(adapter, batch), own, rtol=1e-3, atol=1e-4)
        except (RuntimeError, TypeError, ValueError, AttributeError, LookupError, AssertionError):
            return False  # the model doesn't take packed rows
        finally:
            self._model.train(training)

    @torch.no_grad()
    def _logits(self, adapter: TaskAdapter, batch: Batch) -> Tensor:
        logits = adapter.logits(self._model, batch)
        # Of padding nobody asks.
        return logits[batch["attention_mask"].bool()] if logits.ndim > 2 else logits


class _Places:
    """Where the tokens of a padded batch [B, L] stand in a row [1, T] without padding.

    Args:
        attention_mask: [B, L], 1 at tokens.
    """

    def __init__(self, attention_mask: Tensor) -> None:
        rows, length = attention_mask.shape
        self._shape = rows, length
        self._places = attention_mask.flatten().nonzero().squeeze(1)
        self.positions = (self._places % length)[None]
        """[1, T], from 0 in each row."""
        starts = nn.functional.pad(attention_mask.sum(dim=1).cumsum(dim=0), (1, 0)).int()
        self.documents = Documents(starts, longest=length, together=length <= LONGEST_TOGETHER)

    def pack(self, padded: Tensor) -> Tensor:
        """[B, L] → [1, T]"""
        return padded.flatten()[self._places][None]

    def spread(self, packed: Tensor) -> Tensor:
        """[1, T, H] → [B, L, H], zero at padding."""
        rows, length = self._shape
        padded = packed.new_zeros(rows * length, packed.shape[-1])
        return padded.index_copy(0, self._places, packed[0]).view(rows, length, -1)
