"""Scores of named entities. Import it only where a score is computed, as `metrics.py`."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
from seqeval.metrics import classification_report

from mlm_pretrain.tasks.metrics import InMemoryMetric


class EntityMetric(InMemoryMetric):
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
