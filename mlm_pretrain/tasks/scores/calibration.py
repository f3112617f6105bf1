"""Scores that say how often they are right: temperature scaling, and how far off scores are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

BINS = 15
TEMPERATURES = (0.05, 20.0)
"""The lowest and the highest that is fitted."""


def fit_temperature(logits: np.ndarray, labels: Sequence[int]) -> float:
    """The temperature T that makes softmax(logits / T) most likely (Guo et al. 2017, arXiv 1706.04599).

    Labels are smoothed by 1 / (n + 2), as Platt (1999) does: where no example is wrong, the plain likelihood grows for
    ever as T falls, and every score would become 1.

    Args:
        logits: [examples, classes], on data that the model was not trained on.
        labels: the number of the class of each example.
    """
    rows, targets = torch.as_tensor(logits, dtype=torch.float64), torch.as_tensor(labels)
    # PyTorch gives the right class its share of what is smoothed away too.
    smoothing = min(1 / (len(targets) + 2) * rows.shape[1] / (rows.shape[1] - 1), 1.0)

    def loss(log_temperature: float) -> float:
        scaled = rows / math.exp(log_temperature)
        return torch.nn.functional.cross_entropy(scaled, targets, label_smoothing=smoothing).item()

    low, high = map(math.log, TEMPERATURES)
    best = _minimum(loss, low, high)
    # Logits that are all equal are as likely at any temperature.
    return math.exp(best) if loss(best) < loss(0.0) else 1.0


def reliability(confidences: Sequence[float], correct: Sequence[bool], bins: int = BINS) -> list[dict[str, Any]]:
    """The table of a reliability diagram: predictions by their confidence, in bins of equal width.

    Args:
        confidences: the scores of the predicted classes, 0 to 1.
        correct: which of the predictions are right.

    Returns:
        Per bin, empty ones included, `low` and `high` (low < confidence ≤ high), `count`, and the means `confidence`
        and `accuracy` (None in an empty bin).
    """
    scores, right = np.asarray(confidences, dtype=np.float64), np.asarray(correct, dtype=bool)
    edges = np.arange(bins + 1) / bins
    number = np.clip(np.searchsorted(edges, scores, side="left") - 1, 0, bins - 1)
    return [
        {
            "low": float(edges[each]),
            "high": float(edges[each + 1]),
            "count": int(inside.sum()),
            "confidence": float(scores[inside].mean()) if inside.any() else None,
            "accuracy": float(right[inside].mean()) if inside.any() else None,
        }
        for each in range(bins)
        for inside in [number == each]
    ]


def calibration_error(confidences: Sequence[float], correct: Sequence[bool], bins: int = BINS) -> float:
    """The expected calibration error: how far confidence and accuracy are apart in the bins of `reliability`, as a
    mean over the predictions (Naeini et al. 2015; Guo et al. 2017)."""
    table = [row for row in reliability(confidences, correct, bins) if row["count"]]
    return sum(row["count"] * abs(row["confidence"] - row["accuracy"]) for row in table) / len(confidences)


def _minimum(function: Callable[[float], float], low: float, high: float, tolerance: float = 1e-6) -> float:
    """Where a function that falls and then rises is least, by golden section."""
    ratio = (math.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = function(left), function(right)
    while high - low > tolerance:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = function(right)
    return (low + high) / 2
