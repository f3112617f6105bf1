"""What is to be settled of a step, what was measured for it on this machine, and what was chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from mlm_pretrain.io.remembered import recall
from mlm_pretrain.training.tuning.probe import Pass

TRIALS = 1
"""Raised with a change of what a pass computes or of what is tried: what was measured before no longer counts."""
KIND = "passes"
"""What is remembered."""


class Layer(BaseModel):
    """Seconds: to compile it, and of a pass through it, plain and compiled; or of all layers, of a whole pass."""

    model_config = ConfigDict(allow_inf_nan=False)

    seconds: float
    plain: float
    compiled: float


class Measured(BaseModel):
    """What was measured of passes of one shape on one machine."""

    model_config = ConfigDict(allow_inf_nan=False)

    allowed: float = 0.0
    """The most seconds that a run has had for trying."""
    a_row: float = 0.0
    """Seconds of a row, about."""
    attention: dict[str, float] = {}
    """Seconds of a row by implementation."""
    rows: dict[int, float] = {}
    """Seconds of a row by rows a pass."""
    layer: Layer | None = None
    layers: Layer | None = None


@dataclass(frozen=True)
class Open:
    """What is to be settled of a step, and what that depends on."""

    attentions: Sequence[str]
    """Implementations; the model's own, or what the config says, is first."""
    rows: int
    """A pass, as the config says; 0 is open."""
    share: int
    """Rows of a step, of this process."""
    may_compile: bool
    """Whether that is open."""
    passes: Callable[[int], list[Pass]]
    """Those that occur with so many rows a pass, ascending."""
    seconds_left: Callable[[float], float]
    """What the run has left, if a row takes so many seconds."""
    rows_left: float | None
    """The same in rows; None for a budget in minutes."""


@dataclass
class Tuning:
    """What was chosen, and what trying it has cost."""

    attention: str = ""
    rows: int = 0
    compiled: bool = False
    seconds: float = 0.0
    """Of trying."""
    allowed: float = 0.0
    """Of trying, at most."""
    compiling: float = 0.0
    """Seconds of compiling all layers, and of looking whether that is faster."""
    known: bool = False
    """Whether what was measured here before was enough."""
    trials: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By what was tried: `seconds` it took; `before` and `after`, seconds of a row by rule and as chosen."""

    def describe(self) -> str:
        """In a line."""
        chosen = f"{self.rows} rows a pass, {'compiled' if self.compiled else 'not compiled'}"
        if self.known:
            return f"{chosen}: as measured here before"
        if not self.trials:
            return f"{chosen}: by rule, nothing was tried"
        brought = ", ".join(
            f"{what}: {trial['seconds']:.1f} s, {1 - trial['after'] / trial['before']:.0%} faster"
            for what, trial in self.trials.items()
        )
        return f"{chosen}: tried in {self.seconds:.1f} s of {self.allowed:.1f} that may be ({brought})"

    def record(self) -> dict[str, Any]:
        """As it is in `results.json`."""
        return {
            "seconds": round(self.seconds, 3),
            "allowed": round(self.allowed, 3),
            "compiling": round(self.compiling, 3),
            "measured_before": self.known,
            "trials": self.trials,
        }


def known_of(of: dict[str, Any]) -> Measured:
    """What was measured before; nothing if that is damaged."""
    try:
        return Measured(**recall(KIND, of))
    except ValidationError:
        return Measured()
