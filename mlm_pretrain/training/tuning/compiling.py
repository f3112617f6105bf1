"""`torch.compile`, a layer at a time: the trial on one layer, and the whole encoder's layers."""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from mlm_pretrain.console import bars, telemetry
from mlm_pretrain.errors import first_line
from mlm_pretrain.training.tuning.probe import Pass, Probe, compare

GRAPHS_OF_A_SHAPE = 8
"""At most: the first layer's and each kind of attention's are their own, with gradients and without."""
GRAPHS_OF_A_TRIAL = 2
KINDS = 3
"""Kinds of layers, each of which is compiled: the first, and those of two kinds of attention (ModernBERT)."""


def try_layer(
    probe: Probe, tried: Pass, seconds: float, backend: str = "inductor"
) -> tuple[float, float, float] | None:
    """Compile one layer in the middle and run it alone, forward and backward, on what a pass gives it.

    Args:
        tried: the pass.
        seconds: the comparison takes about so long at most.
        backend: of `torch.compile`.

    Returns:
        What compiling took; what the layer takes plain, and compiled; in seconds. None if it can't be compiled; a line
        says why.
    """
    layers = repeated_layers(probe.model)
    layer = layers[len(layers) // 2]
    args, kwargs = _inputs_of(layer, probe, tried)

    def run() -> None:
        with probe.autocast():
            out = layer(*args, **kwargs)
        hidden = out[0] if isinstance(out, tuple) else out
        hidden.backward(torch.ones_like(hidden))

    def plain() -> float:
        with torch.compiler.set_stance("force_eager"):
            return probe.timed(run)

    started = time.perf_counter()
    try:
        with _quiet(), torch._dynamo.config.patch(recompile_limit=GRAPHS_OF_A_SHAPE):
            layer.compile(dynamic=False, backend=backend)
            run()
            took = time.perf_counter() - started
            times = compare([plain, lambda: probe.timed(run)], seconds)
    except Exception as error:  # no C++ compiler, an unsupported operation: many classes
        _say_failed(error)
        return None
    finally:
        layer._compiled_call_impl = None
    return took, times[0], times[1]


def _inputs_of(layer: nn.Module, probe: Probe, tried: Pass) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a layer is called with in a pass, as leaves of their own; what has gradients wants them."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def keep(_layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append((args, kwargs))

    handle = layer.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        probe.seconds(*tried)
    finally:
        handle.remove()

    def leaf(value: Any) -> Any:
        return value.detach().requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value

    args, kwargs = calls[0]
    return tree_map(leaf, args), tree_map(leaf, kwargs)


def compile_layers(probe: Probe, passes: Sequence[Pass]) -> float | None:
    """Have the encoder's layers compiled, each by itself: they are alike, so that most of them cost nothing more.

    What is around them (embeddings, head, loss) is small, and its shapes change with the number of masked tokens.

    Args:
        passes: those that occur: shapes are static, and each has graphs of its own.

    Returns:
        The seconds that it took; None if it failed, and a line says why.
    """
    started = time.perf_counter()
    limit = GRAPHS_OF_A_SHAPE * len(passes) + GRAPHS_OF_A_TRIAL
    try:
        # Layers of one class share the limit; each shape takes some three graphs of it.
        with _quiet(), torch._dynamo.config.patch(recompile_limit=limit), bars.doing("compiling"):
            for layer in repeated_layers(probe.model):
                layer.compile(dynamic=False)
            for each in passes:
                probe.seconds(*each)
                probe.seconds(*each)  # with gradients to add to
    except Exception as error:  # as above
        forget_compiled(probe.model)
        _say_failed(error)
        return None
    took = time.perf_counter() - started
    telemetry.say(f"torch.compile: took {took:.0f} s")
    return took


def _say_failed(error: Exception) -> None:
    telemetry.warn(f"torch.compile: failed, the run continues without it: {first_line(error)}")


def compare_compiled(probe: Probe, tried: Pass) -> tuple[float, float]:
    """The seconds of a pass through plain layers, and through the compiled ones."""

    def plain_pass() -> float:
        with torch.compiler.set_stance("force_eager"):
            return probe.seconds(*tried)

    plain, compiled = compare([plain_pass, lambda: probe.seconds(*tried)])
    return plain, compiled


def repeated_layers(model: nn.Module) -> list[nn.Module]:
    """The layers of the encoder: what is in the outermost lists of modules of one class."""
    layers: list[nn.Module] = []
    for child in model.children():
        if isinstance(child, nn.ModuleList) and len({type(layer) for layer in child}) == 1:
            layers += child
        else:
            layers += repeated_layers(child)
    return layers


def forget_compiled(model: nn.Module) -> None:
    for layer in repeated_layers(model):
        layer._compiled_call_impl = None


@contextlib.contextmanager
def never_recompiled() -> Iterator[None]:
    """Batches of other shapes than those that were compiled for go through the plain layers."""
    with torch.compiler.set_stance("eager_on_recompile"):
        yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The compiler's own warnings are for its developers."""
    logger = logging.getLogger("torch._inductor")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
