"""Attention as plain matrix products: scores, softmax, values.

For rows of a few hundred tokens on a CPU the two products are fast, and the backward pass of PyTorch's fused kernel is
not. Registered with transformers under the name `product`; masks are as for scaled-dot-product attention, boolean.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

NAME = "product"


def product_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """An attention function as transformers calls it.

    Args:
        query: [B, heads, L, D]; key and value may have fewer heads, each for several of the query's.
        attention_mask: bool, broadcastable to [B, heads, L, L]: who is seen. Each query sees something.

    Returns:
        [B, L, heads, D], and no weights.
    """
    out = attend(query, key, value, attention_mask, scaling, dropout if module.training else 0.0)
    return out.transpose(1, 2).contiguous(), None


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None, dropout: float
) -> Tensor:
    """Softmax in float32, the products in the precision of the inputs; [B, heads, L, D]."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (tensor.repeat_interleave(groups, dim=1) for tensor in (key, value))
    scores = torch.matmul(query * (scaling or query.shape[-1] ** -0.5), key.transpose(2, 3)).float()
    if mask is not None:
        scores = torch.where(mask, scores, torch.finfo(torch.float32).min)
    weights = torch.softmax(scores, dim=-1).to(value.dtype)
    return torch.matmul(nn.functional.dropout(weights, dropout), value)


AttentionInterface.register(NAME, product_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
