"""How a step is made fastest on this device: the attention's implementation, rows per forward pass, and compilation.

They are tried before the first step on made-up rows of the run's own shape, forward and backward, on the model itself;
no weight is moved. Trying takes at most 3 % of what the run has left, the most valuable first; what there is no time to
try is chosen by rule. What was measured is kept for this machine, shape and versions (`io/remembered.py`), so that the
next run of the shape tries nothing and is made as the one before. What is chosen is recorded with the run's other
numeric choices and kept when it is resumed. On another machine it may be another choice, whose last bits differ:
`model.attn_implementation`, `training.per_device_train_batch_size` and `training.torch_compile` settle it beforehand.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Sequence
from typing import Any

import torch

from mlm_pretrain.console import bars, telemetry
from mlm_pretrain.io.remembered import remember
from mlm_pretrain.models.attention.product import NAME as PRODUCT
from mlm_pretrain.training.tuning.compiling import (
    KINDS,
    compare_compiled,
    compile_layers,
    forget_compiled,
    repeated_layers,
    try_layer,
)
from mlm_pretrain.training.tuning.measured import KIND, Layer, Open, Tuning, known_of
from mlm_pretrain.training.tuning.probe import ROUNDS_SECONDS, Clock, Pass, Probe, compare

TRYING = "trying what is fastest"
"""What its seconds are counted under."""
SHARE = 0.03
"""Of what a run has left: what trying may take."""
PAYBACK = 5
"""So many times what compiling takes it has to save."""
LIKELY_GAIN = 0.2
"""The share of the time that compiling saves at most, by what was seen; nothing is tried for less than it pays."""
LAYER_SECONDS = 12.0
"""What compiling a layer takes, about: 31 s for the three kinds of ModernBERT's on two slow cores, 20 on others."""
LEAST_TOKENS, MOST_TOKENS = 1024, 65_536
"""Of a forward pass: below, what a call costs by itself is felt; above, nothing gets faster."""
TRIED_TOKENS = 2048
"""Of a forward pass in which attention implementations are compared, at most."""
USUAL_TOKENS = {"cpu": 2048, "cuda": 16_384}
"""Of a forward pass, if no size was tried."""
LONGEST_PRODUCT = 512
"""Tokens of a row up to which attention as plain products is the rule on a CPU (docs/measurements/trying.md)."""
CLEARLY_FASTER = 0.97
"""The share of another time that a time must be below to be preferred: less is noise."""
FIRST = 1.5
"""What the first pass of its kind takes, in passes."""
FLOPS_A_TOKEN, SLOW = 6, {"cpu": 1e11, "cuda": 1e13}
"""A token's FLOPs by parameter (Kaplan et al., arXiv 2001.08361), and a slow device's a second: before any pass, these
say whether one can be afforded."""


class Tuner:
    """Chooses how a step is made.

    Args:
        of: all that times depend on, plain data.
        clock: seconds.
    """

    def __init__(self, probe: Probe, asked: Open, of: dict[str, Any], clock: Clock = time.perf_counter) -> None:
        self._probe = probe
        self._open = asked
        self._of = of
        self._clock = clock
        self._known = known_of(of)
        self._tuning = Tuning()
        self._began = clock()

    def choose(self) -> Tuning:
        """Settle attention, rows and compilation; the model has them then."""
        known, tuning, before = self._known, self._tuning, self._known.model_copy(deep=True)
        tries = self._can_begin()
        if tries and not known.a_row:
            first = self._probe.seconds(1)
            # The first pass of a process is slow; of a busy machine, all are.
            known.a_row = self._probe.seconds(1) if first < self._left() else first
            self._allow(known.a_row)
        if tries:
            self._try_attention()
        self._use_attention()
        if tries:
            self._try_rows()
        tuning.rows = self._rows()
        tuning.compiled = self._is_worth_compiling(tries)
        tuning.seconds = self._clock() - self._began - tuning.compiling
        tuning.known = bool(known.a_row) and known == before
        if tries:  # a short run has no time to try what a longer one may
            known.allowed = max(known.allowed, tuning.allowed)
        if known != before:
            remember(KIND, self._of, known.model_dump(mode="json"))
        return tuning

    # -- what may be spent -----------------------------------------------------------------------------------------

    def _can_begin(self) -> bool:
        """Whether there is something to try, and time for it."""
        known, asked, probe = self._known, self._open, self._probe
        if not (len(asked.attentions) > 1 or not asked.rows or asked.may_compile):
            return False
        if known.a_row:
            self._allow(known.a_row)
            return self._tuning.allowed > 2 * known.allowed
        per_row = FLOPS_A_TOKEN * probe.model.num_parameters() * probe.length / SLOW[_kind(probe)]
        self._allow(per_row)
        first = 2 * FIRST * 2  # two passes of a row, and as much again for a trial
        if asked.rows_left is not None:
            return first <= SHARE * asked.rows_left
        return first * per_row <= self._tuning.allowed

    def _allow(self, a_row: float) -> None:
        self._tuning.allowed = SHARE * max(self._open.seconds_left(a_row), 0.0)

    def _left(self) -> float:
        """Seconds that may still be spent on trying."""
        return self._tuning.allowed - (self._clock() - self._began)

    def _note(self, what: str, began: float, before: float, after: float, **more: Any) -> None:
        """What a trial has cost, and what it has brought."""
        seconds = round(self._clock() - began, 3)
        self._tuning.trials[what] = {"seconds": seconds, "before": before, "after": after, **more}

    # -- attention -------------------------------------------------------------------------------------------------

    def _try_attention(self) -> None:
        known, names = self._known, self._open.attentions
        if len(names) < 2 or set(names) <= known.attention.keys():
            return
        began, row = self._clock(), known.a_row
        # Each in two passes, the first of which is slower, in half of the time.
        cost = len(names) * (1 + FIRST) * row
        rows = min(int(self._left() / 2 / cost), TRIED_TOKENS // self._probe.length or 1, self._open.share)
        if rows < 1:
            return

        def trial(name: str) -> float:
            self._probe.model.set_attn_implementation(name)
            return self._probe.seconds(rows) / rows

        with bars.doing("trying attention", TRYING):
            times = compare([functools.partial(trial, name) for name in names], self._left() / 2, self._clock)
        known.attention = dict(zip(names, times, strict=True))
        known.a_row = min(times)
        self._allow(known.a_row)
        chosen = min(known.attention, key=known.attention.__getitem__)
        self._note("attention", began, known.attention[self._usual_attention()], min(times), chosen=chosen)

    def _use_attention(self) -> None:
        names, times = self._open.attentions, self._known.attention
        if len(names) > 1:
            is_known = set(names) <= times.keys()
            chosen = min(names, key=times.__getitem__) if is_known else self._usual_attention()
            self._probe.model.set_attn_implementation(chosen)
        self._tuning.attention = self._probe.model.config._attn_implementation

    def _usual_attention(self) -> str:
        names = self._open.attentions
        short = self._probe.length <= LONGEST_PRODUCT
        return PRODUCT if PRODUCT in names and short else names[0]

    # -- rows ------------------------------------------------------------------------------------------------------

    def _try_rows(self) -> None:
        """Time sizes, from the usual one outwards, as far as there is time. A size that memory has no room for is left
        out, and all above."""
        known, asked = self._known, self._open
        sizes = candidate_rows(asked.share, self._probe.length)
        if asked.rows or len(sizes) < 2 or len(known.rows) > 1:
            return
        began, usual = self._clock(), usual_rows(sizes, self._probe.length, _kind(self._probe))
        seconds, fitting, cost = self._left(), [], 0.0
        for rows in sorted(sizes, key=lambda rows: abs(rows.bit_length() - usual.bit_length())):
            # The passes before this one are made once more.
            cost += (1 + FIRST) * rows * known.a_row
            if cost > min(seconds, ROUNDS_SECONDS):
                break
            fitting.append(rows)
        fitting.sort()
        if _kind(self._probe) == "cuda":
            fitting = list(itertools.takewhile(functools.partial(has_room, self._probe), fitting))
        if len(fitting) < 2:
            return

        def trial(rows: int) -> float:
            return self._probe.seconds(rows) / rows

        with bars.doing("trying rows a pass", TRYING):
            times = compare([functools.partial(trial, rows) for rows in fitting], self._left(), self._clock)
        known.rows = dict(zip(fitting, times, strict=True))
        known.a_row = min(times)
        self._allow(known.a_row)
        before = known.rows.get(usual, max(times))
        self._note("rows", began, before, known.rows[self._rows()], chosen=self._rows())

    def _rows(self) -> int:
        """The rows per forward pass that take the least time a row; of those, the most."""
        asked, times = self._open, self._known.rows
        if asked.rows:
            return min(asked.rows, asked.share)
        if len(times) > 1:
            enough = min(times.values()) / CLEARLY_FASTER
            return min(max(rows for rows, seconds in times.items() if seconds <= enough), asked.share)
        rows = usual_rows(candidate_rows(asked.share, self._probe.length), self._probe.length, _kind(self._probe))
        while _kind(self._probe) == "cuda" and rows > 1 and not has_room(self._probe, rows):
            rows //= 2
        return rows

    # -- compilation -----------------------------------------------------------------------------------------------

    def _is_worth_compiling(self, tries: bool) -> bool:
        """Compile if that is paid back several times over, as one layer alone or an earlier run has shown."""
        known, probe, rows = self._known, self._probe, self._tuning.rows
        layers = repeated_layers(probe.model)
        if not (self._open.may_compile and layers and known.a_row):
            return False
        passes = self._open.passes(rows)
        left = self._open.seconds_left(known.a_row)
        count = left / (known.a_row * passes[-1][0])
        if known.layers:
            saved, cost = (known.layers.plain - known.layers.compiled) * count, known.layers.seconds
        else:
            kinds = min(KINDS, len(layers)) * len(passes)
            a_layer = known.layer.seconds if known.layer else LAYER_SECONDS
            if LIKELY_GAIN * left < PAYBACK * a_layer * kinds:
                return False
            if not known.layer and not (tries and self._left() > LAYER_SECONDS and self._try_layer(passes[-1])):
                return False
            assert known.layer is not None
            saved = (known.layer.plain - known.layer.compiled) * len(layers) * count
            cost = known.layer.seconds * kinds
        return saved >= PAYBACK * cost and self._compile(passes)

    def _try_layer(self, tried: Pass) -> bool:
        began = self._clock()
        with bars.doing("trying one layer compiled", TRYING):
            found = try_layer(self._probe, tried, self._left() - LAYER_SECONDS)
        if found is None:
            return False
        self._known.layer = layer = Layer(seconds=found[0], plain=found[1], compiled=found[2])
        self._note("compile one layer", began, layer.plain / tried[0], layer.compiled / tried[0])
        telemetry.say(
            f"torch.compile: one layer took {layer.seconds:.0f} s; a pass through it takes {layer.compiled * 1e3:.1f} "
            f"ms, {layer.plain * 1e3:.1f} without it"
        )
        return True

    def _compile(self, passes: Sequence[Pass]) -> bool:
        known, began = self._known, self._clock()
        took = compile_layers(self._probe, passes)
        if took is not None and known.layers is None:
            plain, compiled = compare_compiled(self._probe, passes[-1])
            known.layers = Layer(seconds=took, plain=plain, compiled=compiled)
        self._tuning.compiling = self._clock() - began
        if took is None or known.layers is None:
            return False
        faster = known.layers.compiled < CLEARLY_FASTER * known.layers.plain
        rows = passes[-1][0]
        self._note("compile", began, known.layers.plain / rows, known.layers.compiled / rows, chosen=faster)
        if not faster:
            forget_compiled(self._probe.model)
        return faster


def has_room(probe: Probe, rows: int) -> bool:
    """Whether memory has room for a pass over so many rows."""
    try:
        probe.seconds(rows)
    except torch.OutOfMemoryError:
        probe.model.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        return False
    return True


def candidate_rows(share: int, length: int) -> list[int]:
    """Rows per forward pass that are worth a try, ascending: powers of two, and a process's whole share of a step."""
    powers = [2**power for power in range(share.bit_length()) if 2**power < share]
    tried = [rows for rows in powers if LEAST_TOKENS <= rows * length <= MOST_TOKENS]
    return [*tried, share] if share * length <= MOST_TOKENS else tried or [1]


def usual_rows(sizes: Sequence[int], length: int, kind: str) -> int:
    """The size that is taken if none was tried: the largest of a usual number of tokens, else the smallest."""
    return max((rows for rows in sizes if rows * length <= USUAL_TOKENS[kind]), default=sizes[0])


def _kind(probe: Probe) -> str:
    return "cuda" if probe.device.type == "cuda" else "cpu"
