"""Multi-label classification: any number of labels a text, also none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.runtime.loss import IGNORE_INDEX, Batch
from mlm_pretrain.tasks.adapter import TASKS, Example, Feature, Prediction
from mlm_pretrain.tasks.kinds.sequence import SequenceTask, texts_of
from mlm_pretrain.tasks.labels.columns import cell, column
from mlm_pretrain.tasks.labels.names import SEPARATORS, in_order, is_gap, read_list, whole_names, whole_number
from mlm_pretrain.tasks.labels.unusable import BadExample
from mlm_pretrain.tasks.scores.bag_of_words import BagOfWords
from mlm_pretrain.tasks.scores.many_classes import FEW, top_scores

THRESHOLD = 0.5


@TASKS.register("multi_label_classification")
class MultiLabelClassification(SequenceTask):
    """A list of labels a text: names or integers, in a list or in a string (`a|b`, `a;b`, `a, b`, a list as Python
    prints it; empty for none); or a column for each label with 0 or 1.

    Each label is a yes or no of its own; those more likely than not are predicted.
    """

    metric: ClassVar[str] = "micro_f1"
    problem_type: ClassVar[str | None] = "multi_label_classification"
    label_dtype: ClassVar[torch.dtype] = torch.float32

    @classmethod
    def label_of(cls, row: dict[str, Any], task: TaskConfig, place: str) -> list[str]:
        if isinstance(task.label_column, str):
            return cls.read_label(column(row, "label_column", task, place), task, place)
        said = {name: cell(row, name, "label_column", place) for name in task.label_column}
        return [name for name, value in said.items() if _is_on(value, name, place)]

    @classmethod
    def read_label(cls, value: Any, task: TaskConfig, place: str) -> list[str]:
        problem = f"{task.label_column} is {value!r:.80}; "
        if is_gap(value) and value != "":
            raise BadExample(place, f"{problem}a list of names or integers is needed, [] for none", "no label")
        if isinstance(value, str):
            given = read_list(value)
            if given is None:
                separator = next((mark for mark in SEPARATORS if mark in value), "|")
                return _distinct(part.strip() for part in value.split(separator) if part.strip())
            value = given
        values = [whole_number(item) for item in (value if isinstance(value, list) else [value])]
        if not all(isinstance(item, str | int) and not is_gap(item) for item in values):
            raise BadExample(place, f"{problem}a list of names or integers is needed", "the label is no list of names")
        if len(set(values)) < len(values) and set(values) <= {0, 1}:
            raise BadExample(
                place,
                f"{problem}a list of the labels is needed, not a 0 or 1 for each that there is",
                "0 or 1 for each label",
            )
        return _distinct(map(str, values))

    @classmethod
    def settle(cls, splits: dict[str, list[Example]], known: Collection[str] = ()) -> list[tuple[str, BadExample]]:
        """Class numbers that some file has as floats become integers.

        Raises:
            UserError: the label column is one of those that hold 0 or 1 for one label.
        """
        examples = [example for split in splits.values() for example in split]
        names = whole_names({name for example in examples for name in example["label"]}, known)
        for example in examples:
            example["label"] = _distinct(names.get(name, name) for name in example["label"])
        found = {example["label"][0] if len(example["label"]) == 1 else None for example in examples}
        if found and found <= {"0", "1"} and not found & set(known):
            raise UserError(
                f"{examples[0]['place']}: the label column holds 0 or 1 alone, in every row; of data with a column for "
                "each label write them all, as label_column: [toxic, insult, threat] (one label alone: [toxic], or "
                "task: classification)"
            )
        return []

    @classmethod
    def labels_in(cls, example: Example) -> list[str]:
        return list(example["label"])

    @classmethod
    def stratum(cls, example: Example) -> str:
        return "|".join(sorted(example["label"]))

    @classmethod
    def label_names(cls, train: Sequence[Example], task: TaskConfig) -> list[str]:
        """The labels of the training set: integers by value, names by the alphabet; or the columns, as the config names
        them."""
        names = {name for example in train for name in example["label"]}
        if not names:
            raise UserError(f"{train[0]['place']}: no training example has a label; there is nothing to learn")
        if isinstance(task.label_column, str):
            return in_order(names)
        settled = whole_names(task.label_column)
        return [settled.get(name, name) for name in task.label_column]

    def target(self, example: Example) -> np.ndarray:
        """int8 [labels]: of thousands of labels, a list of numbers an example would fill the memory."""
        if "label" not in example:
            return np.full(len(self.labels), IGNORE_INDEX, dtype=np.int8)
        target = np.zeros(len(self.labels), dtype=np.int8)
        target[[self.numbers[name] for name in example["label"] if name in self.numbers]] = 1
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

    @classmethod
    def majority(cls, train: Sequence[Example], examples: Sequence[Example]) -> list[Prediction]:
        """The labels that more than half of the training texts have, for every text."""
        counts = Counter(name for example in train for name in example["label"])
        common = in_order(name for name in counts if 2 * counts[name] > len(train))
        return [{"labels": common} for _ in examples]

    def bag_of_words(self, train: Sequence[Example]) -> BagOfWords:
        from mlm_pretrain.tasks.scores.bag_of_texts import LabelBag

        return LabelBag(train, self.labels, several=True)

    @classmethod
    def metrics(cls, examples: Sequence[Example], predictions: Sequence[Prediction]) -> dict[str, Any]:
        """As `MultiLabelMetric`."""
        from mlm_pretrain.tasks.scores.metrics import MultiLabelMetric

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
            # A label that only the test set has got no score.
            known = [name for name in (*missing, *extra) if name in self.numbers]
            scores = dict.fromkeys(missing, 0.0)
            scores |= {name: float(prediction["chances"][self.numbers[name]]) for name in known}
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


def _is_on(value: Any, name: str, place: str) -> bool:
    """What a column of 0 and 1 says of a row: a number, a truth value, or either as text."""
    if is_gap(value) or value in (-1, "-1"):
        raise BadExample(place, f"{name} is {value!r}; 0 or 1 is needed", f"no label in '{name}'")
    said = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}.get(str(value).lower())
    if said is None:
        raise BadExample(place, f"{name} is {value!r:.80}; a column of a label holds 0 or 1", f"no 0 or 1 in '{name}'")
    return said


def _distinct(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
