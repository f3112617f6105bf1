"""What a run's records say of its tasks, typed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

from mlm_pretrain.config import TaskConfig


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_finite)]


class Facts(BaseModel):
    """Records hold more than cards tell: keys that are not named here are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class CurvePoint(Facts):
    """The test metric with a share of the training set."""

    fraction: Number = None
    examples: int | None = None
    pretrained: Number = None
    pretrained_std: Number = None
    scratch: Number = None
    scratch_std: Number = None
    bag_of_words: Number = None


class Trial(Facts):
    """What one recipe of a sweep came to on validation, under the metric's own name."""

    model_config = ConfigDict(extra="allow")

    learning_rate: Number = None
    num_train_epochs: Number = None


class SweepFacts(Facts):
    trials: list[Trial] = []


class TaskResult(Facts):
    """One task's test metric: mean and standard deviation over the seeds, as shares.

    `test_is_validation`: there was no test set, and the figures are those of the validation set. `details` has all
    figures of the test set, nested ones by class (`by_class`) and by type of entity (`by_type`).
    """

    metric: str | None = None
    pretrained: Number = None
    pretrained_std: Number = None
    pretrained_seeds: list[Number] = []
    scratch: Number = None
    scratch_std: Number = None
    scratch_seeds: list[Number] = []
    bag_of_words: Number = None
    majority: Number = None
    seeds: list[int] = []
    train_examples: int | None = None
    validation_examples: int | None = None
    test_examples: int | None = None
    test_is_validation: bool = False
    truncated_examples: dict[str, int] = {}
    encoder: str | None = None
    learning_rate: Number = None
    num_train_epochs: Number = None
    scratch_learning_rate: Number = None
    details: dict[str, Any] = {}
    sweep: SweepFacts | None = None
    learning_curve: list[CurvePoint] = []
    history: list[list[dict[str, Any]]] = []
    """By seed, an entry an evaluation: `step`, `epoch`, `loss`, `validation`."""
    seconds: Number = None

    @property
    def behind(self) -> str:
        """What is to be said if the encoder was no help: empty unless the bag of words did better."""
        ours, words = self.pretrained, self.bag_of_words
        if ours is None or words is None or ours >= words:
            return ""
        return f"behind a bag of words: {self.metric} {ours:.3f} against {words:.3f}"


class ModelFacts(Facts):
    """What a model's transformers `config.json` says."""

    architectures: list[str] | None = None
    model_type: str | None = None
    vocab_size: int | None = None
    hidden_size: int | None = None
    num_hidden_layers: int | None = None
    num_attention_heads: int | None = None
    intermediate_size: int | None = None
    max_position_embeddings: int | None = None
    id2label: dict[str, str] = {}
    calibration_temperature: Number = None

    @property
    def architecture(self) -> str:
        """The name of the class; code on a card imports it, so that nothing but a name is taken."""
        named = self.architectures[0] if self.architectures else ""
        return named if named.isidentifier() else "unknown"


def behind(results: Mapping[str, Any]) -> list[str]:
    """Of results by task, those in which the encoder is behind a bag of words, a sentence each."""
    found = {name: TaskResult.model_validate(result).behind for name, result in results.items()}
    return [f"{name} is {words}" for name, words in found.items() if words]


class TaskFacts(Facts):
    name: str
    model: ModelFacts
    config: TaskConfig | None = None
    result: TaskResult | None = None
