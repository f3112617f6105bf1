"""What a task is to the fine-tuning loop, and the parts that adapters share.

To add a task: a subclass of `TaskAdapter`, registered in `TASKS`, in a file that `registered.py` imports. One loop,
one `predict` and one `evaluate` serve all.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.registry import Registry
from mlm_pretrain.runtime.loss import IGNORE_INDEX, Batch
from mlm_pretrain.tasks.labels.unusable import BadExample
from mlm_pretrain.tasks.scores.bag_of_words import BagOfWords

Example = dict[str, Any]
"""One labelled example as `make_example` gives it; `place` is the file and line that errors name."""
Feature = dict[str, Any]
"""One row for the model: `input_ids` and `attention_mask` as lists of ints, `labels` (a number, or a list as long as
the ids; -100 is ignored), `example` (the number of the example it comes from), and what the adapter adds."""
Prediction = dict[str, Any]
TRAINED_TASK = "trained_task"
"""The key in the config of a finished model, as labels may look like those of another task; transformers ignores it."""


class TaskAdapter:
    """A task: its examples, its rows for the model, its loss, its predictions and its scores."""

    metric: ClassVar[str]
    """The figure among `metrics` that chooses models and is told first; higher is better."""
    auto_class: ClassVar[Any]
    """The transformers AutoModel class with the head of this task."""
    architecture: ClassVar[str]
    """How the architecture of a finished model is named: its class ends in this."""
    problem_type: ClassVar[str | None] = None
    """As the transformers config records it, where several tasks share an architecture."""
    label_key: ClassVar[str] = "label_column"
    """The config key that names the column with the labels."""
    takes_pairs = False
    """Whether a finished model is known to have been trained on pairs of texts."""
    reads_conll: ClassVar[bool] = False
    """Whether the examples may stand in CoNLL files, a word and its tag a line."""

    def __init__(
        self,
        labels: Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        stride: int = 0,
        task: TaskConfig | None = None,
    ) -> None:
        """
        Args:
            labels: the names of the model's outputs, in their order.
            max_length: tokens per row, special tokens included.
            stride: tokens that neighbouring windows of a long text share.
            task: the recipe; None if a finished model is used.
        """
        self.labels = list(labels)
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.stride = stride
        self.task = task

    # -- data ----------------------------------------------------------------------------------------------------

    @classmethod
    def make_example(cls, row: dict[str, Any], task: TaskConfig, place: str, labelled: bool = True) -> Example:
        """Check one row of any source and bring it into the form of an example.

        Args:
            row: the columns of a jsonl, csv or Parquet row, or of a dataset; of CoNLL files `task.tokens_column` and
                `task.tags_column`.
            labelled: false for texts to predict, of which only the input is read.

        Raises:
            BadExample: a column is missing, or a value isn't what the task needs.
        """
        raise NotImplementedError

    @classmethod
    def settle(cls, splits: dict[str, list[Example]], known: Collection[str] = ()) -> list[tuple[str, BadExample]]:
        """Bring the labels of all splits into one form, which a row alone doesn't tell.

        Args:
            splits: examples that can't be used beside the others are taken out.
            known: the labels of a finished model.

        Returns:
            What was taken out, by split.
        """
        return []

    @classmethod
    def review(cls, examples: Sequence[Example]) -> None:
        """Say, a line a file, what had to be mended to read its examples; called once they are all made."""

    @classmethod
    def text_of(cls, example: Example) -> str:
        """What makes an example this one: examples are drawn by its hash."""
        return example["text"]

    @classmethod
    def group_of(cls, example: Example) -> str:
        """What a split into train and validation keeps on one side: examples of which one tells about the other."""
        return cls.text_of(example)

    @classmethod
    def stratum(cls, example: Example) -> str:
        """The class of an example whose share `max_train_samples` keeps; "" where there is none."""
        return ""

    @classmethod
    def labels_in(cls, example: Example) -> list[str]:
        """The names in an example's label that a model may know or not."""
        return []

    @classmethod
    def label_names(cls, train: Sequence[Example], task: TaskConfig) -> list[str]:
        """The model's outputs, learnt from the training set.

        Raises:
            UserError: the data can't teach the task.
        """
        raise NotImplementedError

    @classmethod
    def serves(cls, config: PretrainedConfig) -> bool:
        """Whether a finished model is one of this task."""
        name = (config.architectures or [""])[0]
        # Checkpoints often leave the kind out; then transformers takes single labels.
        kind = config.problem_type or "single_label_classification"
        return name.endswith(cls.architecture) and cls.problem_type in (None, kind)

    @classmethod
    def check(cls, train: Sequence[Example], labels: Sequence[str], task: TaskConfig) -> None:
        """Look at what `learn` will need, before there is a model.

        Raises:
            UserError: the recipe doesn't go with the data.
        """
        if task.class_weight is not None:
            raise UserError(f"task '{task.name}': class_weight goes with task: classification")

    def learn(self, train: Sequence[Example]) -> None:
        """Take from the training set what the loss needs besides labels: class weights, say."""

    def learnt(self) -> Collection[str]:
        """Of the names that `labels_in` gives, those that the model knows."""
        return self.labels

    # -- the model's side ----------------------------------------------------------------------------------------

    def encode(self, examples: Sequence[Example]) -> list[Feature]:
        """Tokenised rows of the examples, at least one each; examples without labels give ignored labels."""
        raise NotImplementedError

    def collate(self, features: Sequence[Feature]) -> Batch:
        """Padded int64 tensors on the CPU: `input_ids`, `attention_mask` [rows, tokens], `labels`."""
        return pad(features, self.tokenizer)

    def loss(self, model: torch.nn.Module, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Sum of the losses of all labels (float32), number of labels, further sums."""
        return cross_entropy_sum(self.logits(model, batch), batch["labels"])

    def logits(self, model: torch.nn.Module, batch: Batch) -> Tensor:
        """The head's output, float32 [rows, labels] or [rows, tokens, labels]; `labels` stay out, as the model's own
        loss is never used."""
        inputs = {name: tensor for name, tensor in batch.items() if name in MODEL_INPUTS}
        return model(**inputs).logits.float()

    def calibrate(self, examples: Sequence[Example], features: Sequence[Feature], logits: Sequence[np.ndarray]) -> None:
        """Adjust how scores are made from logits, on validation; predictions stay the same."""

    def mark(self, model: torch.nn.Module) -> None:
        """Note in the config of a trained model what prediction needs besides labels: a temperature, say."""
        if self.task is not None:
            setattr(model.config, TRAINED_TASK, self.task.task)

    def take(self, config: PretrainedConfig) -> None:
        """Take up what `mark` has noted in the config of a finished model."""

    # -- after the model -----------------------------------------------------------------------------------------

    def predictions(
        self, examples: Sequence[Example], features: Sequence[Feature], logits: Sequence[np.ndarray]
    ) -> list[Prediction]:
        """One prediction an example, from the logits of its rows as `logits_of` gives them."""
        raise NotImplementedError

    def record(self, example: Example, prediction: Prediction) -> dict[str, Any]:
        """A prediction as a line of `predict`'s output, without the input's own columns."""
        return prediction

    @classmethod
    def majority(cls, train: Sequence[Example], examples: Sequence[Example]) -> list[Prediction]:
        """What predicting the commonest answer, without looking at the context, gives."""
        raise NotImplementedError

    def bag_of_words(self, train: Sequence[Example]) -> BagOfWords | None:
        """What people would take in place of an encoder: a linear model on words; None if there is no such thing.

        Raises:
            NoBagOfWords: there is none for these examples.
        """
        return None

    @classmethod
    def metrics(cls, examples: Sequence[Example], predictions: Sequence[Prediction]) -> dict[str, Any]:
        """Figures (some in a mapping of their own, as by type) of predictions against the examples' labels."""
        raise NotImplementedError

    def errors(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
        """What went wrong, a record an error, with the `place` of its example; none where a task lists none."""
        return []


TASKS: Registry[type[TaskAdapter]] = Registry("task", key="tasks.task")
MODEL_INPUTS = ("input_ids", "inputs_embeds", "attention_mask", "token_type_ids")


def pad(features: Sequence[Feature], tokenizer: PreTrainedTokenizerBase) -> Batch:
    """Rows of differing length as tensors, padded on the right to the longest.

    `labels` that are numbers become [rows], lists of numbers as long as the ids [rows, tokens]. Where rows have
    `inputs_embeds`, float32 [hidden] or [tokens, hidden], those take the place of the ids.
    """
    fill = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
    batch: Batch = {}
    frozen = "inputs_embeds" in features[0]
    for name in ("attention_mask", "labels") if frozen else (*MODEL_INPUTS, "labels"):
        rows = [feature[name] for feature in features if name in feature]
        if not rows:
            continue
        if not isinstance(rows[0], list):
            batch[name] = torch.tensor(rows)
            continue
        longest = max(map(len, rows))
        padded = np.full((len(rows), longest), IGNORE_INDEX if name == "labels" else fill.get(name, 0), dtype=np.int64)
        for number, row in enumerate(rows):
            padded[number, : len(row)] = row
        batch[name] = torch.from_numpy(padded)
    if frozen:
        states = [torch.from_numpy(feature["inputs_embeds"]) for feature in features]
        batch["inputs_embeds"] = torch.nn.utils.rnn.pad_sequence(states, batch_first=True)
    return batch


def cross_entropy_sum(
    logits: Tensor, labels: Tensor, weight: Tensor | None = None
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The loss of heads with one class a label.

    Args:
        logits: float32 [..., classes].
        labels: int64 [...]; -100 is ignored.
        weight: of each class, float32 [classes].
    """
    loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, -2), labels.flatten(), weight=weight, reduction="sum", ignore_index=IGNORE_INDEX
    )
    return loss, (labels != IGNORE_INDEX).sum(), {}


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)
