"""Single-label classification of texts and pairs of texts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import PretrainedConfig

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.console.telemetry import warn
from mlm_pretrain.errors import UserError, nearest
from mlm_pretrain.runtime.loss import IGNORE_INDEX, Batch
from mlm_pretrain.tasks.adapter import (
    TASKS,
    Example,
    Feature,
    Prediction,
    cross_entropy_sum,
    probabilities,
)
from mlm_pretrain.tasks.kinds.sequence import TEMPERATURE, SequenceTask, texts_of
from mlm_pretrain.tasks.labels.names import are_fractions, in_order, is_gap, whole_names, whole_number
from mlm_pretrain.tasks.labels.unusable import BadExample
from mlm_pretrain.tasks.scores.bag_of_words import BagOfWords
from mlm_pretrain.tasks.scores.calibration import calibration_error, fit_temperature
from mlm_pretrain.tasks.scores.many_classes import top_scores

MARKED = 0.05
"""If fewer than this share of the rows have -1 beside classes 0, 1, …, it may well mean no label."""


@TASKS.register("classification")
class Classification(SequenceTask):
    """One class a text, a name.

    Scores are softmax probabilities of the logits divided by `temperature`, which `calibrate` fits; the finished
    model's config keeps it as `calibration_temperature`. transformers' own pipeline doesn't divide.
    """

    metric: ClassVar[str] = "accuracy"
    problem_type: ClassVar[str | None] = "single_label_classification"

    temperature: float = 1.0
    weight: Tensor | None = None
    """Of each class in the loss, float32 [classes]."""

    @classmethod
    def read_label(cls, value: Any, task: TaskConfig, place: str) -> str:
        """A class as a name: names stay, integers become their digits."""
        value = whole_number(value)
        if isinstance(value, str | int) and not is_gap(value):
            return str(value)
        remedy = ""
        if isinstance(value, list):
            remedy = "; several labels a text are task: multi_label_classification"
        elif isinstance(value, float) and math.isfinite(value):
            remedy = "; to learn numbers, task: regression"
        reason = "no label" if is_gap(value) else "the label is no name or integer"
        problem = f"{task.label_column} is {value!r:.80}; a label is a name or an integer{remedy}"
        raise BadExample(place, problem, reason)

    @classmethod
    def settle(cls, splits: dict[str, list[Example]], known: Collection[str] = ()) -> list[tuple[str, BadExample]]:
        """Class numbers that some file has as floats become integers."""
        examples = [example for split in splits.values() for example in split]
        names = whole_names({example["label"] for example in examples}, known)
        for example in examples:
            example["label"] = names.get(example["label"], example["label"])
        return []

    @classmethod
    def labels_in(cls, example: Example) -> list[str]:
        return [example["label"]]

    @classmethod
    def stratum(cls, example: Example) -> str:
        return example["label"]

    @classmethod
    def label_names(cls, train: Sequence[Example], task: TaskConfig) -> list[str]:
        """The classes of the training set: integers by value, names by the alphabet."""
        names = Counter(example["label"] for example in train)
        if len(names) < 2:
            example = train[0]
            raise UserError(f"{example['place']}: every training label is '{example['label']}'; two classes are needed")
        ordered = in_order(names)
        if are_fractions(names):
            warn(f"task '{task.name}': {len(names)} classes as '{ordered[0]}'; task: regression learns them as numbers")
        numbers = [name for name in ordered if name.isdecimal()]
        if len(numbers) == len(names) - 1 and 0 < names["-1"] < MARKED * len(train):
            warn(f"task '{task.name}': -1 is learnt as a class; if it means no label, empty it in {names['-1']:,} rows")
        return ordered

    @classmethod
    def check(cls, train: Sequence[Example], labels: Sequence[str], task: TaskConfig) -> None:
        class_weights(train, labels, task)

    def learn(self, train: Sequence[Example]) -> None:
        weights = class_weights(train, self.labels, self.task) if self.task else None
        self.weight = None if weights is None else torch.tensor(weights, dtype=torch.float32)

    def target(self, example: Example) -> int:
        return self.numbers.get(example.get("label", ""), IGNORE_INDEX)  # a class that only the test set has: none

    def loss(self, model: torch.nn.Module, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        logits = self.logits(model, batch)
        weight = None if self.weight is None else self.weight.to(logits.device)
        return cross_entropy_sum(logits, batch["labels"], weight)

    def calibrate(self, examples: Sequence[Example], features: Sequence[Feature], logits: Sequence[np.ndarray]) -> None:
        rows = [(row, self.target(example)) for row, example in zip(logits, examples, strict=True)]
        known = [(row, target) for row, target in rows if target != IGNORE_INDEX]
        if known:
            self.temperature = fit_temperature(np.stack([row for row, _ in known]), [target for _, target in known])

    def mark(self, model: torch.nn.Module) -> None:
        super().mark(model)
        setattr(model.config, TEMPERATURE, self.temperature)

    def take(self, config: PretrainedConfig) -> None:
        super().take(config)
        self.temperature = float(getattr(config, TEMPERATURE, None) or 1.0)

    def predictions(
        self, examples: Sequence[Example], features: Sequence[Feature], logits: Sequence[np.ndarray]
    ) -> list[Prediction]:
        """`label`, its calibrated `score`, and its `uncalibrated_score`; where `top_k` asks for them, the highest
        `scores` by label."""
        rows = np.stack(logits)
        scores, uncalibrated = probabilities(rows / self.temperature), probabilities(rows)
        return [
            {
                "label": self.labels[best],
                "score": float(scores[number, best]),
                "uncalibrated_score": float(uncalibrated[number, best]),
                **({"scores": top_scores(self.labels, scores[number], self.top_k)} if self.top_k else {}),
            }
            for number, best in enumerate(rows.argmax(axis=-1))
        ]

    def record(self, example: Example, prediction: Prediction) -> dict[str, Any]:
        return {name: prediction[name] for name in ("label", "score", "scores") if name in prediction}

    @classmethod
    def majority(cls, train: Sequence[Example], examples: Sequence[Example]) -> list[Prediction]:
        """The commonest class of the training set, the first by the alphabet where several are, for every text."""
        counts = Counter(example["label"] for example in train)
        commonest = min(counts, key=lambda name: (-counts[name], name))
        return [{"label": commonest} for _ in examples]

    def bag_of_words(self, train: Sequence[Example]) -> BagOfWords:
        from mlm_pretrain.tasks.scores.bag_of_texts import LabelBag

        return LabelBag(
            train, self.labels, several=False, class_weight=None if self.weight is None else self.weight.tolist()
        )

    @classmethod
    def metrics(cls, examples: Sequence[Example], predictions: Sequence[Prediction]) -> dict[str, Any]:
        """As `ClassificationMetric`; of predictions with scores the calibration error too, `ece`, and what it would be
        without the temperature, `ece_uncalibrated`."""
        from mlm_pretrain.tasks.scores.metrics import ClassificationMetric

        figures = ClassificationMetric().compute(
            predictions=[prediction["label"] for prediction in predictions],
            references=[example["label"] for example in examples],
        )
        right = [p["label"] == e["label"] for p, e in zip(predictions, examples, strict=True)]
        for name, score in (("ece", "score"), ("ece_uncalibrated", "uncalibrated_score")):
            if all(score in prediction for prediction in predictions):
                figures[name] = calibration_error([prediction[score] for prediction in predictions], right)
        return figures

    def errors(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
        """`place`, the text, `label`, `predicted`, `score`; the most confident mistakes first."""
        wrong = [
            {
                "place": example["place"],
                **texts_of(example),
                "label": example["label"],
                "predicted": prediction["label"],
                "score": prediction["score"],
            }
            for example, prediction in zip(examples, predictions, strict=True)
            if prediction["label"] != example["label"]
        ]
        return sorted(wrong, key=lambda error: -error["score"])


def class_weights(train: Sequence[Example], labels: Sequence[str], task: TaskConfig) -> list[float] | None:
    """The weight of each class in the loss; None without `class_weight`.

    Raises:
        UserError: `class_weight` names a class that isn't there, or leaves nothing to learn.
    """
    wanted = task.class_weight
    if wanted is None:
        return None
    counts = Counter(example["label"] for example in train)
    if wanted == "balanced":
        weights = [1 / counts[name] if counts[name] else 0.0 for name in labels]
    else:
        names = whole_names([name for name in wanted if name not in labels])
        wanted = {names.get(name, name): weight for name, weight in wanted.items()}
        for name in wanted:
            if name not in labels:
                raise UserError(f"class_weight: no class is named '{name}'{nearest(name, labels)}")
        weights = [wanted.get(name, 1.0) for name in labels]
    total = sum(weight * counts[name] for weight, name in zip(weights, labels, strict=True))
    if total == 0:
        raise UserError("class_weight: every training example weighs 0; give a class that occurs a weight above 0")
    # The loss is divided by the number of labels; so weighted, it stays as large as it would be unweighted.
    return [weight * len(train) / total for weight in weights]
