"""Attention over the documents of packed rows without a mask over the whole row.

A dense mask costs the square of a row's length, whatever the documents' own. Registered with transformers under the
name `documents`, this attends within each document alone:

- on CUDA, in bf16 or fp16, by PyTorch's variable-length flash attention (`torch.nn.attention.varlen`, from 2.11 on);
- elsewhere by length: documents of about the same length are put into a batch of their own, whose padding is at most
  a quarter, and go through attention together.

Sliding windows are kept: a layer says its own.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from mlm_pretrain.models.attention.product import attend as attend_by_products

NAME = "documents"
LONGEST_PRODUCT = 256
"""Tokens of a document up to which plain products are faster than the fused kernel on a CPU (configs/RECIPES.md)."""


@dataclass
class Documents:
    """Where the documents of a batch [B, L] stand, in it flattened to T = B · L tokens; padding counts as one."""

    starts: Tensor
    """[N + 1] int32: where each begins, and T."""
    longest: int
    """An upper bound of their lengths that doesn't depend on the data: L."""
    together: bool = False
    """By length: put all into one group. For a few short documents, padding there costs less than more groups do."""

    @functools.cached_property
    def groups(self) -> Groups:
        return Groups(self.starts, self.together)


class Groups:
    """Documents of about the same length together: every token has a slot in some group, and some slots are empty."""

    def __init__(self, starts: Tensor, together: bool = False) -> None:
        first = starts[:-1].long()
        lengths = starts.diff().long()
        widths = lengths.max().expand_as(lengths) if together else _width_of(lengths)
        self.parts: list[tuple[int, Tensor]] = []
        """Of each group its width w and the lengths of its n documents, [n]."""
        slots, slot_of = [], torch.empty(int(starts[-1]), dtype=torch.int64, device=starts.device)
        filled = 0
        for width in widths.unique().tolist():
            chosen = widths == width
            along = torch.arange(width, device=starts.device)
            there = along < lengths[chosen, None]
            tokens = torch.where(there, first[chosen, None] + along, 0)
            slot_of[tokens[there]] = filled + there.flatten().nonzero().squeeze(1)
            slots.append(tokens.flatten())
            self.parts.append((width, lengths[chosen]))
            filled += tokens.numel()
        self.slots = torch.cat(slots)
        """[S] int64: the token in each slot; 0 in empty ones."""
        self.slot_of = slot_of
        """[T] int64: the slot of each token."""
        self._masks: dict[tuple[int, int | None], Tensor | None] = {}

    def mask(self, number: int, window: int | None) -> Tensor | None:
        """Which keys [n, 1, 1 or w, w] a group's queries see, bool; None if that is all.

        Args:
            window: how far to each side; None is without bound.
        """
        key = (number, window)
        if key not in self._masks:
            self._masks[key] = self._make_mask(*key)
        return self._masks[key]

    def _make_mask(self, number: int, window: int | None) -> Tensor | None:
        width, lengths = self.parts[number]
        along = torch.arange(width, device=lengths.device)
        mask = None if bool((lengths == width).all()) else (along < lengths[:, None])[:, None, None]
        if window is not None and window < width - 1:
            near = (along[:, None] - along).abs() <= window
            # A query in an empty slot has to see something, or its softmax would be NaN.
            mask = near[None, None] if mask is None else (mask & near) | (along >= lengths[:, None])[:, None, :, None]
        return mask


def _width_of(lengths: Tensor) -> Tensor:
    """Lengths rounded up to one of eight steps between a power of two and the next; by less than a quarter."""
    step = 2 ** (torch.log2(lengths.clamp_min(1).double()).floor() - 2).clamp_min(0)
    return ((lengths / step).ceil() * step).long()


class _IntoSlots(torch.autograd.Function):
    """[T, …] → [S, …]. Each token has one slot, so that the gradient is a gather, where that of indexing adds up."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, slots: Tensor, slot_of: Tensor) -> Tensor:
        ctx.save_for_backward(slot_of)
        return tokens.index_select(0, slots)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (slot_of,) = ctx.saved_tensors
        return gradients[0].index_select(0, slot_of), None, None


class _FromSlots(torch.autograd.Function):
    """[S, …] → [T, …]; empty slots get no gradient."""

    @staticmethod
    def forward(ctx: Any, slotted: Tensor, slot_of: Tensor) -> Tensor:
        ctx.save_for_backward(slot_of)
        ctx.shape = slotted.shape
        return slotted.index_select(0, slot_of)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (slot_of,) = ctx.saved_tensors
        return gradients[0].new_zeros(ctx.shape).index_copy_(0, slot_of, gradients[0]), None


def document_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    documents: Documents | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """An attention function as transformers calls it.

    Args:
        query: [B, heads, L, D]; key and value may have fewer heads, each for several of the query's.
        sliding_window: as flash attention counts in transformers: one more than the distance that is seen.
        documents: where the batch's documents stand.

    Returns:
        [B, L, heads, D], and no weights.
    """
    assert documents is not None, "the batch says where its documents are"
    rows, heads, length, size = query.shape
    dtype = query.dtype
    if torch.is_autocast_enabled(query.device.type):
        # As autocast does for PyTorch's own attention functions; it knows nothing of these.
        dtype = torch.get_autocast_dtype(query.device.type)
    flat = [tensor.transpose(1, 2).reshape(rows * length, -1, size).to(dtype) for tensor in (query, key, value)]
    window = None if sliding_window is None else sliding_window - 1
    out = _within_documents(flat, documents, window, scaling, dropout)
    return out.reshape(rows, length, heads, size), None


@torch.compiler.disable
def _within_documents(
    flat: list[Tensor], documents: Documents, window: int | None, scaling: float | None, dropout: float
) -> Tensor:
    """Query, key and value [T, heads, D] → [T, heads, D]. Not compiled: every batch has another number of documents."""
    attend = _by_kernel if can_use_kernel(flat[0].device, flat[0].dtype, dropout) else _by_length
    return attend(flat, documents, window, scaling, dropout)


def can_use_kernel(device: torch.device, dtype: torch.dtype, dropout: float) -> bool:
    """Whether variable-length flash attention takes this."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16) or dropout:
        return False
    return _varlen_attn() is not None and torch.cuda.get_device_capability(device) >= (8, 0)


@functools.cache
def _varlen_attn() -> Callable[..., Tensor] | None:
    """PyTorch's function, where there is one that knows sliding windows."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn if "window_size" in inspect.signature(varlen_attn).parameters else None


def _by_kernel(
    flat: list[Tensor], documents: Documents, window: int | None, scaling: float | None, dropout: float
) -> Tensor:
    varlen_attn = _varlen_attn()
    assert varlen_attn is not None
    query, key, value = flat
    if key.shape[1] != query.shape[1]:  # not by `enable_gqa`, which came after the windows
        key, value = (tensor.repeat_interleave(query.shape[1] // tensor.shape[1], dim=1) for tensor in (key, value))
    starts, longest = documents.starts, documents.longest
    reach = -1 if window is None else window
    return varlen_attn(query, key, value, starts, starts, longest, longest, scale=scaling, window_size=(reach, reach))


def _by_length(
    flat: list[Tensor], documents: Documents, window: int | None, scaling: float | None, dropout: float
) -> Tensor:
    groups = documents.groups
    slotted = [_IntoSlots.apply(tensor, groups.slots, groups.slot_of) for tensor in flat]
    outs, start = [], 0
    for number, (width, lengths) in enumerate(groups.parts):
        end = start + width * len(lengths)
        query, key, value = (tensor[start:end].unflatten(0, (-1, width)).transpose(1, 2) for tensor in slotted)
        mask = groups.mask(number, window)
        if width <= LONGEST_PRODUCT and query.device.type == "cpu":
            out = attend_by_products(query, key, value, mask, scaling, dropout)
        else:
            out = nn.functional.scaled_dot_product_attention(
                query,
                key,
                value,
                attn_mask=mask,
                dropout_p=dropout,
                scale=scaling,
                enable_gqa=key.shape[1] != query.shape[1],
            )
        outs.append(out.transpose(1, 2).flatten(0, 1))
        start = end
    return _FromSlots.apply(torch.cat(outs), groups.slot_of)


def _no_mask(*args: Any, **kwargs: Any) -> None:
    return None


AttentionInterface.register(NAME, document_attention)
AttentionMaskInterface.register(NAME, _no_mask)
