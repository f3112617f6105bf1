"""`transformers.Trainer` in the reference setting.

Everything here that trains is called in a process of its own (`figures.session`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from transformers import (
    DataCollatorForLanguageModeling,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from figures.clocks import Clock, Stopwatch
from figures.common import load
from figures.reference import BERT, TEXT_ENDED, Rows
from figures.session import Rounds
from mlm_pretrain.config import Config, ModelConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.models.build import build_model


@dataclass(frozen=True)
class Peer:
    """How a `transformers.Trainer` is set up."""

    model: ModelConfig
    arguments: dict[str, Any]
    """`TrainingArguments`; what isn't said is their default."""
    length: int
    """Tokens a row at most."""


def default_peer(config: Config) -> Peer:
    """A BERT of the same size under Trainer's defaults (fp32, full head, learning rate 5e-5); the batch is ours."""
    model = ModelConfig.model_validate(BERT)
    return Peer(
        model, {"per_device_train_batch_size": config.training.global_batch_size}, config.stream.sequence_length
    )


def tuned_peer(config: Config, precision: str, **arguments: Any) -> Peer:
    """Our model as a knowing user trains it: bf16 where it is faster here, the model's own head on masked positions
    (`sparse_prediction`), learning rate 1e-3, β₂ 0.98, and rows that bring the collator their special tokens."""
    model = config.model.model_copy(update={"config": {**config.model.config, "sparse_prediction": True}})
    settings = {
        "per_device_train_batch_size": config.training.global_batch_size,
        "bf16": precision == "bf16",
        "learning_rate": 1e-3,
        "adam_beta2": 0.98,
        "weight_decay": 0.01,
        "remove_unused_columns": False,
        "dataloader_num_workers": 4 if torch.cuda.is_available() else 0,
    }
    return Peer(model, {**settings, **arguments}, config.stream.sequence_length)


class TimedTrainer(Trainer):
    """A Trainer that tells a clock of each step, and stops when it is over."""

    def __init__(self, *arguments: Any, clock: Clock, **keys: Any) -> None:
        super().__init__(*arguments, **keys)
        self.clock = clock
        self.add_callback(_StopWhenOver(clock))

    def training_step(self, model: Any, inputs: dict[str, Any], *more: Any, **keys: Any) -> torch.Tensor:
        # Left on its device: nobody waits for it here.
        real = inputs["attention_mask"] if "attention_mask" in inputs else inputs["segment_ids"] > 0
        self.clock.tick(real.sum())
        return super().training_step(model, inputs, *more, **keys)


class _StopWhenOver(TrainerCallback):
    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def on_step_end(self, args: Any, state: Any, control: Any, **keys: Any) -> None:
        control.should_training_stop = control.should_training_stop or self._clock.is_over()


def make_trainer(
    peer: Peer,
    tokenizer: PreTrainedTokenizerFast,
    rows: Rows,
    clock: Clock,
    folder: str | Path,
    kind: type[TimedTrainer] = TimedTrainer,
) -> TimedTrainer:
    """A Trainer on rows as run_mlm.py has them, masked by `DataCollatorForLanguageModeling` at 15 %.

    Args:
        folder: where Trainer may write.
    """
    defaults = {
        "max_steps": 1_000_000,
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }
    model = build_model(peer.model, tokenizer, peer.length)
    arguments = TrainingArguments(output_dir=str(folder), **{**defaults, **peer.arguments})
    special = [np.isin(row, tokenizer.all_special_ids).astype(np.int8) for row in rows]
    dataset = datasets.Dataset.from_dict({"input_ids": list(rows), "special_tokens_mask": special})
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
    return kind(model, arguments, train_dataset=dataset, data_collator=collator, clock=clock)


def trainer_speed(
    rounds: Rounds, peer: Peer, tokenizer: Path, rows: Rows, kind: type[TimedTrainer] = TimedTrainer
) -> None:
    """Run a Trainer in rounds, each of which comes to a `Speed`.

    Raises:
        UserError: the rows were at their end.
    """
    stopwatch = Stopwatch(rounds)
    with tempfile.TemporaryDirectory() as folder:
        make_trainer(peer, load(tokenizer), rows, stopwatch, folder, kind).train()
    if not stopwatch.is_over():
        raise UserError(TEXT_ENDED)


def filled_rows(tokenizer: Path, texts: Sequence[str], length: int, count: int | None = None) -> np.ndarray:
    """Rows as run_mlm.py's group_texts makes them: documents with their special tokens, end to end, cut.

    Args:
        count: so many rows at most.

    Returns:
        Token ids, int32 [rows, L].
    """
    encode = load(tokenizer)
    parts: list[np.ndarray] = []
    tokens = 0
    for start in range(0, len(texts), 1000):
        for ids in encode(list(texts[start : start + 1000]), verbose=False)["input_ids"]:
            parts.append(np.asarray(ids, dtype=np.int32))
            tokens += len(ids)
        if count is not None and tokens >= count * length:
            break
    rows = min(tokens // length, count or tokens)
    return np.concatenate(parts)[: rows * length].reshape(rows, length)
