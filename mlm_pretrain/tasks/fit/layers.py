"""Learning rates that fall from layer to layer."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel


def decay_rates(optimizer: torch.optim.Optimizer, model: PreTrainedModel, decay: float) -> None:
    """Give each layer `decay` times the learning rate of the layer above it (ULMFiT, arXiv 1801.06146; ELECTRA,
    arXiv 2003.10555).

    The head, a pooler included, has the whole rate, the topmost layer `decay` times that, and so on down to the
    embeddings. The groups of the optimizer, which has made no step yet, are divided, and keep their weight decay.
    """
    ratios = dict.fromkeys(model.parameters(), 1.0)
    stack = _stack(model.base_model)
    depth = len(model.base_model.get_submodule(stack)) if stack else 0
    for name, parameter in model.base_model.named_parameters():
        ratios[parameter] = decay ** _layers_above(name, stack, depth)
    groups = []
    for group in optimizer.param_groups:
        for ratio in sorted({ratios[parameter] for parameter in group["params"]}):
            members = [parameter for parameter in group["params"] if ratios[parameter] == ratio]
            groups.append({**group, "params": members, "lr_ratio": ratio})
    optimizer.param_groups[:] = groups


def _layers_above(name: str, stack: str, depth: int) -> int:
    """How many steps a parameter of the encoder stands below the head.

    Args:
        stack: the name of the list of layers.
        depth: its length.
    """
    if stack and name.startswith(f"{stack}."):
        return depth - int(name.removeprefix(f"{stack}.").split(".")[0])
    if "embedding" in name:  # and what projects them, or holds relative positions
        return depth + 1
    return 0 if "pooler" in name else 1  # a final norm belongs to the topmost layer


def _stack(encoder: nn.Module) -> str:
    """The name of the list of the encoder's layers: the longest that is in no other list; "" where there is none."""
    lists = {name: len(module) for name, module in encoder.named_modules() if isinstance(module, nn.ModuleList)}
    outer = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    return max(outer, key=lambda name: lists[name], default="")
