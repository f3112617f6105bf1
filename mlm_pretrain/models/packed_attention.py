"""Documents that share a row without seeing each other.

The mask is made from `segment_ids`: a token attends within its segment, and in sliding-window layers only to its
neighbours there. Positions begin anew with each document. Whether a model honours both is not taken on trust: a
packed row is run beside its documents alone, and where the logits differ, rows are not packed for that model.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mlm_pretrain.models.build import first_position


def model_inputs(model: PreTrainedModel, batch: dict[str, Tensor], packing: bool) -> dict[str, Any]:
    """The keyword arguments of the model's forward pass.

    Args:
        batch: `input_ids` [B, L], `segment_ids` [B, L] (0 is padding), `position_ids` [B, L].
        packing: whether rows hold several documents.
    """
    segments = batch["segment_ids"]
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
        "position_ids": batch["position_ids"] + first_position(model.config.model_type, model.config.pad_token_id),
    }


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
    training = model.training
    model.eval()
    try:
        return _documents_are_isolated(model)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
        return False  # the model can't take this mask at all
    finally:
        model.train(training)


@torch.inference_mode()
def _documents_are_isolated(model: PreTrainedModel) -> bool:
    """A row of three documents (and padding) against the three alone, in fp32."""
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
    packed = model(**model_inputs(model, row, packing=True)).logits[0]
    start = 0
    for document in documents:
        alone = model(input_ids=document[None].to(device)).logits[0]
        if not torch.allclose(packed[start : start + len(document)], alone, rtol=1e-3, atol=1e-4):
            return False
        start += len(document)
    return True
