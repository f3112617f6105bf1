"""A larger model's weights from a smaller one's, so that it need not begin at random.

ModernBERT-large was begun so from ModernBERT-base (arXiv 2412.13663): layers are taken by their depth,
as in Gopher (arXiv 2112.11446), and tensors are repeated until they fill their place, as for Phi.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mlm_pretrain.errors import UserError

FUSED = {"Wqkv": 3, "Wi": 2}
"""Weights of ModernBERT in which several matrices lie above one another: query, key, value; input and gate."""


def fused_parts(name: str) -> int:
    """How many matrices lie above one another in the parameter or layer of this name."""
    return next((FUSED[part] for part in name.split(".") if part in FUSED), 1)


@torch.no_grad()
def tile(small: PreTrainedModel, large: PreTrainedModel) -> None:
    """Fill a model with the weights of a smaller one of its architecture.

    Layer i of n takes those of layer round(i · m / n) of m. Along each dimension, index j takes j mod the smaller
    size: within each part of a fused projection, and so that attention heads stay whole. Positions beyond those of
    the smaller model repeat them. Values are not rescaled. Where both have the same sizes, this copies.

    Args:
        small: with as many embeddings of tokens as `large`, and heads of the same size.
        large: is changed in place.

    Raises:
        UserError: the two are of different architectures or vocabularies, or `large` is smaller somewhere.
    """
    _refuse_other_kind(small, large)
    sources, targets = _by_place(small), _by_place(large)
    if odd := sorted(set(sources) ^ set(targets)):
        raise UserError(
            f"model.init_from: only one of the two models has {odd[0].format(0)}; set model.config to match"
        )
    depths, new_depths = _depths(sources), _depths(targets)
    for place, layers in targets.items():
        stack = place.partition("{}")[0]
        depth, new_depth = depths[stack], new_depths[stack]
        if depth > new_depth:
            raise UserError(
                f"model.init_from: it has {depth} layers, the model only {new_depth}; choose a larger model"
            )
        for layer, target in layers.items():
            name = place.format(layer)
            source = _nearest(sources[place], min(round(layer * depth / new_depth), depth - 1))
            target.copy_(_tiled(source, target.shape, name, fused_parts(name), _first_row(large, name)))


def _refuse_other_kind(small: PreTrainedModel, large: PreTrainedModel) -> None:
    kinds = [model.config.model_type for model in (small, large)]
    if kinds[0] != kinds[1] or type(small) is not type(large):
        raise UserError(f"model.init_from: a {kinds[0]} can't fill a {kinds[1]}; choose the same architecture for both")
    rows = [len(model.get_input_embeddings().weight) for model in (small, large)]
    if rows[0] != rows[1]:
        raise UserError(
            f"model.init_from: it has {rows[0]:,} embeddings of tokens, the model {rows[1]:,}; use its tokenizer"
        )
    heads = [_head_size(model) for model in (small, large)]
    if heads[0] != heads[1]:
        raise UserError(
            f"model.init_from: its attention heads are {heads[0]} wide, the model's {heads[1]}; "
            "choose model.config.num_attention_heads so that both are the same"
        )


def _head_size(model: PreTrainedModel) -> int | None:
    width, heads = (getattr(model.config, key, None) for key in ("hidden_size", "num_attention_heads"))
    return width // heads if width and heads else None


def _by_place(model: PreTrainedModel) -> dict[str, dict[int, Tensor]]:
    """The weights by their name with `{}` for the layer's number, then by that number (0 outside the layers)."""
    places: dict[str, dict[int, Tensor]] = {}
    for name, tensor in model.state_dict().items():
        number = re.search(r"(?<=\.)\d+(?=\.)", name)
        place = f"{name[: number.start()]}{{}}{name[number.end() :]}" if number else name
        places.setdefault(place, {})[int(number[0]) if number else 0] = tensor
    return places


def _depths(places: dict[str, dict[int, Tensor]]) -> dict[str, int]:
    """The number of layers in each stack of layers, by what its names begin with."""
    depths: dict[str, int] = {}
    for place, layers in places.items():
        stack = place.partition("{}")[0]
        depths[stack] = max(depths.get(stack, 0), max(layers) + 1)
    return depths


def _nearest(layers: dict[int, Tensor], depth: int) -> Tensor:
    """The weight of the layer at a depth, or of the next one that has it: ModernBERT's first layer lacks a norm."""
    return layers[min(layers, key=lambda layer: abs(layer - depth))]


def _first_row(model: PreTrainedModel, name: str) -> int:
    """The row from which on rows may repeat: positions of RoBERTa begin behind the one of padding."""
    padding = getattr(model.get_submodule(name.rpartition(".")[0]), "padding_idx", None)
    return 0 if padding is None else padding + 1


def _tiled(tensor: Tensor, shape: torch.Size, name: str, parts: int, first_row: int) -> Tensor:
    """A tensor repeated to a shape, its first dimension in `parts` apart.

    Raises:
        UserError: it doesn't fit into the shape.
    """
    if tensor.ndim != len(shape) or any(old > new for old, new in zip(tensor.shape, shape, strict=True)):
        raise UserError(
            f"model.init_from: {name} is {tuple(tensor.shape)} there and {tuple(shape)} here; sizes may grow"
        )
    for dimension, size in enumerate(shape):
        count, first = (parts, first_row) if dimension == 0 else (1, 0)
        old, new = tensor.shape[dimension] // count, size // count
        index = torch.arange(new)
        index[first:] = first + (index[first:] - first) % (old - first)
        tensor = tensor.index_select(dimension, torch.cat([index + part * old for part in range(count)]))
    return tensor
