"""The scores of the tasks, as `evaluate.Metric` subclasses that live here: nothing is downloaded or cached on disk.

Import this module only where a score is computed: `evaluate` brings all of transformers' pipelines with it.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping
from typing import Any

import datasets
import evaluate
import numpy as np

ByClass = dict[str, dict[str, float]]


class InMemoryMetric(evaluate.Metric):
    """A metric that keeps what it is given in memory, and makes no folder for it."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(keep_in_memory=True, **kwargs)

    def _build_data_dir(self) -> str:
        return ""


class ClassificationMetric(InMemoryMetric):
    """Scores of class names, of which `accuracy` favours frequent classes and the others don't.

    `accuracy`; `macro_f1`: the unweighted mean of the F1 of every class among references or predictions; `mcc`: the
    Matthews correlation, for several classes Gorodkin's R_K (2004); `balanced_accuracy`: the mean recall of the
    classes among references; `by_class`: `precision`, `recall`, `f1` and `support` of every class.
    """

    def _info(self) -> evaluate.MetricInfo:
        return _described("Scores of class names.", "class names", datasets.Value("string"))

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, Any]:
        right = Counter(p for p, r in zip(predictions, references, strict=True) if p == r)
        predicted, present = Counter(predictions), Counter(references)
        classes = _by_class(right, predicted, present)
        return {
            "accuracy": right.total() / len(references),
            "macro_f1": statistics.fmean(row["f1"] for row in classes.values()),
            "mcc": _matthews(right, predicted, present),
            "balanced_accuracy": statistics.fmean(classes[name]["recall"] for name in present),
            "by_class": classes,
        }


class MultiLabelMetric(InMemoryMetric):
    """Scores of lists of labels.

    `micro_f1`: F1 over all labels of all texts; `macro_f1`: the unweighted mean of the F1 of every label among
    references or predictions; `exact_match`: the share of texts with every label right; `by_class`.
    """

    def _info(self) -> evaluate.MetricInfo:
        labels = datasets.Sequence(datasets.Value("string"))
        return _described("Scores of lists of labels.", "lists of lists of labels", labels)

    def _compute(self, predictions: list[list[str]], references: list[list[str]]) -> dict[str, Any]:
        pairs = [(set(p), set(r)) for p, r in zip(predictions, references, strict=True)]
        right = Counter(name for p, r in pairs for name in p & r)
        predicted = Counter(name for p, _ in pairs for name in p)
        present = Counter(name for _, r in pairs for name in r)
        classes = _by_class(right, predicted, present)
        found = predicted.total() + present.total()
        return {
            "micro_f1": 2 * right.total() / found if found else 0.0,
            "macro_f1": statistics.fmean(row["f1"] for row in classes.values()) if classes else 0.0,
            "exact_match": statistics.fmean(p == r for p, r in pairs),
            "by_class": classes,
        }


class RegressionMetric(InMemoryMetric):
    """Scores of numbers: the correlations `spearman` and `pearson`, the mean squared error `mse`, and `r2`.

    `r2` is the share of the references' variance that is explained, and chooses as `mse` does, but higher is better.
    A correlation with what doesn't vary is 0.
    """

    def _info(self) -> evaluate.MetricInfo:
        return _described("Scores of numbers.", "numbers", datasets.Value("float64"))

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float]:
        ours, theirs = np.asarray(predictions, dtype=np.float64), np.asarray(references, dtype=np.float64)
        error, variance = float(np.mean((ours - theirs) ** 2)), float(np.var(theirs))
        return {
            "spearman": _correlation(_ranks(ours), _ranks(theirs)),
            "pearson": _correlation(ours, theirs),
            "mse": error,
            "r2": 1 - error / variance if np.ptp(theirs) else 0.0,
        }


def _described(description: str, inputs: str, feature: Any) -> evaluate.MetricInfo:
    return evaluate.MetricInfo(
        description=description,
        citation="",
        inputs_description=f"predictions, references: {inputs}",
        features=datasets.Features({"predictions": feature, "references": feature}),
    )


def _by_class(right: Mapping[str, int], predicted: Mapping[str, int], present: Mapping[str, int]) -> ByClass:
    """The scores of every class from counts of its right, its predicted and its true labels; 0 for 0/0."""
    return {
        name: {
            "precision": right[name] / predicted[name] if predicted[name] else 0.0,
            "recall": right[name] / present[name] if present[name] else 0.0,
            "f1": 2 * right[name] / (predicted[name] + present[name]),
            "support": present[name],
        }
        for name in sorted(predicted.keys() | present.keys())
    }


def _matthews(right: Counter[str], predicted: Counter[str], present: Counter[str]) -> float:
    total = present.total()
    together = sum(predicted[name] * present[name] for name in present)
    spread = [total**2 - sum(count**2 for count in counts.values()) for counts in (predicted, present)]
    # Integers up to here: nothing is lost on large sets.
    return (right.total() * total - together) / math.sqrt(spread[0] * spread[1]) if all(spread) else 0.0


def _correlation(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Pearson's."""
    # Not by the deviations: those of 0.1, 0.1, 0.1 aren't 0.
    if not np.ptp(ours) or not np.ptp(theirs):
        return 0.0
    ours, theirs = ours - ours.mean(), theirs - theirs.mean()
    return float(np.clip(ours @ theirs / (np.linalg.norm(ours) * np.linalg.norm(theirs)), -1.0, 1.0))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, the mean of theirs for values that are equal."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]
