"""What a task's config leaves open of its recipe: the rate follows the encoder's width, the epochs the examples."""

from __future__ import annotations

import math

from transformers import PretrainedConfig

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.telemetry import say

WIDTH, RATE, HIGHEST_RATE = 256, 5e-4, 1e-3
"""RATE at this hidden size, in inverse proportion to the square of others."""
LORA_RATE = 3e-4
FEWEST_EPOCHS, MOST_EPOCHS, FEWEST_STEPS = 3, 10, 600


def settled(task: TaskConfig, config: PretrainedConfig, examples: int) -> TaskConfig:
    """The recipe, with a learning rate and a number of epochs.

    Args:
        config: of the encoder.
        examples: rows that are trained on.
    """
    return task.model_copy(
        update={
            "learning_rate": task.learning_rate or rate_for(task, config),
            "num_train_epochs": task.num_train_epochs or epochs_for(task, examples),
        }
    )


def announce(asked: TaskConfig, task: TaskConfig) -> None:
    """Say in a line what was chosen for the keys that `asked` leaves open."""
    chosen = []
    if asked.learning_rate is None:
        chosen.append(f"learning_rate {task.learning_rate:.3g}, by the encoder's width")
    if asked.num_train_epochs is None and asked.max_steps is None:
        chosen.append(f"num_train_epochs {task.num_train_epochs:g}, by the number of examples")
    if chosen:
        say(f"{task.name}: {'; '.join(chosen)}")


def rate_for(task: TaskConfig, config: PretrainedConfig) -> float:
    """The learning rate for an encoder of this width.

    5e-4 for the 256 of `nano`, as measured (docs/measurements/finetuning_quality.md). By the square of the width it
    comes to 5.6e-5 for 768 and 3.1e-5 for 1,024, near the 2e-5 to 5e-5 of BERT (arXiv 1810.04805, A.3).
    """
    if task.encoder == "lora":
        return LORA_RATE
    width = getattr(config, "hidden_size", None) or 768
    return min(RATE * (WIDTH / width) ** 2, HIGHEST_RATE)


def epochs_for(task: TaskConfig, examples: int) -> float:
    """The number of epochs for a training set of this size.

    A few hundred examples want more steps than three epochs make, also of large encoders (Zhang et al., arXiv
    2006.05987; Mosbach et al., arXiv 2006.04884).
    """
    per_epoch = math.ceil(examples / task.per_device_train_batch_size)
    return float(min(max(math.ceil(FEWEST_STEPS / per_epoch), FEWEST_EPOCHS), MOST_EPOCHS))
