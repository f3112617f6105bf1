"""Learning rates that fall from layer to layer."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel


def decay_rates(optimizer: torch.optim.Optimizer, model: PreTrainedModel, decay: float) -> None:
    """Give each layer `decay` times the learning rate of the layer above it (ULMFiT, arXiv 1801.06146; ELECTRA,
    arXiv 2003.10555).

    The head has the whole rate, the topmost layer `decay` times that, and so on down to the embeddings. The groups of
    the optimizer, which has made no step yet, are divided.
    """
    ratios = {parameter: ratio for name, parameter in model.named_parameters() if (ratio := 1.0)}
    prefix = f"{model.base_model_prefix}."
    stack = _stack(model.base_model)
    depth = len(getattr(model.base_model.get_submodule(stack), "_modules", {})) if stack else 0
    for name, parameter in model.base_model.named_parameters(prefix=prefix.removesuffix(".")):
        inner = name.removeprefix(prefix)
        if "embeddings" in inner.split(".")[0]:
            level = depth + 1
        elif stack and inner.startswith(f"{stack}."):
            level = depth - int(inner.removeprefix(f"{stack}.").split(".")[0])
        else:
            level = 0 if "pooler" in inner else 1  # a final norm belongs to the topmost layer
        ratios[parameter] = decay**level
    groups = []
    for group in optimizer.param_groups:
        for ratio in sorted({ratios[parameter] for parameter in group["params"]}):
            members = [parameter for parameter in group["params"] if ratios[parameter] == ratio]
            groups.append({**group, "params": members, "lr_ratio": ratio})
    optimizer.param_groups[:] = groups


def _stack(encoder: nn.Module) -> str | None:
    """The name of the list of the encoder's layers: the longest list of modules in it."""
    lists = {name: len(module) for name, module in encoder.named_modules() if isinstance(module, nn.ModuleList)}
    return max(lists, key=lambda name: (lists[name], -name.count("."))) if lists else None
