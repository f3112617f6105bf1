"""The learning curves of a run and of its tasks, as PNG files that lie beside the cards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter

from mlm_pretrain.plots import BLUE, GREY, ORANGE, figure, save, style
from mlm_pretrain.records.tasks import CurvePoint, TaskResult

LOSS, TRAINING, LEARNING_CURVE = "loss.png", "training.png", "learning_curve.png"
POINTS = 400
"""A curve of more is thinned by the means of its neighbours."""
WIDTH, HEIGHT = 6.0, 3.4
CURVES = {
    "pretrained": ("this encoder", BLUE),
    "scratch": ("from random weights", GREY),
    "bag_of_words": ("bag of words", ORANGE),
}


def loss_picture(records: Sequence[Mapping[str, Any]], path: Path) -> bool:
    """Draw loss against tokens, of training and of held-out text; whether there were points enough for a curve.

    Args:
        records: of `metrics.jsonl`.
    """
    training = [(row["tokens"], row["loss"]) for row in records if "loss" in row and "tokens" in row]
    held_out = [(row["tokens"], row["heldout_loss"]) for row in records if "heldout_loss" in row and "tokens" in row]
    if len(training) < 2:
        return _gone(path)
    with style():
        made = figure(WIDTH, HEIGHT)
        axes = made.add_subplot()
        axes.plot(*zip(*_thinned(training), strict=True), color=BLUE, linewidth=1.2, label="training")
        if held_out:
            axes.plot(*zip(*held_out, strict=True), "o-", color=ORANGE, markersize=4, linewidth=1.2, label="held out")
        axes.set(xlabel="tokens", ylabel="loss, nats a masked token")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.grid(axis="y")
        axes.legend()
        return _saved(made, path)


def training_picture(result: TaskResult | None, path: Path) -> bool:
    """Draw a task's validation metric against epochs, a line a seed."""
    history = [
        [row for row in seed if row.get("validation") is not None] for seed in (result.history if result else [])
    ]
    if result is None or max((len(seed) for seed in history), default=0) < 2:
        return _gone(path)
    seeds = result.seeds if len(result.seeds) == len(history) else range(len(history))
    with style():
        made = figure(WIDTH, HEIGHT)
        axes = made.add_subplot()
        for number, (seed, rows) in enumerate(zip(seeds, history, strict=True)):
            places, values = [row["epoch"] for row in rows], [row["validation"] for row in rows]
            color, line = (BLUE, ORANGE, GREY)[number % 3], ("-", "--", ":", "-.")[number // 3 % 4]
            axes.plot(places, values, line, color=color, marker="o", markersize=3, label=f"seed {seed}")
        axes.set(xlabel="epochs", ylabel=f"{result.metric}, validation")
        axes.grid(axis="y")
        axes.legend()
        return _saved(made, path)


def learning_curve_picture(result: TaskResult | None, path: Path) -> bool:
    """Draw a task's test metric against the size of its training set, with the spread over the seeds."""
    points = [point for point in (result.learning_curve if result else []) if point.examples]
    if result is None or len(points) < 2:
        return _gone(path)
    with style():
        made = figure(WIDTH, HEIGHT)
        axes = made.add_subplot()
        for name, (label, color) in CURVES.items():
            _curve(axes, points, name, label, color)
        axes.set(xscale="log", xlabel="training examples", ylabel=f"{result.metric}, test")
        axes.set_xticks([point.examples or 0 for point in points])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.minorticks_off()
        axes.grid(axis="y")
        axes.legend()
        return _saved(made, path)


def _curve(axes: Any, points: Sequence[CurvePoint], name: str, label: str, color: str) -> None:
    rows = [
        (p.examples, getattr(p, name), getattr(p, f"{name}_std", None)) for p in points if getattr(p, name) is not None
    ]
    if not rows:
        return
    places, means, deviations = zip(*rows, strict=True)
    spreads = [deviation or 0.0 for deviation in deviations]
    axes.errorbar(places, means, spreads, fmt="o-", color=color, markersize=4, capsize=3, linewidth=1.2, label=label)


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    every = -(-len(points) // POINTS)
    groups = [points[start : start + every] for start in range(0, len(points), every)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def _saved(made: Figure, path: Path) -> bool:
    save(made, path)
    return True


def _gone(path: Path) -> bool:
    """A picture of what the records don't hold any more is taken away."""
    path.unlink(missing_ok=True)
    return False
