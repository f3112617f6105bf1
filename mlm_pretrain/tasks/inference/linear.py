"""Linear layers at the full speed of a CPU, for inference in float32.

PyTorch leaves float32 products to MKL, which uses AVX-512 on Intel's CPUs only: on an AMD EPYC with it, MKL did 105
GFLOP/s a core and oneDNN, which comes with PyTorch too, 235. Both compute in float32 and differ by rounding.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn


@contextlib.contextmanager
def fast_linear(model: nn.Module) -> Iterator[None]:
    """Let the linear layers of a model on a CPU use oneDNN, where that is the faster one, without gradients."""
    layers = [module for module in model.modules() if type(module) is nn.Linear] if onednn_is_faster() else []
    try:
        for layer in layers:
            layer.forward = functools.partial(_forward, layer)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


@functools.cache
def onednn_is_faster() -> bool:
    """Whether this is an x86 CPU of another maker than Intel, and PyTorch has both libraries.

    By the maker and not by a measurement: the choice must not change between a run and its continuation.
    """
    try:
        makers = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("vendor_id")]
    except OSError:
        return False
    if not makers or "GenuineIntel" in makers[0] or not torch.backends.mkl.is_available():
        return False
    generator = torch.Generator().manual_seed(0)
    rows, weight, bias = (torch.randn(size, generator=generator) for size in ((7, 5), (3, 5), (3,)))
    try:
        return torch.allclose(_product(rows, weight, bias), nn.functional.linear(rows, weight, bias), atol=1e-5)
    except (AttributeError, RuntimeError):  # no part of PyTorch's public interface
        return False


def _forward(layer: nn.Linear, rows: Tensor) -> Tensor:
    plain = rows.dtype == layer.weight.dtype == torch.float32 and rows.device.type == "cpu" and rows.numel()
    if not plain or torch.is_autocast_enabled("cpu") or torch.is_grad_enabled():
        return nn.Linear.forward(layer, rows)
    return _product(rows, layer.weight, layer.bias)


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return product
