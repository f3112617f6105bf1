"""The scores of a model in training, and after it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlm_pretrain.console import spent
from mlm_pretrain.io.plain_json import dumps
from mlm_pretrain.tasks.adapter import Example, Feature, Prediction
from mlm_pretrain.tasks.fit.setup import Figures, Setup
from mlm_pretrain.tasks.fit.tuning.adaptation import Adaptation
from mlm_pretrain.tasks.inference.logits import logits_of


class Scores:
    """What a model comes to on validation and test. The logits of the weights as they are now are computed once."""

    def __init__(self, setup: Setup, adaptation: Adaptation, name: str) -> None:
        """
        Args:
            name: of the run, for errors.
        """
        self._setup = setup
        self._adaptation = adaptation
        self._name = name
        self._rows: dict[str, Sequence[Feature]] = {}
        self._logits: dict[str, list[np.ndarray]] = {}

    def validate(self) -> float:
        """The metric on validation of weights that have changed."""
        self.forget()
        value: float = self.figures("validation")[self._setup.metric]
        return value

    def forget(self) -> None:
        """The weights have changed."""
        self._logits.clear()

    @spent.on("scoring")
    def figures(self, split: str) -> Figures:
        """All metrics."""
        return self._setup.adapter.metrics(self._examples(split), self._predictions(split))

    @spent.on("scoring")
    def errors(self) -> str:
        """The mistakes on the test set as lines of JSON."""
        found = self._setup.adapter.errors(self._examples("test"), self._predictions("test"))
        return "".join(dumps(error) + "\n" for error in found)

    def rows(self, split: str) -> Sequence[Feature]:
        split = self._scored(split)
        if split not in self._rows:
            self._rows[split] = self._adaptation.rows(self._setup.features[split])
        return self._rows[split]

    def logits(self, split: str) -> list[np.ndarray]:
        split = self._scored(split)
        if split not in self._logits:
            setup, model, size = self._setup, self._adaptation.model, self._setup.task.per_device_eval_batch_size
            self._logits[split] = logits_of(
                setup.adapter, model, self.rows(split), size, setup.accelerator, name=self._name
            )
        return self._logits[split]

    def _predictions(self, split: str) -> list[Prediction]:
        return self._setup.adapter.predictions(self._examples(split), self.rows(split), self.logits(split))

    def _examples(self, split: str) -> list[Example]:
        examples: list[Example] = getattr(self._setup.data, self._scored(split))
        return examples

    def _scored(self, split: str) -> str:
        return "validation" if self._setup.data.test_is_validation else split
