"""Both sides of a comparison in one setting: `transformers.Trainer`, and our loop.

The reference setting on a CPU is a ModernBERT of 6 layers × 384 with a vocabulary of 8,192, rows of 128 tokens, 32 a
batch; on a GPU, 12 layers × 768, a vocabulary of 16,384, rows of 512, 64 a batch.
Everything here that trains is called in a process of its own (`figures.common.fresh`).
"""

from __future__ import annotations

import contextlib
import io
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
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
from figures.common import bench_config, fresh, load, run_stage, source_section
from mlm_pretrain import stages
from mlm_pretrain.config import Config, ModelConfig
from mlm_pretrain.models.build import build_model
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.stream.loader import GlobalBatch
from mlm_pretrain.training.device import choose_precision, make_accelerator
from mlm_pretrain.training.loop import Pretraining


def _sizes(on_gpu: bool) -> tuple[dict[str, Any], dict[str, Any], dict[str, dict[str, Any]]]:
    """A ModernBERT; a BERT of the same size, whose feed-forward layers are four times as wide as the model, as BERT's
    are; and the sections of a run."""
    width, layers, heads, gated = (768, 12, 12, 1152) if on_gpu else (384, 6, 6, 1024)
    common = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    return (
        {"model_type": "modernbert", "config": {**common, "intermediate_size": gated}},
        {"model_type": "bert", "config": {**common, "intermediate_size": 4 * width}},
        {
            "text": {"validation_fraction": 0.03, "validation_max_bytes": "500KB"},
            "tokenizer": {"vocab_size": 16384 if on_gpu else 8192, "max_bytes": "8MB"},
            "stream": {
                "sequence_length": 512 if on_gpu else 128,
                "shuffle_window": "16MB",
                "packing_buffer": "2MB" if on_gpu else "500KB",
            },
            # Whoever measures speed stops the clock himself.
            "training": {
                "budget": {"steps": 1_000_000},
                "global_batch_size": 64 if on_gpu else 32,
                "save_steps": None,
            },
        },
    )


MODEL, BERT, SECTIONS = _sizes(torch.cuda.is_available())
Rows = np.ndarray | list[list[int]]
"""Token ids, special tokens included: [rows, L], or rows of different lengths."""


def reference_config(folder: Path, data: Path | None, **sections: dict[str, Any]) -> Config:
    """A run in the reference setting; `sections` go over it, key by key."""
    merged = {name: {**SECTIONS.get(name, {}), **sections.get(name, {})} for name in {**SECTIONS, **sections}}
    return bench_config(folder, [source_section(data)], **{"model": MODEL, **merged})


def train_tokenizer(config: Config) -> Path:
    """Train the run's tokenizer and set its held-out documents aside; the tokenizer's folder."""
    fresh(run_stage, stages.train_tokenizer, config)
    return RunDirectory.of(config).tokenizer


def precision_here(config: Config) -> str:
    """What `bf16: auto` comes to on this device: "bf16" or "no"."""
    return fresh(_precision, config)


def _precision(config: Config) -> str:
    return choose_precision(config.training, make_accelerator(config.training).device)


# -- rounds ------------------------------------------------------------------------------------------------------


def in_turn(systems: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What each system gives, round by round."""
    figures: dict[str, list[float]] = {name: [] for name in systems}
    for _ in range(rounds):
        for name, system in systems.items():
            figures[name].append(system())
    return figures


def medians(figures: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in figures.items()}


def median_ratio(ours: list[float], *theirs: list[float]) -> float:
    """Ours to the best of theirs, of the same round: what else the machine did, it did to all."""
    return statistics.median(mine / max(others) for mine, *others in zip(ours, *theirs, strict=True))


# -- our side ----------------------------------------------------------------------------------------------------


@dataclass
class OurSpeed:
    tokens_per_second: float
    step_seconds: float
    precision: str
    compiled: bool
    compile_seconds: float
    """What the run took before its first step, to find its micro-batch and to compile."""


class _TimeIsUp(Exception):
    pass


def our_speed(config: Config, tokenizer: Path, seconds: float) -> OurSpeed:
    """Run our loop until its stopwatch is over; nothing is saved."""
    stopwatch = Stopwatch(seconds)

    def on_batch(step: int, batch: GlobalBatch) -> None:
        stopwatch.tick(batch.tokens)
        if stopwatch.is_over():
            raise _TimeIsUp

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        # A run of its own, so that nothing is resumed; the tokenizer is the common one.
        run = RunDirectory(folder)
        run.tokenizer = tokenizer
        training = Pretraining(config, run)
        before = training.progress.seconds
        with contextlib.suppress(_TimeIsUp):
            training.train(on_batch)
        return OurSpeed(
            stopwatch.tokens_per_second(),
            (stopwatch.ended - stopwatch.began) / stopwatch.timed_steps,
            training.numerics.precision,
            training.numerics.compiled,
            before,
        )


# -- the peer ----------------------------------------------------------------------------------------------------


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
    peer: Peer, tokenizer: Path, rows: Rows, seconds: float, kind: type[TimedTrainer] = TimedTrainer
) -> tuple[float, float]:
    """(real tokens a second, seconds a step) of a Trainer, until its stopwatch is over."""
    stopwatch = Stopwatch(seconds)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        make_trainer(peer, load(tokenizer), rows, stopwatch, folder, kind).train()
    return stopwatch.tokens_per_second(), (stopwatch.ended - stopwatch.began) / stopwatch.timed_steps


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
