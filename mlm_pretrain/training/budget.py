"""A budget in steps, tokens or minutes, and how much of it is spent."""

from __future__ import annotations

from mlm_pretrain.config import Budget
from mlm_pretrain.training.resume import Progress


def share_spent(budget: Budget, progress: Progress) -> float:
    """The share of the budget that is spent: for steps and tokens, in the middle of the coming step."""
    if budget.minutes:
        return progress.seconds / (60 * budget.minutes)
    if budget.steps:
        return (progress.step + 0.5) / budget.steps
    assert budget.tokens is not None
    return (progress.tokens + 0.5 * progress.tokens / max(progress.step, 1)) / budget.tokens


def is_over(budget: Budget, progress: Progress, step_seconds: float) -> bool:
    """Whether there is no room for another step; a budget in minutes ends where half a step would not fit."""
    if budget.minutes:
        return progress.seconds + 0.5 * step_seconds >= 60 * budget.minutes
    return done(budget, progress) >= total(budget)


def total(budget: Budget) -> float:
    """The whole budget: steps, tokens or seconds."""
    return budget.steps or budget.tokens or 60 * (budget.minutes or 0)


def done(budget: Budget, progress: Progress) -> float:
    """What is spent, in the unit of `total`."""
    return progress.step if budget.steps else progress.tokens if budget.tokens else progress.seconds


def seconds_left(budget: Budget, progress: Progress, step_seconds: float, step_tokens: int) -> float:
    """What a run has left, if a step takes `step_seconds` and has `step_tokens`."""
    left = total(budget) - done(budget, progress)
    if budget.minutes:
        return left
    return left * step_seconds / (1 if budget.steps else step_tokens)
