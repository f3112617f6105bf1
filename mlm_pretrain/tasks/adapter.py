"""What a task is to the fine-tuning loop, and the parts that adapters share.

To add a task: a class with the members of `TaskAdapter`, registered in `TASKS`, in a file that `finetune.py`
imports. One loop and one `predict` serve all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mlm_pretrain.registry import Registry
from mlm_pretrain.tasks.data import Splits
from mlm_pretrain.tasks.readers import Example, RowKind
from mlm_pretrain.training.loss import IGNORE_INDEX, Batch, to_device

Feature = dict[str, Any]
"""One row for the model: `input_ids` and `attention_mask` as lists of ints, `labels` (an int, or a list of ints as
long as the ids; -100 is ignored), `example` (the number of the example it comes from), and what the adapter adds."""

Prediction = dict[str, Any]


class TaskAdapter(Protocol):
    row_kind: ClassVar[RowKind]
    """What an example is."""
    metric: ClassVar[str]
    """The figure among `metrics` that chooses models and is told first; higher is better."""
    auto_class: ClassVar[Any]
    """The transformers AutoModel class with the head of this task."""
    architecture: ClassVar[str]
    """How the architecture of a finished model is named: its class ends in this."""
    labels: list[str]
    tokenizer: PreTrainedTokenizerBase

    def __init__(
        self, labels: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int, stride: int = 0
    ) -> None:
        """
        Args:
            labels: the names of the model's outputs, in their order.
            max_length: tokens per row, special tokens included.
            stride: tokens that neighbouring windows of a long text share.
        """

    @staticmethod
    def label_names(splits: Splits) -> list[str]:
        """The model's outputs, learnt from the data.

        Raises:
            UserError: the data can't teach the task.
        """

    def encode(self, examples: Sequence[Example]) -> list[Feature]:
        """Tokenised rows of the examples, at least one each; examples without labels give ignored labels."""

    def collate(self, features: Sequence[Feature]) -> Batch:
        """Padded int64 tensors on the CPU: `input_ids`, `attention_mask` [rows, tokens], `labels`."""

    def loss(self, model: torch.nn.Module, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Sum of the cross-entropies (float32), number of labels, further sums."""

    def predictions(
        self, examples: Sequence[Example], features: Sequence[Feature], logits: Sequence[np.ndarray]
    ) -> list[Prediction]:
        """One prediction an example, from the logits of its rows as `logits_of` gives them."""

    def majority(self, train: Sequence[Example], examples: Sequence[Example]) -> list[Prediction]:
        """What predicting the commonest label, without looking at the context, gives."""

    def metrics(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> dict[str, Any]:
        """Figures (some in a mapping of their own, as by type) of predictions against the examples' labels."""


TASKS: Registry[type[TaskAdapter]] = Registry("task", key="tasks.task")


def pad(features: Sequence[Feature], tokenizer: PreTrainedTokenizerBase) -> Batch:
    """Rows of differing length as tensors, padded on the right to the longest."""
    fill = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
    batch: Batch = {}
    for name in ("input_ids", "attention_mask", "token_type_ids", "labels"):
        rows = [feature[name] for feature in features if name in feature]
        if not rows:
            continue
        if isinstance(rows[0], int):
            batch[name] = torch.tensor(rows)
            continue
        padding = IGNORE_INDEX if name == "labels" else fill.get(name, 0)
        longest = max(map(len, rows))
        batch[name] = torch.tensor([[*row, *[padding] * (longest - len(row))] for row in rows])
    return batch


def cross_entropy_sum(model: torch.nn.Module, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The loss of heads with one class a label: the model's logits, but never its own (averaged) loss."""
    labels = batch["labels"]
    logits = model(**{name: tensor for name, tensor in batch.items() if name != "labels"}).logits
    loss = torch.nn.functional.cross_entropy(
        logits.float().flatten(0, -2), labels.flatten(), reduction="sum", ignore_index=IGNORE_INDEX
    )
    return loss, (labels != IGNORE_INDEX).sum(), {}


def logits_of(
    adapter: TaskAdapter,
    model: PreTrainedModel,
    features: Sequence[Feature],
    batch_size: int,
    accelerator: Accelerator | None = None,
) -> list[np.ndarray]:
    """The float32 logits of every row, in the order of the rows; rows of similar length share a batch.

    Args:
        accelerator: where given, its autocast is used; else float32.

    Returns:
        Per row an array [labels], or [tokens or more, labels] for heads that label tokens.
    """
    model.eval()
    order = sorted(range(len(features)), key=lambda number: len(features[number]["input_ids"]))
    result: list[np.ndarray] = [np.empty(0)] * len(features)
    for start in range(0, len(order), batch_size):
        numbers = order[start : start + batch_size]
        batch = adapter.collate([features[number] for number in numbers])
        batch = to_device({name: tensor for name, tensor in batch.items() if name != "labels"}, model.device)
        with torch.inference_mode():
            if accelerator is None:
                logits = model(**batch).logits
            else:
                with accelerator.autocast():
                    logits = model(**batch).logits
        for number, row in zip(numbers, logits.float().cpu().numpy(), strict=True):
            result[number] = row
    return result


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)
