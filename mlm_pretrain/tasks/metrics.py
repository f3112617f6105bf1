"""The scores of the tasks, as `evaluate.Metric` subclasses that live here: nothing is downloaded or cached on disk.

Import this module only where a score is computed: `evaluate` brings all of transformers' pipelines with it.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import datasets
import evaluate


class InMemoryMetric(evaluate.Metric):
    """A metric that keeps what it is given in memory, and makes no folder for it."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(keep_in_memory=True, **kwargs)

    def _build_data_dir(self) -> str:
        return ""


class ClassificationMetric(InMemoryMetric):
    """`accuracy` and `macro_f1`: the unweighted mean of the F1 of every class among references or predictions."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Accuracy and macro-averaged F1 of class names.",
            citation="",
            inputs_description="predictions, references: lists of class names",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        right = Counter(p for p, r in zip(predictions, references, strict=True) if p == r)
        predicted, present = Counter(predictions), Counter(references)
        classes = predicted.keys() | present.keys()
        f1 = [2 * right[name] / (predicted[name] + present[name]) for name in classes]
        return {"accuracy": right.total() / len(references), "macro_f1": sum(f1) / len(f1)}
