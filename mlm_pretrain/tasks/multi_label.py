"""Multi-label classification: any number of labels a text, also none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.errors import UserError, nearest
from mlm_pretrain.tasks.adapter import TASKS, Example, Feature, Prediction
from mlm_pretrain.tasks.classification import in_order
from mlm_pretrain.tasks.many_classes import FEW, top_scores
from mlm_pretrain.tasks.sequence import SequenceTask, texts_of, whole_number
from mlm_pretrain.training.loss import IGNORE_INDEX, Batch

SEPARATORS = "|;,"
"""Of labels in a string: the first of these that occurs in it."""
THRESHOLD = 0.5


@TASKS.register("multi_label_classification")
class MultiLabelClassification(SequenceTask):
    """A list of labels a text: names or integers, in a list or in a string (`a|b`, `a;b`, `a, b`; empty for none).

    Each label is a yes or no of its own; those more likely than not are predicted.
    """

    metric: ClassVar[str] = "micro_f1"
    problem_type: ClassVar[str | None] = "multi_label_classification"
    label_dtype: ClassVar[torch.dtype] = torch.float32

    @classmethod
    def read_label(cls, value: Any, task: TaskConfig, place: str) -> list[str]:
        problem = f"{place}: {task.label_column} is {value!r}; "
        if isinstance(value, str):
            separator = next((mark for mark in SEPARATORS if mark in value), "|")
            return _distinct(part.strip() for part in value.split(separator) if part.strip())
        value = whole_number(value)
        values = [whole_number(item) for item in (value if isinstance(value, list) else [value])]
        if not all(isinstance(item, str | int) and item != "" for item in values):
            raise UserError(f"{problem}a list of names or integers is needed")
        if len(set(values)) < len(values) and set(values) <= {0, 1}:
            raise UserError(f"{problem}a list of the labels is needed, not a 0 or 1 for each that there is")
        return _distinct(map(str, values))

    @classmethod
    def stratum(cls, example: Example) -> str:
        return "|".join(sorted(example["label"]))

    @classmethod
    def label_names(cls, train: Sequence[Example], others: Iterable[Example], task: TaskConfig) -> list[str]:
        """The labels of the training set: integers by value, names by the alphabet."""
        names = {name for example in train for name in example["label"]}
        if not names:
            raise UserError(f"{train[0]['place']}: no training example has a label; there is nothing to learn")
        for example in others:
            for name in example["label"]:
                if name not in names:
                    raise UserError(
                        f"{example['place']}: the label '{name}' is not among the training labels{nearest(name, names)}"
                    )
        return in_order(names)

    def target(self, example: Example) -> np.ndarray:
        """int8 [labels]: of thousands of labels, a list of numbers an example would fill the memory."""
        if "label" not in example:
            return np.full(len(self.labels), IGNORE_INDEX, dtype=np.int8)
        target = np.zeros(len(self.labels), dtype=np.int8)
        target[[self.numbers[name] for name in example["label"]]] = 1
        return target

    def loss(self, model: torch.nn.Module, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The binary cross-entropies of all labels of all rows; each counts as a label."""
        labels = batch["labels"]
        labelled = labels != IGNORE_INDEX
        losses = torch.nn.functional.binary_cross_entropy_with_logits(
            self.logits(model, batch), labels.clamp(min=0.0), reduction="none"
        )
        return torch.where(labelled, losses, 0.0).sum(), labelled.sum(), {}

    def predictions(
        self, examples: Sequence[Example], features: Sequence[Feature], logits: Sequence[np.ndarray]
    ) -> list[Prediction]:
        """`labels`, those with a probability of a half or more, and the `chances` of all, float32 [labels]."""
        chances = torch.sigmoid(torch.from_numpy(np.stack(logits))).numpy()
        return [
            {"labels": [self.labels[number] for number in np.flatnonzero(row >= THRESHOLD)], "chances": row}
            for row in chances
        ]

    def record(self, example: Example, prediction: Prediction) -> dict[str, Any]:
        """`labels`, and the `scores` by label: all of up to a hundred labels, of more the ten highest, or `top_k`."""
        scores = top_scores(self.labels, prediction["chances"], self.top_k)
        return {"labels": prediction["labels"], "scores": scores}

    def majority(self, train: Sequence[Example], examples: Sequence[Example]) -> list[Prediction]:
        """The labels that more than half of the training texts have, for every text."""
        counts = Counter(name for example in train for name in example["label"])
        common = [name for name in self.labels if 2 * counts[name] > len(train)]
        return [{"labels": common} for _ in examples]

    def metrics(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> dict[str, Any]:
        """As `MultiLabelMetric`."""
        from mlm_pretrain.tasks.metrics import MultiLabelMetric

        return MultiLabelMetric().compute(
            predictions=[prediction["labels"] for prediction in predictions],
            references=[example["label"] for example in examples],
        )

    def errors(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
        """`place`, the text, `label`, the labels `missing` and `extra` (of very many the surest), and as `score` how
        sure the model was of the one that it was surest of; the most confident mistakes first."""
        found = []
        for example, prediction in zip(examples, predictions, strict=True):
            right, said = set(example["label"]), set(prediction["labels"])
            missing = [name for name in example["label"] if name not in said]
            extra = [name for name in prediction["labels"] if name not in right]
            scores = {name: float(prediction["chances"][self.numbers[name]]) for name in (*missing, *extra)}
            sure = [*(1 - scores[name] for name in missing), *(scores[name] for name in extra)]
            if len(extra) > FEW:
                extra = sorted(extra, key=lambda name, scores=scores: -scores[name])[:FEW]  # type: ignore[misc]
            if sure:
                found.append(
                    {
                        "place": example["place"],
                        **texts_of(example),
                        "label": example["label"],
                        "missing": missing,
                        "extra": extra,
                        "score": max(sure),
                    }
                )
        return sorted(found, key=lambda error: -error["score"])


def _distinct(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
