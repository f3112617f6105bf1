"""Single-label classification of texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
from transformers import AutoModelForSequenceClassification

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.errors import UserError, nearest
from mlm_pretrain.tasks.adapter import (
    TASKS,
    Example,
    Feature,
    Prediction,
    TaskAdapter,
    column,
    probabilities,
    text_column,
)
from mlm_pretrain.tasks.encoder import quiet
from mlm_pretrain.training.loss import IGNORE_INDEX


@TASKS.register("classification")
class Classification(TaskAdapter):
    """Texts in `text`, their class in `label`; a text longer than `max_length` tokens is cut and counted.

    Features of cut texts have `truncated: True`.
    """

    metric: ClassVar[str] = "accuracy"
    auto_class: ClassVar[Any] = AutoModelForSequenceClassification
    architecture: ClassVar[str] = "ForSequenceClassification"
    problem_type: ClassVar[str | None] = "single_label_classification"

    @classmethod
    def make_example(cls, row: dict[str, Any], task: TaskConfig, place: str, labelled: bool = True) -> Example:
        example = {"text": text_column(row, "text_column", task, place), "place": place}
        if labelled:
            example["label"] = _label(column(row, "label_column", task, place), task, place)
        return example

    @classmethod
    def stratum(cls, example: Example) -> str:
        return example["label"]

    @classmethod
    def label_names(cls, train: Sequence[Example], others: Iterable[Example], task: TaskConfig) -> list[str]:
        """The classes of the training set: integers by value, names by the alphabet."""
        names = {example["label"] for example in train}
        if len(names) < 2:
            example = train[0]
            raise UserError(f"{example['place']}: every training label is '{example['label']}'; two classes are needed")
        for example in others:
            if example["label"] not in names:
                raise UserError(
                    f"{example['place']}: the label '{example['label']}' is not among the training labels"
                    f"{nearest(example['label'], names)}"
                )
        integers = all(name.lstrip("-").isdecimal() for name in names)
        return sorted(names, key=int) if integers else sorted(names)

    def encode(self, examples: Sequence[Example]) -> list[Feature]:
        numbers = {name: number for number, name in enumerate(self.labels)}
        texts = [example["text"] for example in examples]
        with quiet():  # its warning about long texts: they are cut below
            encoded = self.tokenizer(texts)
        features = []
        for number, example in enumerate(examples):
            row = {name: encoded[name][number] for name in encoded}
            long = len(row["input_ids"]) > self.max_length
            if long:
                row = dict(self.tokenizer(texts[number], truncation=True, max_length=self.max_length))
            label = numbers[example["label"]] if "label" in example else IGNORE_INDEX
            features.append({**row, "labels": label, "example": number, "truncated": long})
        return features

    def predictions(
        self, examples: Sequence[Example], features: Sequence[Feature], logits: Sequence[np.ndarray]
    ) -> list[Prediction]:
        """`label` and its `score`, the softmax probability."""
        scores = probabilities(np.stack(logits))
        return [{"label": self.labels[row.argmax()], "score": float(row.max())} for row in scores]

    def majority(self, train: Sequence[Example], examples: Sequence[Example]) -> list[Prediction]:
        """The commonest class of the training set, the first by the alphabet where several are, for every text."""
        counts = Counter(example["label"] for example in train)
        commonest = min(counts, key=lambda name: (-counts[name], name))
        return [{"label": commonest} for _ in examples]

    def metrics(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> dict[str, Any]:
        """`accuracy` and `macro_f1`."""
        from mlm_pretrain.tasks.metrics import ClassificationMetric

        return ClassificationMetric().compute(
            predictions=[prediction["label"] for prediction in predictions],
            references=[example["label"] for example in examples],
        )


def _label(value: Any, task: TaskConfig, place: str) -> str:
    """A class as a name: names stay, integers become their digits."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, str | int) or value == "":
        raise UserError(f"{place}: {task.label_column} is {value!r}; a label is a name or an integer")
    return str(value)
