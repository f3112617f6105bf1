"""Figures as PNG files, in one style."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font_names

from mlm_pretrain.escaping import visible

DPI = 150
# Colours that readers with any colour vision tell apart (Okabe & Ito 2008).
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#6B6B6B"
# The first comes with matplotlib; the others, where a machine has them, for the scripts that it lacks.
FONTS = (
    "DejaVu Sans",
    *(
        "Noto Sans CJK SC",
        "Noto Sans CJK JP",
        "WenQuanYi Micro Hei",
        "PingFang SC",
        "Hiragino Sans",
        "Droid Sans Fallback",
    ),
    *("Noto Sans Devanagari", "Noto Sans Bengali", "Noto Sans Tamil", "Noto Sans Thai", "Noto Sans Ethiopic"),
)
STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": "black",
    "ytick.labelcolor": "black",
    "legend.frameon": False,
}
WRITTEN_CLASSES = 20
"""A confusion matrix of more classes has colours only."""
NAMED_CLASSES = 60
"""With more classes, only some are named."""
LONGEST_NAME = 28
"""Characters of a class on an axis."""


def style() -> AbstractContextManager[None]:
    """The settings in which figures are made."""
    installed = set(get_font_names())
    return rc_context({**STYLE, "font.family": [name for name in FONTS if name in installed]})


def figure(width: float, height: float) -> Figure:
    """An empty figure; inches. Make, fill and save it within `style()`: then nothing is clipped or overlaps."""
    made = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(made)
    return made


def save(made: Figure, path: Path) -> None:
    """Write a PNG file, whole or not at all. Equal figures give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.tmp")
    beside.unlink(missing_ok=True)  # what is there may be a link to a file of somebody else's
    try:
        with warnings.catch_warnings():
            # A character that no font has is drawn as a box.
            warnings.filterwarnings("ignore", message="Glyph .* missing")
            made.savefig(beside, format="png", metadata={"Software": None})
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def confusion_matrix(labels: Sequence[str], matrix: Sequence[Sequence[int]], path: Path) -> None:
    """Draw which classes are taken for which: colours are shares of a row, the numbers in the cells are counts.

    Args:
        matrix: [true class, predicted class], counts.
    """
    counts = np.asarray(matrix, dtype=np.int64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [_short(label) for label in labels]
    # Room for the names beside a square of cells.
    margin = 0.075 * max(map(len, names)) + 0.9
    side = float(np.clip(0.42 * len(names), 2.0, 9.0))
    with style():
        made = figure(side + margin + 0.9, side + margin)
        axes = made.add_subplot()
        image = axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
        every = -(-len(names) // NAMED_CLASSES)
        places = range(0, len(names), every)
        shown = [names[place] for place in places]
        size = 9 if len(names) <= 24 else 6
        # Short names stand upright where there is room; others would run into their neighbours.
        upright = max(map(len, names)) * 0.075 < side / len(names)
        turn: dict[str, Any] = {} if upright else {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
        axes.set_xticks(places, shown, fontsize=size, **turn)
        axes.set_yticks(places, shown, fontsize=size)
        axes.set(xlabel="predicted", ylabel="true")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        if len(names) <= WRITTEN_CLASSES:
            _write_counts(axes, counts, shares, side / len(names))
        bar = made.colorbar(image, ax=axes, shrink=0.8, aspect=25)
        bar.set_label("share of the true class")
        bar.outline.set_visible(False)
        save(made, path)


def reliability_diagram(bins: Sequence[Mapping[str, Any]], ece: float, path: Path) -> None:
    """Draw how often predictions of each confidence are right, and how many there are (Guo et al. 2017).

    Args:
        bins: each with `low` and `high`, `count`, and the means `confidence` and `accuracy` (None in an empty one).
        ece: the expected calibration error.
    """
    filled = [row for row in bins if row["count"]]
    lows, widths = [row["low"] for row in filled], [row["high"] - row["low"] for row in filled]
    with style():
        made = figure(4.2, 5.0)
        top, bottom = made.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        accuracies = [row["accuracy"] for row in filled]
        top.bar(lows, accuracies, widths, align="edge", color=BLUE, alpha=0.55, label="accuracy")
        top.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="calibrated")
        confidences = [row["confidence"] for row in filled]
        top.plot(confidences, accuracies, "o", color=ORANGE, markersize=4, clip_on=False, label="mean confidence")
        top.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="accuracy", title=f"expected calibration error {ece:.3f}")
        top.legend(loc="upper left", fontsize=8)
        bottom.bar(lows, [row["count"] for row in filled], widths, align="edge", color=GREY, alpha=0.6)
        bottom.set(xlabel="confidence", ylabel="examples")
        for axes in (top, bottom):
            axes.grid(axis="y")
        made.align_ylabels([top, bottom])
        save(made, path)


def _write_counts(axes: Any, counts: np.ndarray, shares: np.ndarray, cell: float) -> None:
    """
    Args:
        cell: its width in inches.
    """
    # A digit is about 0.64 of the font's size wide.
    size = min(9.0, 0.85 * cell * 72 / (0.64 * len(str(counts.max()))))
    for (row, column), count in np.ndenumerate(counts):
        if count:
            color = "white" if shares[row, column] > 0.55 else "black"
            axes.text(column, row, f"{count}", ha="center", va="center", color=color, fontsize=size)


def _short(label: str) -> str:
    """A class name as it fits on an axis, taken literally."""
    label = visible(label)
    name = label if len(label) <= LONGEST_NAME else f"{label[: LONGEST_NAME - 1]}…"
    # Dollars would begin a formula.
    return name.replace("$", r"\$")
