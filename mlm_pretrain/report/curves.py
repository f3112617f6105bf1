"""The curves of pretraining: one run's training beside its held-out figures, or several runs over each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from mlm_pretrain.config import Ramp
from mlm_pretrain.objectives.base import rate_at
from mlm_pretrain.report.plots import COLORS, HEIGHT, NEUTRAL, WIDTH, Gallery, count_axis, line_style, short
from mlm_pretrain.report.runs import Curve, Record, RunRecords, curve

POINTS = 400
"""Of a curve of one run; fewer where there are many runs, so that the page stays small."""
POINTS_OF_ALL = 2400
MARKED = 40
"""With more points, held-out figures are a line alone."""
THIN = 0.8
"""The line of training where several runs have held-out figures too."""


@dataclass(frozen=True)
class Panel:
    """A figure of pretraining: what of the records it shows."""

    key: str
    title: str
    x: str = "tokens"
    held_out: str | None = None
    is_share: bool = False
    is_count: bool = False


PANELS = (
    Panel("loss", "Loss, nats a masked token", held_out="heldout_loss"),
    Panel("loss", "Loss, nats a masked token", "minutes", held_out="heldout_loss"),
    Panel("accuracy", "Masked-token accuracy", held_out="heldout_accuracy"),
    Panel("accuracy", "Masked-token accuracy", "minutes", held_out="heldout_accuracy"),
    Panel("learning_rate", "Learning rate"),
    Panel("grad_norm", "Gradient norm"),
    Panel("tokens_per_second", "Tokens per second", is_count=True),
    Panel("mfu", "Model FLOPs utilisation", is_share=True),
    Panel("data_wait", "Waiting for data, share of the time", is_share=True),
    Panel("fill", "Fill: real tokens in the rows", is_share=True),
    Panel("mask_rate", "Mask rate, as configured", is_share=True),
)
NAMES = {
    "loss": "loss",
    "accuracy": "masked-token accuracy",
    "learning_rate": "learning rate",
    "grad_norm": "gradient norm",
    "tokens_per_second": "tokens per second",
    "mfu": "model FLOPs utilisation",
    "data_wait": "waiting for data",
    "fill": "fill of the rows",
    "heldout_loss": "held-out figures during training",
}


@dataclass
class Curves:
    """The figures, and what has to be said about them."""

    figures: list[Markup] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Line:
    number: int
    """Of the run: its colour in every figure."""
    name: str
    training: Curve | None
    held_out: Curve | None


def draw_curves(runs: Sequence[RunRecords], gallery: Gallery) -> Curves:
    """Draw what was recorded of pretraining, and note what wasn't."""
    most = max(20, min(POINTS, POINTS_OF_ALL // len(runs)))
    made = Curves()
    thinned = {}
    for panel in PANELS:
        lines = [
            _Line(
                number,
                run.name,
                curve(_training(run, panel), panel.x, panel.key, most),
                curve(run.held_out, panel.x, panel.held_out, most) if panel.held_out else None,
            )
            for number, run in enumerate(runs)
        ]
        for line in lines:
            if line.training and line.training.is_thinned:
                thinned[line.name] = line.training
        lines = [line for line in lines if line.training or line.held_out]
        if lines:
            made.figures.append(_draw(panel, lines, len(runs), gallery))
    made.notes = [*_missing(runs), *_thinning(thinned)]
    return made


def _training(run: RunRecords, panel: Panel) -> list[Record]:
    """The run's records; the mask rate, where it changes, is what the config says of their steps."""
    rate = run.config.objective.mlm_probability
    if panel.key != "mask_rate" or not isinstance(rate, Ramp):
        return run.training
    return [{**record, "mask_rate": rate_at(rate, record["step"])} for record in run.training]


def _draw(panel: Panel, lines: Sequence[_Line], runs: int, gallery: Gallery) -> Markup:
    has_held_out = any(line.held_out for line in lines)
    named = runs > 1

    def fill(drawn: Figure) -> None:
        axes = drawn.add_subplot()
        for line in lines:
            look = line_style(line.number)
            if line.training:
                if line.training.is_thinned:
                    axes.fill_between(
                        line.training.x, line.training.low, line.training.high, color=look["color"], alpha=0.15, lw=0
                    )
                marker = "o" if len(line.training.x) == 1 else None
                width = THIN if named and line.held_out else None
                axes.plot(line.training.x, line.training.y, lw=width, marker=marker, ms=4, **look)
            if line.held_out:
                color = look["color"] if named else COLORS[1]
                style = {**look, "color": color}
                marker = "o" if len(line.held_out.x) <= MARKED else None
                axes.plot(line.held_out.x, line.held_out.y, marker=marker, ms=4, mew=0, **style)
        axes.set_title(panel.title)
        axes.set_xlabel(panel.x)
        axes.margins(x=0.02)
        _format(axes, panel)
        if named or has_held_out:
            handles = _legend(lines, named, has_held_out)
            narrow = all(len(str(handle.get_label())) <= 16 for handle in handles)
            drawn.legend(handles=handles, loc="outside lower left", ncols=2 if narrow else 1)

    rows = len(lines) + 2 * has_held_out if named else 2 * has_held_out
    held = " and on held-out text" if has_held_out else ""
    alt = f"{panel.title} in training{held}, against {panel.x}: {', '.join(line.name for line in lines)}"
    return gallery.draw(f"{panel.key}-by-{panel.x}", alt, fill, (WIDTH, HEIGHT + 0.09 * max(rows - 2, 0)))


def _format(axes: Any, panel: Panel) -> None:
    if panel.x == "tokens":
        axes.xaxis.set_major_formatter(count_axis())
    if panel.is_share:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    elif panel.is_count:
        axes.yaxis.set_major_formatter(count_axis())
    elif panel.key == "learning_rate":
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    if panel.key in ("tokens_per_second", "data_wait", "mfu", "learning_rate", "mask_rate"):
        axes.set_ylim(bottom=0)


def _legend(lines: Sequence[_Line], named: bool, has_held_out: bool) -> list[Line2D]:
    if not named:
        return [
            Line2D([], [], label="training", **line_style(0)),
            Line2D([], [], color=COLORS[1], marker="o", ms=4, label="held-out"),
        ]
    handles = [Line2D([], [], label=short(line.name), **line_style(line.number)) for line in lines]
    if has_held_out:
        handles += [
            Line2D([], [], color=NEUTRAL, lw=THIN, label="training"),
            Line2D([], [], color=NEUTRAL, marker="o", ms=4, label="held-out"),
        ]
    return handles


def _missing(runs: Sequence[RunRecords]) -> list[str]:
    """What of the figures a run hasn't recorded, a line a run."""
    notes = []
    for run in runs:
        keys = {key for record in (*run.training, *run.held_out) for key, value in record.items() if value is not None}
        lacking = [name for key, name in NAMES.items() if key not in keys]
        if not run.training:
            lacking = ["the course of training (no metrics.jsonl)"]
        if lacking:
            notes.append(f"{run.name}: not recorded: {', '.join(lacking)}.")
    return notes


def _thinning(thinned: dict[str, Curve]) -> list[str]:
    return [
        f"{name}: {found.records:,} records are drawn as the means of {len(found.x):,} groups of neighbours; the pale "
        "band goes from the lowest to the highest of each."
        for name, found in thinned.items()
    ]
