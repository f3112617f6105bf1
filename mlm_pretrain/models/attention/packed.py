"""Documents that share a row without seeing each other.

The mask is made from `segment_ids`: a token attends within its segment, and in sliding-window layers only to its
neighbours there. Positions begin anew with each document. Whether a model honours both is not taken on trust: a
packed row is run beside its documents alone, and where the logits differ, rows are not packed for that model.

Short rows take the model's own attention with a mask over the row. Where rows are long, attention is within each
document alone (`document_attention`), if that gives the same logits.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mlm_pretrain.console import telemetry
from mlm_pretrain.errors import first_line
from mlm_pretrain.models.attention import documents as document_attention
from mlm_pretrain.models.attention import product as product_attention
from mlm_pretrain.models.build import first_position

LONGEST_MASKED_ROW = 512
"""Tokens of a row up to which a mask over the row costs less than sorting its documents by length, and on a GPU no more
than the variable-length kernel (configs/RECIPES.md)."""


def model_inputs(model: PreTrainedModel, batch: dict[str, Tensor], packing: bool) -> dict[str, Any]:
    """The keyword arguments of the model's forward pass.

    Args:
        batch: `input_ids` [B, L], `segment_ids` [B, L] (0 is padding), `position_ids` [B, L].
        packing: whether rows hold several documents.
    """
    segments = batch["segment_ids"]
    first = first_position(model.config.model_type, model.config.pad_token_id)
    if packing and model.config._attn_implementation == document_attention.NAME:
        starts = batch["document_starts"] if "document_starts" in batch else document_starts(segments)
        documents = document_attention.Documents(starts, longest=segments.shape[1])
        position_ids = batch["position_ids"] + first
        return {"input_ids": batch["input_ids"], "position_ids": position_ids, "documents": documents}
    if not packing:
        real = segments > 0
        # In a row of padding alone, padding is attended to: no row of the softmax may be empty.
        return {"input_ids": batch["input_ids"], "attention_mask": (real | ~real.any(dim=1, keepdim=True)).long()}
    # Padding attends to padding, so that no row of the softmax is empty.
    same = segments[:, None, :, None] == segments[:, None, None, :]
    mask: Tensor | dict[str, Tensor] = _as_taken(model, same)
    if "sliding_attention" in (getattr(model.config, "layer_types", None) or ()):
        place = torch.arange(segments.shape[1], device=segments.device)
        near = (place[:, None] - place[None, :]).abs() <= model.config.sliding_window
        mask = {"full_attention": mask, "sliding_attention": _as_taken(model, same & near)}
    return {
        "input_ids": batch["input_ids"],
        "attention_mask": mask,
        "position_ids": batch["position_ids"] + first,
    }


def document_starts(segment_ids: Tensor) -> Tensor:
    """Where the documents of a batch [B, L] begin in it, flattened, and its end; int32 [N + 1]. A row's padding
    counts as one."""
    rows, length = segment_ids.shape
    begins = torch.ones(rows, length, dtype=torch.bool, device=segment_ids.device)
    begins[:, 1:] = segment_ids[:, 1:] != segment_ids[:, :-1]
    end = torch.tensor([rows * length], device=segment_ids.device)
    return torch.cat([begins.flatten().nonzero().squeeze(1), end]).int()


def _as_taken(model: PreTrainedModel, mask: Tensor) -> Tensor:
    """A boolean mask as the model's attention takes it: eager attention adds it to its scores."""
    if model.config._attn_implementation != "eager":
        return mask
    dtype = model.get_input_embeddings().weight.dtype
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)


def supports_packing(model: PreTrainedModel) -> bool:
    """Whether documents of a packed row keep the logits that they have alone, tried on this model now."""
    takes_positions = "position_ids" in inspect.signature(model.base_model.forward).parameters
    if not (takes_positions and getattr(model, "_supports_attention_backend", False)):
        return False
    return _fault(model, model.config._attn_implementation) is None


def use_document_attention(model: PreTrainedModel, device: torch.device, length: int, half: bool) -> bool:
    """Let a model that takes packed rows attend within documents, where that is faster and gives the same logits.

    Args:
        length: tokens of a row.
        half: whether attention is computed in bf16 or fp16.
    """
    dtype = torch.bfloat16 if half else torch.float32
    if length <= LONGEST_MASKED_ROW:
        return False
    own = model.config._attn_implementation
    fault = _fault(model, document_attention.NAME)
    if fault:
        model.set_attn_implementation(own)
    if fault and document_attention.can_use_kernel(device, dtype, dropout=0.0):
        telemetry.warn(f"the variable-length flash kernel is not used: {fault}")
    return not fault


def candidate_attentions(model: PreTrainedModel, device: torch.device) -> list[str]:
    """What a model that takes packed rows may use in place of its own attention, that first: what is faster depends
    on the machine. All give the same logits."""
    own = model.config._attn_implementation
    if device.type != "cpu" or own != "sdpa":
        return [own]
    fault = _fault(model, product_attention.NAME)
    model.set_attn_implementation(own)
    return [own] if fault else [own, product_attention.NAME]


def describe_attention(model: PreTrainedModel, device: torch.device, packing: bool) -> str:
    """The path in use, in words."""
    own = model.config._attn_implementation
    if not packing:
        return f"{own}; {model.config.model_type} takes no packed rows, so that each document has a row of its own"
    if own != document_attention.NAME:
        kind = "plain matrix products" if own == product_attention.NAME else own
        return f"{kind}, with a mask over the row"
    kernel = document_attention.can_use_kernel(device, torch.bfloat16, 0.0)
    return f"within documents, {'by the variable-length flash kernel' if kernel else 'by length'}"


def _fault(model: PreTrainedModel, attention: str) -> str | None:
    """Why a model can't take packed rows with this attention, which it is left with; None if it can."""
    training = model.training
    model.eval()
    try:
        isolated = _documents_are_isolated(model, attention)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError, AssertionError) as error:
        return first_line(error)  # the model can't take this mask at all
    finally:
        model.train(training)
    return None if isolated else "documents of a row have other logits than alone"


@torch.inference_mode()
def _documents_are_isolated(model: PreTrainedModel, attention: str) -> bool:
    """A row of three documents (and padding) under `attention` against the three alone under the model's own.

    In fp32, but for attention that has a kernel for half precision only. Attention within documents, where it is the
    model's own, has to be told of them for a document alone too.
    """
    device = model.get_input_embeddings().weight.device
    lengths, width = (5, 9, 3), 20
    generator = torch.Generator().manual_seed(0)
    documents = [
        torch.randint(model.config.vocab_size // 2, model.config.vocab_size, (length,), generator=generator)
        for length in lengths
    ]
    row = {
        "input_ids": torch.full((1, width), model.config.pad_token_id or 0),
        "segment_ids": torch.zeros(1, width, dtype=torch.int32),
        "position_ids": torch.zeros(1, width, dtype=torch.int64),
    }
    start = 0
    for number, document in enumerate(documents, start=1):
        end = start + len(document)
        row["input_ids"][0, start:end] = document
        row["segment_ids"][0, start:end] = number
        row["position_ids"][0, start:end] = torch.arange(len(document))
        start = end
    row = {name: tensor.to(device) for name, tensor in row.items()}
    half = attention == document_attention.NAME and document_attention.can_use_kernel(device, torch.bfloat16, 0.0)
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        alone = torch.cat([_alone(model, document[None].to(device)) for document in documents])
        model.set_attn_implementation(attention)
        packed = model(**model_inputs(model, row, packing=True)).logits[0, : len(alone)]
    return torch.allclose(packed, alone, rtol=0.05 if half else 1e-3, atol=0.05 if half else 1e-4)


def _alone(model: PreTrainedModel, input_ids: Tensor) -> Tensor:
    """Logits [L, V] of one document, [1, L]."""
    if model.config._attn_implementation != document_attention.NAME:
        return model(input_ids=input_ids).logits[0]
    place = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
    batch = {"input_ids": input_ids, "segment_ids": torch.ones_like(input_ids), "position_ids": place}
    return model(**model_inputs(model, batch, packing=True)).logits[0]
