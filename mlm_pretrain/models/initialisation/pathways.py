"""Layers of a new model that pass on what its embeddings hold, until training has found something better.

Random matrices between the embeddings and the head hide what the embeddings know. With an identity in them, a position
begins by adding up the states that it attends to, and the head asks which embedding is like the sum: what stands near a
masked word predicts it, as in word2vec's bag of words, before the first step. Networks for images begin well with minus
the identity (mimetic initialisation, Trockman & Kolter, ICML 2023, arXiv 2305.09828).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mlm_pretrain.models.initialisation.tiling import fused_parts

PASSED = 4.0
"""Over all attention layers, how much of the states that it attends to a position adds; no layer adds more than 1."""
HEAD = 0.3
"""Of the identity in the head's own layer: little, so that its activation is nearly linear."""
PROJECTIONS = (
    ("attn.Wqkv", "attn.Wo"),  # ModernBERT
    ("attention.self.value", "attention.output.dense"),  # BERT and its like
    ("attention.self.value_proj", "attention.output.dense"),  # DeBERTa
    ("attention.v_lin", "attention.out_lin"),  # DistilBERT
    ("attention.value", "attention.dense"),  # ALBERT
    ("self_attn.v_proj", "self_attn.o_proj"),  # EuroBERT
)
"""In a layer: what makes the values, and what takes them out of attention."""


@torch.no_grad()
def pass_embeddings_on(model: PreTrainedModel) -> int:
    """Add an identity to the values and outputs of attention, and to the head.

    Nothing is drawn. Projections that are not square (values shared by groups of heads), and a head that is not as wide
    as the embeddings, stay as they are.

    Args:
        model: is changed in place.

    Returns:
        The number of attention layers whose weights were changed.
    """
    layers = list(_projections(model))
    depth = model.config.num_hidden_layers  # more than there are weights, where layers share them
    for weights in layers:
        for weight in weights:
            weight.diagonal().add_(min(PASSED / depth, 1.0) ** 0.5)
    width = model.get_input_embeddings().weight.shape[1]
    for name, layer in model.named_modules():
        in_head = not name.startswith(f"{model.base_model_prefix}.")
        if in_head and isinstance(layer, nn.Linear) and layer.weight.shape == (width, width):
            layer.weight.diagonal().add_(HEAD)
    return len(layers)


def _projections(model: PreTrainedModel) -> Iterator[tuple[Tensor, Tensor]]:
    """The square weights of each attention layer that its values and its outputs are made with."""
    for _, layer in model.named_modules():
        for names in PROJECTIONS:
            try:
                values, outputs = (layer.get_submodule(name) for name in names)
            except AttributeError:
                continue
            value = values.weight.chunk(fused_parts(names[0]))[-1]
            if value.shape == outputs.weight.shape and value.shape[0] == value.shape[1]:
                yield value, outputs.weight
