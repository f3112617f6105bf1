"""The scores of the tasks, as `evaluate.Metric` subclasses that live here: nothing is downloaded or cached on disk.

Import this module only where a score is computed: `evaluate` brings all of transformers' pipelines with it.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import datasets
import evaluate
from seqeval.metrics import classification_report


class _InMemory(evaluate.Metric):
    """A metric that keeps what it is given in memory, and makes no folder for it."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(keep_in_memory=True, **kwargs)

    def _build_data_dir(self) -> str:
        return ""


class ClassificationMetric(_InMemory):
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


class EntityMetric(_InMemory):
    """Entity-level `precision`, `recall` and `f1` (over all entities, and `by_type`), as seqeval computes them.

    An entity counts where its type, its first and its last word are right. Tags are read as conlleval reads them
    (seqeval's default mode): an I- that continues nothing starts an entity.
    """

    def _info(self) -> evaluate.MetricInfo:
        tags = datasets.Sequence(datasets.Value("string"))
        return evaluate.MetricInfo(
            description="Precision, recall and F1 of named entities.",
            citation="",
            inputs_description="predictions, references: lists of lists of IOB2 tags",
            features=datasets.Features({"predictions": tags, "references": tags}),
        )

    def _compute(self, predictions: list[list[str]], references: list[list[str]]) -> dict[str, Any]:
        predictions, references = [list(tags) for tags in predictions], [list(tags) for tags in references]
        if all(tag == "O" for tags in (*predictions, *references) for tag in tags):
            return {"f1": 0.0, "precision": 0.0, "recall": 0.0, "by_type": {}}
        report = classification_report(references, predictions, output_dict=True, zero_division=0)
        figures = {
            name: {
                "f1": float(row["f1-score"]),
                "precision": float(row["precision"]),
                "recall": float(row["recall"]),
                "support": int(row["support"]),
            }
            for name, row in report.items()
        }
        overall = figures.pop("micro avg")
        by_type = {name: row for name, row in figures.items() if name not in ("macro avg", "weighted avg")}
        return {name: overall[name] for name in ("f1", "precision", "recall")} | {"by_type": by_type}
