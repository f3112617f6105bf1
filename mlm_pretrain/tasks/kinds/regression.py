"""Regression: a number a text, or a pair of texts (how alike they are, say)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.runtime.loss import IGNORE_INDEX, Batch
from mlm_pretrain.tasks.adapter import TASKS, Example, Feature, Prediction
from mlm_pretrain.tasks.kinds.sequence import SequenceTask, texts_of
from mlm_pretrain.tasks.labels.names import is_gap
from mlm_pretrain.tasks.labels.unusable import BadExample
from mlm_pretrain.tasks.scores.bag_of_words import BagOfWords


@TASKS.register("regression")
class Regression(SequenceTask):
    """A number a text, as it stands in the data; the model's one output is it, under the name `score`."""

    metric: ClassVar[str] = "pearson"
    problem_type: ClassVar[str | None] = "regression"
    label_dtype: ClassVar[torch.dtype] = torch.float32

    @classmethod
    def read_label(cls, value: Any, task: TaskConfig, place: str) -> float:
        problem = f"{task.label_column} is {value!r:.80}; "
        if isinstance(value, list):
            remedy = "several labels a text are task: multi_label_classification"
            raise BadExample(place, problem + remedy, "the label is a list")
        reason = "no label" if is_gap(value) else "the label is no number"
        try:
            # Python reads 1_000 as a number, which no table means by it.
            if isinstance(value, bool) or not isinstance(value, str | int | float) or "_" in str(value):
                raise ValueError
            number = float(value)
        except (ValueError, OverflowError):
            raise BadExample(
                place, f"{problem}a number is needed, as 2.5 (names: task: classification)", reason
            ) from None
        if not math.isfinite(number):
            raise BadExample(place, f"{problem}a finite number is needed", reason)
        return number

    @classmethod
    def label_names(cls, train: Sequence[Example], task: TaskConfig) -> list[str]:
        first = train[0]
        if all(example["label"] == first["label"] for example in train):
            raise UserError(f"{first['place']}: every training label is {first['label']:g}; there is nothing to learn")
        return ["score"]

    def target(self, example: Example) -> float:
        if "label" not in example:
            return float(IGNORE_INDEX)
        value = np.float32(example["label"])
        # -100 stands for no label; the next float is 8e-6 away.
        return float(np.nextafter(value, np.float32(0)) if value == IGNORE_INDEX else value)

    def loss(self, model: torch.nn.Module, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The squared errors."""
        labels = batch["labels"]
        labelled = labels != IGNORE_INDEX
        errors = self.logits(model, batch).squeeze(-1) - labels
        return torch.where(labelled, errors, 0.0).square().sum(), labelled.sum(), {}

    def predictions(
        self, examples: Sequence[Example], features: Sequence[Feature], logits: Sequence[np.ndarray]
    ) -> list[Prediction]:
        """`score`, the number."""
        return [{"score": float(row[0])} for row in logits]

    @classmethod
    def majority(cls, train: Sequence[Example], examples: Sequence[Example]) -> list[Prediction]:
        """The mean of the training set."""
        mean = statistics.fmean(example["label"] for example in train)
        return [{"score": mean} for _ in examples]

    def bag_of_words(self, train: Sequence[Example]) -> BagOfWords:
        from mlm_pretrain.tasks.scores.bag_of_texts import NumberBag

        return NumberBag(train)

    @classmethod
    def metrics(cls, examples: Sequence[Example], predictions: Sequence[Prediction]) -> dict[str, Any]:
        """As `RegressionMetric`."""
        from mlm_pretrain.tasks.scores.metrics import RegressionMetric

        return RegressionMetric().compute(
            predictions=[prediction["score"] for prediction in predictions],
            references=[example["label"] for example in examples],
        )

    def errors(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
        """Every example: `place`, the text, `label`, `predicted` and the `error` between; the largest errors first."""
        found = [
            {
                "place": example["place"],
                **texts_of(example),
                "label": example["label"],
                "predicted": prediction["score"],
                "error": prediction["score"] - example["label"],
            }
            for example, prediction in zip(examples, predictions, strict=True)
        ]
        return sorted(found, key=lambda error: -abs(error["error"]))
