"""What the tasks have in common that read a text, or two together, and say one thing of the whole."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, PretrainedConfig

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.models.new import quiet
from mlm_pretrain.runtime.loss import Batch
from mlm_pretrain.tasks.adapter import Example, Feature, TaskAdapter, pad
from mlm_pretrain.tasks.labels.columns import column, text_column
from mlm_pretrain.text.files import long

TEMPERATURE = "calibration_temperature"
"""The key in the config of a finished model; transformers ignores it."""
PAIRS = "trained_on_pairs"
"""Another: whether the model was trained on pairs of texts."""


class SequenceTask(TaskAdapter):
    """Texts in `text` (of a pair the second in `text_pair`), what is to be said of them in `label`.

    A pair is joined by the tokenizer's own template, with `token_type_ids` where the tokenizer gives them, as
    `transformers.pipeline` does. What is longer than `max_length` tokens is cut, of a pair whichever text is longer
    (`longest_first`), and counted: features of cut texts have `truncated: True`.
    """

    auto_class: ClassVar[Any] = AutoModelForSequenceClassification
    architecture: ClassVar[str] = "ForSequenceClassification"
    label_dtype: ClassVar[torch.dtype] = torch.int64
    top_k: int | None = None
    """How many scores the record of a prediction has; None leaves it to the task."""

    @classmethod
    def read_label(cls, value: Any, task: TaskConfig, place: str) -> Any:
        """The value of the label column as examples have it.

        Raises:
            BadExample: it isn't what this task learns.
        """
        raise NotImplementedError

    @classmethod
    def label_of(cls, row: dict[str, Any], task: TaskConfig, place: str) -> Any:
        """What a row is labelled with, from whichever columns have it."""
        return cls.read_label(column(row, "label_column", task, place), task, place)

    def target(self, example: Example) -> Any:
        """What the loss takes for `labels`: a number, or an array of them; -100 for an example without label."""
        raise NotImplementedError

    @functools.cached_property
    def numbers(self) -> dict[str, int]:
        """The number of each label."""
        return {label: number for number, label in enumerate(self.labels)}

    @classmethod
    def make_example(cls, row: dict[str, Any], task: TaskConfig, place: str, labelled: bool = True) -> Example:
        example = {"text": text_column(row, "text_column", task, place), "place": place}
        if task.text_pair_column is not None:
            example["text_pair"] = text_column(row, "text_pair_column", task, place)
        if labelled:
            example["label"] = cls.label_of(row, task, place)
        return example

    @classmethod
    def text_of(cls, example: Example) -> str:
        return "\n".join(texts_of(example).values())

    @classmethod
    def serves(cls, config: PretrainedConfig) -> bool:
        # A head with one output and no kind regresses, as transformers' own loss has it.
        if config.problem_type is None and config.num_labels == 1:
            name = (config.architectures or [""])[0]
            return name.endswith(cls.architecture) and cls.problem_type == "regression"
        return super().serves(config)

    def encode(self, examples: Sequence[Example]) -> list[Feature]:
        with quiet():  # its warning about long texts: they are cut below
            encoded = self._tokenize(examples)
        features = []
        for number, example in enumerate(examples):
            row = {name: encoded[name][number] for name in encoded}
            truncated = len(row["input_ids"]) > self.max_length
            if truncated:
                cut = self._tokenize([example], truncation="longest_first", max_length=self.max_length)
                row = {name: cut[name][0] for name in cut}
            features.append({**row, "labels": self.target(example), "example": number, "truncated": truncated})
        if self.tokenizer.is_fast:
            # Truncation is a setting of the tokenizer itself, and would be saved with it.
            self.tokenizer.backend_tokenizer.no_truncation()
        return features

    def collate(self, features: Sequence[Feature]) -> Batch:
        """As `pad`, with `labels` [rows] or [rows, labels] in `label_dtype`."""
        rows = [{name: value for name, value in feature.items() if name != "labels"} for feature in features]
        labels = torch.as_tensor(np.array([feature["labels"] for feature in features]), dtype=self.label_dtype)
        return {**pad(rows, self.tokenizer), "labels": labels}

    def mark(self, model: torch.nn.Module) -> None:
        super().mark(model)
        # The encoder may be another task's model, whose temperature is not this one's.
        vars(model.config).pop(TEMPERATURE, None)
        setattr(model.config, PAIRS, self.task is not None and self.task.text_pair_column is not None)

    def take(self, config: PretrainedConfig) -> None:
        self.takes_pairs = bool(getattr(config, PAIRS, False))

    def _tokenize(self, examples: Sequence[Example], **settings: Any) -> Any:
        texts = [long.beginning(example["text"], self.max_length) for example in examples]
        pairs = [
            long.beginning(example["text_pair"], self.max_length) for example in examples if "text_pair" in example
        ]
        return self.tokenizer(texts, pairs or None, **settings)


def texts_of(example: Example) -> dict[str, str]:
    """`text` and, of a pair, `text_pair`."""
    return {name: example[name] for name in ("text", "text_pair") if name in example}
