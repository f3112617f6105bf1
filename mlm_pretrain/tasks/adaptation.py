"""How the encoder is used: trained whole, through low-rank adapters, or frozen under a head of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.tasks.adapter import Feature, TaskAdapter


class Adaptation:
    """`encoder: full`: every weight is trained."""

    def __init__(self, model: PreTrainedModel, adapter: TaskAdapter, task: TaskConfig) -> None:
        """
        Args:
            model: with the head of the task, in float32, on the device where it will be trained.
        """
        self.model = model
        """What is trained: its parameters that require gradients."""

    def rows(self, features: Sequence[Feature]) -> Sequence[Feature]:
        """The rows as `model` takes them, through the adapter's `collate`."""
        return features

    def finish(self) -> PreTrainedModel:
        """The plain transformers model, for `save_pretrained`."""
        return self.model

    def save(self, folder: Path) -> None:
        """Write the weights and the config into a folder."""
        self.finish().save_pretrained(folder)


def adapt(model: PreTrainedModel, adapter: TaskAdapter, task: TaskConfig) -> Adaptation:
    """Make a model trainable as `task.encoder` says."""
    if task.encoder == "full":
        return Adaptation(model, adapter, task)
    raise UserError(f"task '{task.name}': encoder: {task.encoder} is not there yet")
