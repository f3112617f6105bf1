"""Learning-rate schedules as functions of the share of the budget that is spent.

A budget may be in steps, tokens or minutes; a schedule only sees the share, so that every schedule ends with the
budget whatever it is measured in. To add one: a function from (share spent in [0, 1], share that was warmup,
keyword arguments from `lr_scheduler_kwargs`) to a factor of `learning_rate`. The warmup itself is common to all.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from mlm_pretrain.config import OptimizerSection
from mlm_pretrain.errors import UserError
from mlm_pretrain.registry import Registry

SCHEDULES: Registry[Callable[..., float]] = Registry("schedule", key="lr_scheduler_type")


def learning_rate_at(settings: OptimizerSection, spent: float, step: int = 0, total_steps: int | None = None) -> float:
    """The learning rate of a step, as `factor_at` has it."""
    return settings.learning_rate * factor_at(settings, spent, step, total_steps)


def factor_at(settings: OptimizerSection, spent: float, step: int = 0, total_steps: int | None = None) -> float:
    """The share of `learning_rate` that a step has, in [0, 1].

    Args:
        settings: names the schedule; `warmup_steps` below 1 is a share of the budget, else a number of steps.
        spent: share of the budget that is spent, in [0, 1].
        step: number of the step, counted from 0; a warmup in steps needs it.
        total_steps: where the budget is in steps: how many there are.

    Raises:
        UserError: the schedule is unknown, or doesn't take one of `lr_scheduler_kwargs`.
    """
    spent = min(max(spent, 0.0), 1.0)
    if settings.warmup_steps < 1:
        warmup = settings.warmup_steps
        risen = spent / warmup if warmup else 1.0
    else:
        warmup = min(settings.warmup_steps / total_steps, 1.0) if total_steps else 0.0
        risen = (step + 1) / settings.warmup_steps
    schedule = SCHEDULES[settings.lr_scheduler_type]
    try:
        factor = schedule(spent, warmup, **settings.lr_scheduler_kwargs)
    except TypeError as error:
        raise UserError(f"lr_scheduler_kwargs: {settings.lr_scheduler_type}: {error}") from None
    return min(risen, factor)


@SCHEDULES.register("constant")
def constant(spent: float, warmup: float) -> float:
    return 1.0


@SCHEDULES.register("linear")
def linear(spent: float, warmup: float) -> float:
    """From 1 at the end of the warmup to 0 at the end of the budget."""
    return (1.0 - spent) / max(1.0 - warmup, 1e-9)


@SCHEDULES.register("cosine")
def cosine(spent: float, warmup: float, min_lr_ratio: float = 0.0) -> float:
    """Half a cosine from 1 to `min_lr_ratio` (SGDR without restarts, arXiv 1608.03983)."""
    share = max(spent - warmup, 0.0) / max(1.0 - warmup, 1e-9)
    return min_lr_ratio + (1.0 - min_lr_ratio) * 0.5 * (1.0 + math.cos(math.pi * share))


@SCHEDULES.register("triangle")
def triangle(spent: float, warmup: float, peak: float = 0.5) -> float:
    """A line up to 1 at the share `peak` of the budget, and one down to 0 (one cycle, as in arXiv 2212.14034).

    The way up is its warmup: `warmup_steps` changes nothing unless it is longer.
    """
    if not 0.0 < peak < 1.0:
        raise UserError(f"lr_scheduler_kwargs.peak: {peak} isn't a share of the budget; give one between 0 and 1")
    return min(spent / peak, (1.0 - spent) / (1.0 - peak))


@SCHEDULES.register("warmup_stable_decay")
def warmup_stable_decay(spent: float, warmup: float, decay_fraction: float = 0.2, min_lr_ratio: float = 0.0) -> float:
    """1 until the last `decay_fraction` of the budget, then 1 − √ of the share decayed (arXiv 2405.18392)."""
    return _decayed((spent - (1.0 - decay_fraction)) / max(decay_fraction, 1e-9), min_lr_ratio)


@SCHEDULES.register("decay")
def decay(spent: float, warmup: float, min_lr_ratio: float = 0.0) -> float:
    """1 − √ of the share spent after the warmup: the last part of `warmup_stable_decay` as a run of its own.

    It anneals a checkpoint of a stable phase (`model.path`), on other text where wished. The optimizer's moments
    begin anew there, so that a short warmup may stay.
    """
    return _decayed((spent - warmup) / max(1.0 - warmup, 1e-9), min_lr_ratio)


def _decayed(share: float, min_lr_ratio: float) -> float:
    return min_lr_ratio + (1.0 - min_lr_ratio) * (1.0 - math.sqrt(min(max(share, 0.0), 1.0)))
