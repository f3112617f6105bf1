"""The figures of fine-tuned tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mlm_pretrain.report.plots import COLORS, HEIGHT, NEUTRAL, WIDTH, Gallery, line_style, short

NAMED_SEEDS = 6
ORIGINS = {"pretrained": "this encoder", "scratch": "from random weights"}
BASELINES = {"bag_of_words": ("bag of words", "D"), "majority": ("majority", "|")}
"""What has one score, not one a seed."""


def histories(
    gallery: Gallery, title: str, result: Mapping[str, Any], runs: Sequence[Sequence[Mapping[str, Any]]]
) -> list[Markup]:
    """The course of training, a line a seed: the loss, and the metric on validation if it was scored on the way.

    Args:
        runs: of each seed an entry an evaluation or an epoch, with `epoch`, `loss` and `validation`.
    """
    metric = str(result.get("metric", "score"))
    seeds = [f"seed {seed}" for seed in result.get("seeds") or range(len(runs))]
    panels = {"loss": "Training loss"}
    if any(entry.get("validation") is not None for run in runs for entry in run[:-1]):
        panels["validation"] = f"{metric} on validation"
    return [_history(gallery, f"{title}-{key}", words, key, seeds, runs) for key, words in panels.items()]


def _history(
    gallery: Gallery,
    name: str,
    words: str,
    key: str,
    seeds: Sequence[str],
    runs: Sequence[Sequence[Mapping[str, Any]]],
) -> Markup:
    def fill(drawn: Figure) -> None:
        axes = drawn.add_subplot()
        for seed, history in enumerate(runs):
            points = [(entry["epoch"], entry[key]) for entry in history if entry.get(key) is not None]
            marker = "o" if len(points) <= 30 else None
            label = seeds[seed] if seed < len(seeds) else None
            epochs, values = zip(*points, strict=True) if points else ((), ())
            axes.plot(epochs, values, marker=marker, ms=4, label=label, **line_style(seed))
        axes.set_title(words)
        axes.set_xlabel("epoch")
        if all(float(entry["epoch"]).is_integer() for history in runs for entry in history):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(runs) <= NAMED_SEEDS:
            drawn.legend(loc="outside lower left", ncols=3)

    return gallery.draw(name, f"{words} by epoch, a line a seed", fill)


def learning_curve(gallery: Gallery, title: str, result: Mapping[str, Any]) -> Markup:
    """The metric by the size of the training set; bars are standard deviations over the seeds."""
    metric, points = str(result.get("metric", "score")), result["learning_curve"]

    def fill(drawn: Figure) -> None:
        axes = drawn.add_subplot()
        for number, (origin, words) in enumerate({**ORIGINS, "bag_of_words": "bag of words"}.items()):
            of = [point for point in points if point.get(origin) is not None]
            if of:
                axes.errorbar(
                    [point["examples"] for point in of],
                    [point[origin] for point in of],
                    [point.get(f"{origin}_std") or 0.0 for point in of],
                    marker="o",
                    ms=4,
                    capsize=3,
                    label=words,
                    **line_style(number),
                )
        axes.set_title(f"{metric} by the size of the training set")
        axes.set_xlabel("training examples")
        drawn.legend(loc="outside lower left", ncols=2)

    return gallery.draw(f"{title}-learning-curve", f"{metric} by the number of training examples", fill)


def reliability(
    gallery: Gallery, title: str, place: str, bins: Sequence[Mapping[str, Any]], ece: float | None
) -> Markup:
    """How often predictions of each confidence are right, and how many there are (Guo et al. 2017).

    Args:
        place: what was predicted.
        bins: as `tasks.calibration.reliability` gives them.
    """
    filled = [row for row in bins if row["count"]]
    lows, widths = [row["low"] for row in filled], [row["high"] - row["low"] for row in filled]

    def fill(drawn: Figure) -> None:
        top, bottom = drawn.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        heights = [row["accuracy"] for row in filled]
        top.bar(lows, heights, widths, align="edge", color=COLORS[0], alpha=0.6, label="accuracy")
        top.plot([0, 1], [0, 1], color=NEUTRAL, linestyle="--", lw=1, label="calibrated")
        confidences = [row["confidence"] for row in filled]
        top.plot(confidences, heights, "o", color=COLORS[1], ms=4, clip_on=False, label="mean confidence")
        top.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="accuracy")
        top.set_title(f"Reliability on {short(place)}" + (f", ECE {ece:.3f}" if ece is not None else ""))
        bottom.bar(lows, [row["count"] for row in filled], widths, align="edge", color=NEUTRAL, alpha=0.7)
        bottom.set(xlabel="confidence", ylabel="examples")
        drawn.align_ylabels([top, bottom])
        drawn.legend(loc="outside lower left", ncols=3)

    return gallery.draw(f"{title}-reliability", f"Accuracy by confidence on {place}", fill, (WIDTH, HEIGHT + 1.1))


def results(gallery: Gallery, runs: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Markup | None:
    """Every task's scores: the mean, a pale dot a seed, and the baselines.

    Args:
        runs: of each run its results by task.
    """
    rows = [
        (f"{task}" if len(runs) == 1 else f"{task}, {run}", result)
        for task in dict.fromkeys(task for tasks in runs.values() for task in tasks)
        for run, tasks in runs.items()
        for result in [tasks.get(task)]
        if result and result.get("pretrained") is not None
    ]
    if not rows:
        return None

    def fill(drawn: Figure) -> None:
        axes = drawn.add_subplot()
        for place, (_, result) in enumerate(rows):
            for number, origin in enumerate(ORIGINS):
                look: dict[str, Any] = {"color": COLORS[number], "linestyle": ""}
                seeds = [score for score in result.get(f"{origin}_seeds") or [] if score is not None]
                axes.plot(seeds, [place] * len(seeds), marker="o", ms=4, alpha=0.4, markeredgewidth=0, **look)
                if result.get(origin) is not None:
                    axes.plot(result[origin], place, marker="os"[number], ms=7, **look, label=ORIGINS[origin])
            for baseline, (label, marker) in BASELINES.items():
                if result.get(baseline) is not None:
                    size = 11 if marker == "|" else 5
                    look = {"color": NEUTRAL, "linestyle": "", "label": label}
                    axes.plot(result[baseline], place, marker=marker, ms=size, mew=2, **look)
        axes.set_yticks(range(len(rows)), [short(f"{name} ({result.get('metric')})") for name, result in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.margins(x=0.08)
        axes.set_title("Tasks: mean and seeds")
        axes.grid(axis="y", visible=False)
        handles, labels = axes.get_legend_handles_labels()
        known = dict(zip(labels, handles, strict=True))
        drawn.legend(known.values(), known.keys(), loc="outside lower left", ncols=2)

    return gallery.draw("tasks", "Scores of the tasks, by seed", fill, (WIDTH, 1.35 + 0.3 * len(rows)))
