"""Single-label classification of texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase

from mlm_pretrain.errors import UserError, nearest
from mlm_pretrain.tasks.adapter import (
    TASKS,
    Feature,
    Prediction,
    cross_entropy_sum,
    pad,
    probabilities,
)
from mlm_pretrain.tasks.data import Splits
from mlm_pretrain.tasks.encoder import quiet
from mlm_pretrain.tasks.readers import Example, RowKind
from mlm_pretrain.training.loss import IGNORE_INDEX, Batch


@TASKS.register("classification")
class Classification:
    """Texts in `text`, their class in `label`; a text longer than `max_length` tokens is cut and counted.

    Features of cut texts have `truncated: True`.
    """

    row_kind: ClassVar[RowKind] = "text"
    metric: ClassVar[str] = "accuracy"
    auto_class: ClassVar[Any] = AutoModelForSequenceClassification
    architecture: ClassVar[str] = "ForSequenceClassification"

    def __init__(
        self, labels: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int, stride: int = 0
    ) -> None:
        self.labels = list(labels)
        self.tokenizer = tokenizer
        self.max_length = max_length

    @staticmethod
    def label_names(splits: Splits) -> list[str]:
        """The classes of the training set: integers by value, names by the alphabet."""
        names = {example["label"] for example in splits.train}
        if len(names) < 2:
            example = splits.train[0]
            raise UserError(f"{example['place']}: every training label is '{example['label']}'; two classes are needed")
        for example in (*(splits.validation or ()), *(splits.test or ())):
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

    def collate(self, features: Sequence[Feature]) -> Batch:
        return pad(features, self.tokenizer)

    def loss(self, model: torch.nn.Module, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        return cross_entropy_sum(model, batch)

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
