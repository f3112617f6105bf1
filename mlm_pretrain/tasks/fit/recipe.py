"""What a task's config leaves open: the rate follows the encoder's width, epochs and pooling the number of examples."""

from __future__ import annotations

import math

from transformers import PretrainedConfig

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.console.telemetry import say

RATE, WIDTH = 3e-4, 384
"""RATE up to this hidden size, and in inverse proportion to the cube of larger ones."""
LORA_RATE = 3e-4
FEWEST_EPOCHS, MOST_EPOCHS, FEWEST_STEPS = 3, 10, 400
POOLING = "classifier_pooling"
"""The key of the transformers config."""
FIRST_TOKEN_EXAMPLES = 500
"""From so many training rows on, a small encoder's classifier reads the first token."""


def settled(task: TaskConfig, config: PretrainedConfig, examples: int) -> TaskConfig:
    """The recipe, with a learning rate and a number of epochs, and in `config` the pooling if it was chosen.

    Args:
        config: of the encoder under the task's head.
        examples: rows that are trained on.
    """
    pooling = pooling_for(task, config, examples)
    return task.model_copy(
        update={
            "learning_rate": task.learning_rate or rate_for(task, config),
            "num_train_epochs": task.num_train_epochs or epochs_for(task, examples),
            "config": {**task.config, POOLING: pooling} if pooling else task.config,
        }
    )


def announce(asked: TaskConfig, task: TaskConfig, examples: int) -> None:
    """Say in a line what was chosen for the keys that `asked` leaves open."""
    chosen = []
    if asked.learning_rate is None:
        chosen.append(f"learning_rate {task.learning_rate:.3g}")
    if asked.num_train_epochs is None and asked.max_steps is None:
        chosen.append(f"num_train_epochs {task.num_train_epochs:g}")
    if POOLING in task.config.keys() - asked.config.keys():
        chosen.append(f"{POOLING} {task.config[POOLING]}")
    if chosen:
        say(f"{task.name}: for this encoder and {examples:,} training rows: {', '.join(chosen)}")


def rate_for(task: TaskConfig, config: PretrainedConfig) -> float:
    """The learning rate for an encoder of this width.

    3e-4 has served for 256 and 384 (docs/measurements/finetuning_quality.md, configs/RECIPES.md). By the cube of the
    width it comes to 3.8e-5 for 768 and 1.6e-5 for 1,024: of BERT's 2e-5 to 5e-5 (arXiv 1810.04805, A.3), and of
    RoBERTa-large's 1e-5 to 3e-5 (arXiv 1907.11692, table 10).
    """
    if task.encoder == "lora":
        return LORA_RATE
    width = getattr(config, "hidden_size", None) or 768
    return RATE * min(WIDTH / width, 1.0) ** 3


def epochs_for(task: TaskConfig, examples: int) -> float:
    """The number of epochs for a training set of this size.

    A few hundred examples want more steps than three epochs make, also of large encoders (Zhang et al., arXiv
    2006.05987; Mosbach et al., arXiv 2006.04884).
    """
    per_epoch = math.ceil(examples / task.per_device_train_batch_size)
    return float(min(max(math.ceil(FEWEST_STEPS / per_epoch), FEWEST_EPOCHS), MOST_EPOCHS))


def pooling_for(task: TaskConfig, config: PretrainedConfig, examples: int) -> str | None:
    """What a head of texts reads of the encoder's output: `mean` of the tokens or the first one (`cls`).

    None leaves it as the checkpoint has it: that is it, it is named, the architecture leaves no choice, or the encoder
    isn't a small one trained whole, for which alone it was measured (docs/measurements/finetuning_quality.md). To read
    word order out of the first token takes examples; the mean knows the topic at once.
    """
    # Only heads of whole texts have a problem_type.
    if task.encoder != "full" or POOLING in task.config or not config.problem_type or not hasattr(config, POOLING):
        return None
    if config.hidden_size > WIDTH:
        return None
    wanted = "cls" if examples >= FIRST_TOKEN_EXAMPLES else "mean"
    return wanted if wanted != getattr(config, POOLING) else None
