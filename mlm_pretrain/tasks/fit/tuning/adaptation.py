"""What the loop trains of an encoder, and what becomes of it: here, every weight of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from mlm_pretrain.tasks.adapter import Feature

States = dict[int, Any]
"""encoder: frozen: by the `id` of a feature, the feature itself (which so keeps its id), and its states, float32
[hidden] for heads of texts, [tokens, hidden] for heads of tokens."""


class Adaptation:
    """`encoder: full`: every weight is trained."""

    def __init__(self, model: nn.Module) -> None:
        """
        Args:
            model: with the head of the task, in float32, on the device where it will be trained.
        """
        self.model = model
        """What is trained: its parameters that require gradients. Its config is the one that is exported."""
        self.weight_decay_factor = 1.0
        """For the recipe's weight decay; known after `learn`."""

    def learn(self, features: Sequence[Feature]) -> None:
        """Take from the training rows what `model` needs besides them."""

    def rows(self, features: Sequence[Feature]) -> Sequence[Feature]:
        """The rows as `model` takes them, through the adapter's `collate`."""
        return features

    def finish(self) -> PreTrainedModel:
        """The plain transformers model, for `save_pretrained`; training is over then."""
        assert isinstance(self.model, PreTrainedModel)
        return self.model

    def save(self, folder: Path) -> None:
        """Write the weights and the config into a folder."""
        self.finish().save_pretrained(folder)
