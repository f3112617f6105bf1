"""Short rows first: sequence-length warmup (Li et al., arXiv 2108.06084).

Attention within a row costs more than in proportion to its length, and what far tokens tell is learnt late. The
stream knows nothing of it: the rows of a step come as ever, masked as ever, and are cut into pieces before the model
sees them, so that order, masks and tokens a step are those of a run without warmup.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mlm_pretrain.config import Config
from mlm_pretrain.config.batch_size import Staged
from mlm_pretrain.models.masked_head import label_positions


def row_lengths(config: Config) -> Staged:
    """Tokens of the rows that the model sees, by step."""
    return Staged(config.training.sequence_length_warmup or config.stream.sequence_length)


def cut_rows(batch: dict[str, Tensor], length: int) -> dict[str, Tensor]:
    """Cut rows into pieces; a document that goes over a cut begins anew behind it, without its special tokens.

    Args:
        batch: tensors [B, L], which become [B · L/length, length], and others, which stay; `label_positions` [B, k]
            become flat.
        length: divides L.
    """
    whole = batch["input_ids"].shape
    if whole[1] == length:
        return batch
    cut = {name: tensor.reshape(-1, length) if tensor.shape == whole else tensor for name, tensor in batch.items()}
    segments, positions = cut["segment_ids"], cut["position_ids"]
    continued = segments == segments[:, :1]
    cut["position_ids"] = positions - torch.where(continued, positions[:, :1], 0)
    if "label_positions" in batch:
        cut["label_positions"] = label_positions(batch)
    return cut
