"""Training loops timed beside one another, in rounds."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Mapping
from functools import partial

from figures.budget import Budget
from figures.clocks import RESUME_STEPS, Speed
from figures.session import Session


def time_loops(budget: Budget, loops: Mapping[str, Callable[[], Session]]) -> dict[str, list[Speed]]:
    """Start each loop, then let one after another run, while the others wait, in as many rounds as the time allows.

    Args:
        loops: what starts a session whose rounds come to a `Speed`.
    """
    with contextlib.ExitStack() as stack:
        sessions: dict[str, Session] = {}
        for name, start in loops.items():
            with budget.spending(f"starting, compiling: {name}"):
                sessions[name] = stack.enter_context(start())
        idle = sum(RESUME_STEPS * session.first.step_seconds for session in sessions.values())
        seconds = budget.window(len(sessions), idle)
        rounds = {name: partial(_round, session, seconds) for name, session in sessions.items()}
        return budget.in_turn(rounds)


def _round(session: Session, seconds: float, _: int) -> Speed:
    return session(seconds)


def tokens_per_second(speeds: Mapping[str, list[Speed]]) -> dict[str, list[float]]:
    """Of each loop, round by round."""
    return {name: [speed.tokens_per_second for speed in each] for name, each in speeds.items()}


def medians(results: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in results.items()}


def median_ratio(ours: list[float], *theirs: list[float]) -> float:
    """Ours to the best of theirs, of the same round: what else the machine did, it did to all."""
    return statistics.median(mine / max(others) for mine, *others in zip(ours, *theirs, strict=True))
