"""Pretraining beside `transformers.Trainer`."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState

from figures.common import load, read_texts, repeated, source_section
from mlm_pretrain.config import Config
from mlm_pretrain.config_file import make_config
from mlm_pretrain.errors import UserError
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.training.device import choose_precision, make_accelerator

WARMUP_STEPS = 3
ROUNDS = 2


@dataclass
class Stopwatch:
    """Real tokens a second, the first steps left out."""

    tokens: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    def tick(self, tokens: int) -> None:
        """A step over so many tokens begins."""
        self.times.append(time.perf_counter())
        self.tokens.append(tokens)

    def is_over(self, seconds: float) -> bool:
        """Whether so many seconds have passed, and there is something to tell."""
        return len(self.times) > WARMUP_STEPS + 1 and time.perf_counter() - self.times[0] > seconds

    def tokens_per_second(self) -> float:
        if len(self.times) < WARMUP_STEPS + 2:
            raise UserError(f"{len(self.times)} steps are too few to be timed; give more --minutes")
        seconds = self.times[-1] - self.times[WARMUP_STEPS]
        return sum(self.tokens[WARMUP_STEPS:-1]) / seconds


def throughput(minutes: float, folder: Path, data: Path | None) -> dict[str, float]:
    """Real tokens a second of pretraining: our loop against `transformers.Trainer`, same model, text, batch, rows.

    trainer_default is `Trainer` with `DataCollatorForLanguageModeling` on rows filled by concatenation, as
    run_mlm.py makes them; trainer_tuned adds what a knowing user sets: bf16 where it is faster here, and the
    architecture's own head on masked positions only (`sparse_prediction`).
    """
    config = _config(folder, data)
    run = RunDirectory.of(config)
    from mlm_pretrain.stages import train_tokenizer

    train_tokenizer(config)
    rows = _concatenated_rows(config, run, data)
    precision = choose_precision(config.training, make_accelerator(config.training).device)
    systems: dict[str, Callable[[float], float]] = {
        "ours": lambda seconds: _ours(config, seconds),
        "trainer_tuned": lambda seconds: _trainer(config, run, rows, seconds, bf16=precision == "bf16", sparse=True),
        "trainer_default": lambda seconds: _trainer(config, run, rows, seconds, bf16=False, sparse=False),
    }
    seconds = 60 * minutes / (ROUNDS * len(systems)) - 1
    measured: dict[str, list[float]] = {name: [] for name in systems}
    for _ in range(ROUNDS):
        for name, system in systems.items():
            measured[name].append(system(seconds))
    figures = {name: statistics.median(values) for name, values in measured.items()}
    return figures | {
        f"ratio_{peer}": statistics.median(
            ours / theirs for ours, theirs in zip(measured["ours"], measured[f"trainer_{peer}"], strict=True)
        )
        for peer in ("default", "tuned")
    }


def _config(folder: Path, data: Path | None) -> Config:
    return make_config(
        {
            "run": {"name": "bench", "output_dir": str(folder)},
            "text": {"sources": [source_section(data)], "validation_max_bytes": "100KB"},
            "tokenizer": {"vocab_size": 8192, "max_bytes": "4MB"},
            "stream": {"sequence_length": 128, "shuffle_window": "4MB", "packing_buffer": "500KB"},
            "model": {"preset": "nano"},
            "training": {"budget": {"minutes": 1}, "global_batch_size": 32, "save_steps": None},
        }
    )


def _ours(config: Config, seconds: float) -> float:
    from mlm_pretrain.training.loop import Pretraining

    with tempfile.TemporaryDirectory() as folder:
        # A run of its own, so that nothing is resumed; the tokenizer is the common one.
        run = RunDirectory(folder)
        run.tokenizer = RunDirectory.of(config).tokenizer
        training = config.training.model_copy(update={"budget": {"minutes": seconds / 60}})
        timed = Config.model_validate({**config.model_dump(), "training": training.model_dump()})
        stopwatch = Stopwatch()
        Pretraining(timed, run).train(on_batch=lambda step, batch: stopwatch.tick(batch.tokens))
        return stopwatch.tokens_per_second()


def _trainer(
    config: Config, run: RunDirectory, rows: list[dict[str, Any]], seconds: float, bf16: bool, sparse: bool
) -> float:
    from transformers import DataCollatorForLanguageModeling, Trainer, TrainerCallback, TrainingArguments

    from mlm_pretrain.models.build import build_model

    tokenizer = load(run.tokenizer)
    settings = config.model.model_copy(update={"config": {"sparse_prediction": sparse}})
    model = build_model(settings, tokenizer, config.stream.sequence_length)
    stopwatch = Stopwatch()
    size = config.training.global_batch_size

    class Timer(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            stopwatch.tick(size * config.stream.sequence_length)
            control.should_training_stop = stopwatch.is_over(seconds)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = stopwatch.is_over(seconds)

    # Accelerate remembers the precision of the system that ran before.
    AcceleratorState._reset_state(reset_partial_state=True)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=size,
            max_steps=1_000_000,
            bf16=bf16,
            use_cpu=not torch.cuda.is_available(),
            logging_steps=50,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            learning_rate=config.training.learning_rate,
        )
        collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
        trainer = Trainer(model, arguments, train_dataset=rows, data_collator=collator, callbacks=[Timer()])
        trainer.train()
    return stopwatch.tokens_per_second()


def _concatenated_rows(config: Config, run: RunDirectory, data: Path | None, count: int = 4000) -> list[dict[str, Any]]:
    """Rows as run_mlm.py's group_texts makes them: documents with their special tokens, end to end, cut."""
    tokenizer = load(run.tokenizer)
    length = config.stream.sequence_length
    # A byte is a token at most.
    texts = repeated(read_texts(data), count * length * 8)
    tokens: list[int] = []
    for start in range(0, len(texts), 1000):
        for ids in tokenizer(texts[start : start + 1000], verbose=False)["input_ids"]:
            tokens += ids
        if len(tokens) >= count * length:
            break
    return [{"input_ids": tokens[start : start + length]} for start in range(0, count * length, length)]
