"""How a step is made fastest on this device: the attention's implementation, rows per forward pass, and compilation.

They are tried before the first step on made-up rows of the run's own shape, forward and backward, on the model
itself; no weight is moved. What is found is recorded with the run's other numeric choices and kept when it is taken up
again. Two runs may find differently, and then differ in their last bits: `model.attn_implementation`,
`training.per_device_train_batch_size` and `training.torch_compile` settle it beforehand.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedModel

from mlm_pretrain import telemetry
from mlm_pretrain.errors import first_line
from mlm_pretrain.models.masked_head import MaskedLogits, with_places
from mlm_pretrain.objectives.base import Objective, Rows
from mlm_pretrain.objectives.random import RowRandom
from mlm_pretrain.training.loss import Batch, to_device
from mlm_pretrain.training.short_rows import cut_rows

LEAST_TOKENS, MOST_TOKENS = 1024, 65_536
"""Of a forward pass: below, what a call costs by itself is felt; above, nothing gets faster."""
TRIED_TOKENS = 2048
"""Of a forward pass in which attention implementations are compared."""
ROUNDS = 4
ROUNDS_SECONDS = 8.0
"""A comparison that has taken so long has no further round."""
CLEARLY_FASTER = 0.97
"""The share of another time that a time must be below to be preferred: less is noise."""
COMPILING_SECONDS = 20.0
"""What compiling takes, about; known only when it is done."""
LIKELY_GAIN = 0.2
"""The share of the time that a compiled step saves, about; known only when it is tried."""
GRAPHS_OF_A_SHAPE = 8
"""At most: the first layer's and each kind of attention's are their own, with gradients and without."""

Pass = tuple[int, int]
"""A forward pass: rows of the stream, and the tokens of the pieces that they are cut into."""


class Probe:
    """Forward and backward passes over made-up masked rows, full of random tokens; gradients are gone behind it.

    Args:
        ids: the token ids that may occur.
        packing: as the run's.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        objective: Objective,
        accelerator: Accelerator,
        ids: np.ndarray,
        length: int,
        packing: bool,
    ) -> None:
        self.model = model
        self.device = accelerator.device
        self.length = length
        self._objective = objective
        self._accelerator = accelerator
        self._ids = ids
        # Not the wrapper of several processes: each tries by itself.
        self._forward = MaskedLogits(model, packing)

    def close(self) -> None:
        self._forward.close()
        self.model.zero_grad(set_to_none=True)

    def seconds(self, rows: int, length: int | None = None) -> float:
        """Of one pass over so many rows, whole or in pieces of so many tokens."""
        batch = with_places(cut_rows(self._rows(rows), length or self.length))
        self._synchronize()
        started = time.perf_counter()
        with self._accelerator.autocast():
            loss, count, _ = self._objective.loss(self._forward, to_device(batch, self.device))
        (loss / count).backward()
        self._synchronize()
        return time.perf_counter() - started

    def _rows(self, rows: int) -> Batch:
        random = np.random.default_rng(0)
        shape = (rows, self.length)
        full = Rows(
            input_ids=random.choice(self._ids, shape).astype(np.int64),
            segment_ids=np.ones(shape, dtype=np.int32),
            position_ids=np.tile(np.arange(self.length, dtype=np.int64), (rows, 1)),
            source_ids=np.zeros(shape, dtype=np.int32),
            index=np.arange(rows, dtype=np.int64),
            step=0,
        )
        masked = self._objective.corrupt(full, RowRandom(0))
        return {name: torch.from_numpy(array) for name, array in masked.items()}

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def compare(trials: Sequence[Callable[[], float]]) -> list[float]:
    """The least seconds that each trial takes in several rounds, in turn: what else the machine does, it does to all.
    Each is tried once before."""
    for trial in trials:
        trial()
    began, times = time.perf_counter(), [[trial() for trial in trials]]
    while len(times) < ROUNDS and time.perf_counter() - began < ROUNDS_SECONDS:
        times.append([trial() for trial in trials])
    return [min(each) for each in zip(*times, strict=True)]


def fastest_attention(probe: Probe, candidates: Sequence[str], share: int) -> str:
    """Of the attention implementations that give the same logits, the one that takes the least time; it is set."""
    rows = min(share, max(TRIED_TOKENS // probe.length, 1))

    def trial(name: str) -> float:
        probe.model.set_attn_implementation(name)
        return probe.seconds(rows)

    if len(candidates) > 1:
        times = compare([functools.partial(trial, name) for name in candidates])
        probe.model.set_attn_implementation(candidates[times.index(min(times))])
    return probe.model.config._attn_implementation


def candidate_rows(share: int, length: int) -> list[int]:
    """Rows per forward pass that are worth a try, ascending: powers of two, and a process's whole share of a step."""
    powers = [2**power for power in range(share.bit_length()) if 2**power < share]
    tried = [rows for rows in powers if LEAST_TOKENS <= rows * length <= MOST_TOKENS]
    return [*tried, share] if share * length <= MOST_TOKENS else tried or [1]


def fastest_rows(probe: Probe, share: int) -> int:
    """The rows per forward pass that take the least time a row; of those, the most. Sizes that memory has no room for
    are left out, and such as take too long to be tried."""
    fitting: list[int] = []
    candidates = candidate_rows(share, probe.length)
    for rows in candidates if len(candidates) > 1 else []:
        try:
            seconds = probe.seconds(rows)
        except torch.OutOfMemoryError:
            probe.model.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            break
        fitting.append(rows)
        if seconds > ROUNDS_SECONDS / 2:
            break
    if len(fitting) < 2:
        return (fitting or candidates)[0]

    def trial(rows: int) -> float:
        return probe.seconds(rows) / rows

    times = compare([functools.partial(trial, rows) for rows in fitting])
    enough = min(times) / CLEARLY_FASTER
    return max(rows for rows, seconds in zip(fitting, times, strict=True) if seconds <= enough)


def is_worth_compiling(probe: Probe, passes: Sequence[Pass], seconds_left: float) -> bool:
    """Compile, where the run is long enough for that to pay, and see whether it is faster.

    Args:
        passes: those that occur, ascending; the last is compared.
        seconds_left: what the run has left, if it goes on uncompiled.
    """
    if LIKELY_GAIN * seconds_left < len(passes) * COMPILING_SECONDS or not compile_layers(probe, passes):
        return False

    def plain_pass() -> float:
        with torch.compiler.set_stance("force_eager"):
            return probe.seconds(*passes[-1])

    plain, compiled = compare([plain_pass, lambda: probe.seconds(*passes[-1])])
    faster = compiled < CLEARLY_FASTER * plain
    telemetry.say(
        f"torch.compile: a pass takes {compiled:.3f} s, {plain:.3f} s without it; it is {'on' if faster else 'off'}"
    )
    if not faster:
        _forget_compiled(probe.model)
    return faster


def compile_layers(probe: Probe, passes: Sequence[Pass]) -> bool:
    """Have the encoder's layers compiled, each by itself: they are alike, so that most of them cost nothing more.

    What is around them (embeddings, head, loss) is small, and its shapes change with the number of masked tokens.

    Args:
        passes: those that occur: shapes are static, and each has graphs of its own.

    Returns:
        Whether that went well; else a line says why not.
    """
    started = time.perf_counter()
    try:
        # Layers of one class share the limit; each shape takes some three graphs of it.
        with _quiet(), torch._dynamo.config.patch(recompile_limit=GRAPHS_OF_A_SHAPE * len(passes)):
            for layer in repeated_layers(probe.model):
                layer.compile(dynamic=False)
            for each in passes:
                probe.seconds(*each)
                probe.seconds(*each)  # with gradients to add to
    except Exception as error:  # no C++ compiler, an unsupported operation: many classes
        _forget_compiled(probe.model)
        telemetry.warn(f"torch.compile: failed, the run goes on without it: {first_line(error)}")
        return False
    telemetry.say(f"torch.compile: took {time.perf_counter() - started:.0f} s")
    return True


def repeated_layers(model: nn.Module) -> list[nn.Module]:
    """The layers of the encoder: what stands in the outermost lists of modules of one class."""
    layers: list[nn.Module] = []
    for child in model.children():
        if isinstance(child, nn.ModuleList) and len({type(layer) for layer in child}) == 1:
            layers += child
        else:
            layers += repeated_layers(child)
    return layers


def _forget_compiled(model: nn.Module) -> None:
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
