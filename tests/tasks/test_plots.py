"""Figures: what was asked for is drawn, and nothing of it is outside the picture or over another."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from mlm_pretrain import plots
from mlm_pretrain.tasks.scores.calibration import calibration_error, reliability

NAMES = [
    "no",
    "a very long name of a class that nobody would want to read to its end",
    "cost in $ and $",
    "物理",
    "été",
]


def saved(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved from here on."""
    found: list[Figure] = []
    save = plots.save

    def keep(made: Figure, path: Path) -> None:
        found.append(made)
        save(made, path)

    monkeypatch.setattr(plots, "save", keep)
    return found


@pytest.mark.parametrize("count", [2, 6, 20, 21, 150])
def test_confusion_matrix(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = saved(monkeypatch)
    labels = [f"{NAMES[number % 5]} {number}"[-60:] for number in range(count)]
    matrix = np.random.default_rng(0).integers(1, 9999, (count, count)).tolist()
    plots.confusion_matrix(labels, matrix, tmp_path / "new" / "confusion.png")
    picture = imread(tmp_path / "new" / "confusion.png")
    assert min(picture.shape[:2]) > 300 and max(picture.shape[:2]) < 2200
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["confusion.png"]
    axes = figures[0].axes[0]
    written = [text.get_text() for text in axes.texts]
    assert written == [str(value) for row in matrix for value in row] if count <= 20 else written == []
    shares = np.asarray(axes.images[0].get_array())
    assert np.allclose(shares.sum(axis=1), 1.0)
    renderer = figures[0].canvas.get_renderer()
    for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert len(ticks) == count or (count > 60 and len(ticks) > 30)
        for tick in ticks:
            box = tick.get_window_extent(renderer)
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= picture.shape[1] and box.y1 <= picture.shape[0]
    boxes = [tick.get_window_extent(renderer) for tick in axes.get_yticklabels()]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    cell = axes.get_window_extent(renderer).width / count
    assert all(text.get_window_extent(renderer).width < cell for text in axes.texts)


def test_reliability_diagram(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = saved(monkeypatch)
    scores, right = [0.31, 0.55, 0.58, 0.97, 0.98, 1.0], [False, True, False, True, True, True]
    bins = reliability(scores, right)
    for name in ("one.png", "two.png"):
        plots.reliability_diagram(bins, calibration_error(scores, right), tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert imread(tmp_path / "one.png").shape[:2] == (750, 630)
    top, bottom = figures[0].axes
    assert [bar.get_height() for bar in top.patches] == [row["accuracy"] for row in bins if row["count"]]
    assert [bar.get_height() for bar in bottom.patches] == [row["count"] for row in bins if row["count"]]
    assert top.get_title() == f"expected calibration error {calibration_error(scores, right):.3f}"
    box = figures[0].get_tightbbox()
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= 4.2 and box.y1 <= 5.0
