"""The reference setting, and our loop in it.

On a CPU it is a ModernBERT of 6 layers × 384 with a vocabulary of 8,192, rows of 128 tokens, 32 a batch; on a GPU, 12
layers × 768, a vocabulary of 16,384, rows of 512, 64 a batch.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from figures.clocks import Deadline, Stopwatch
from figures.common import bench_config, run_stage, source_section
from figures.session import Rounds, fresh
from figures.setting import Bench
from mlm_pretrain import stages
from mlm_pretrain.config import Budget, Config
from mlm_pretrain.errors import UserError
from mlm_pretrain.hardware.device import choose_precision, make_accelerator
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.runtime.processes import Processes
from mlm_pretrain.stream.loader import GlobalBatch
from mlm_pretrain.text.mixture import fingerprint_corpus
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
TEXT_ENDED = "the text was at its end before the time was; give more --data"
Rows = np.ndarray | list[list[int]]
"""Token ids, special tokens included: [rows, L], or rows of different lengths."""


def reference_config(folder: Path, data: Path | None, **sections: dict[str, Any]) -> Config:
    """A run in the reference setting; `sections` go over it, key by key."""
    merged = {name: {**SECTIONS.get(name, {}), **sections.get(name, {})} for name in {**SECTIONS, **sections}}
    return bench_config(folder, [source_section(data)], **{"model": MODEL, **merged})


def with_tokenizer(bench: Bench, config: Config) -> Config:
    """The config with a run whose tokenizer is trained and whose held-out documents are set aside."""

    def in_folder(folder: Path) -> Config:
        return config.model_copy(update={"run": config.run.model_copy(update={"output_dir": str(folder)})})

    depends = {
        "text": config.text.model_dump(mode="json"),
        "tokenizer": config.tokenizer.model_dump(mode="json"),
        "corpus": fingerprint_corpus(config.text),
    }

    def make(folder: Path) -> None:
        fresh(run_stage, stages.train_tokenizer, in_folder(folder))

    return in_folder(bench.kept("tokenizer", depends, make))


def reference(bench: Bench, data: Path | None, **sections: dict[str, Any]) -> tuple[Config, Path]:
    """The reference setting over a text, and its tokenizer's folder."""
    config = with_tokenizer(bench, reference_config(bench.folder, data, **sections))
    return config, RunDirectory.of(config).tokenizer


def precision_here(config: Config) -> str:
    """What `bf16: auto` comes to on this device: "bf16" or "no"."""
    return fresh(_precision, config)


def _precision(config: Config) -> str:
    return choose_precision(config.training, make_accelerator(config.training).device)


# -- our loop, in a process of its own ---------------------------------------------------------------------------


class _TimeIsUp(Exception):
    pass


def our_speed(rounds: Rounds, config: Config, tokenizer: Path, processes: Processes | None = None) -> None:
    """Run our loop in rounds, each of which comes to a `Speed`; nothing is saved.

    Their facts: `precision`; `compiled`, 0 or 1; `before_seconds`, what the run took before its first step to find its
    micro-batch and to compile.

    Args:
        processes: those of the run, of which this is one; each has as many of a step's tokens, its rows being full.

    Raises:
        UserError: the text was at its end.
    """
    with tempfile.TemporaryDirectory() as folder:
        # A run of its own, so that nothing is resumed; the tokenizer is the common one.
        run = RunDirectory(folder)
        run.tokenizer = tokenizer
        training = Pretraining(config, run, processes)
        numerics = training.numerics
        stopwatch = Stopwatch(
            rounds,
            precision=numerics.precision,
            compiled=float(numerics.compiled),
            before_seconds=training.progress.seconds,
        )

        def on_batch(step: int, batch: GlobalBatch) -> None:
            stopwatch.tick(batch.tokens * training.processes.world_size)
            if stopwatch.is_over():
                raise _TimeIsUp

        try:
            training.train(on_batch)
        except _TimeIsUp:
            return
    raise UserError(TEXT_ENDED)


def our_training(config: Config, seconds: float, folder: Path) -> dict[str, float]:
    """Train for so many seconds, building the model included; the `steps` and `tokens` that were made.

    Args:
        folder: of the run; its `model/` remains.
    """
    deadline = Deadline(seconds)
    run = RunDirectory(folder)
    run.tokenizer = RunDirectory.of(config).tokenizer
    training = config.training.model_copy(update={"budget": Budget(minutes=seconds / 60)})
    pretraining = Pretraining(config.model_copy(update={"training": training}), run)
    # What making it has taken is gone from the budget; of that, the run has counted a part itself.
    left = Budget(minutes=(max(deadline.left(), 0.01) + pretraining.progress.seconds) / 60)
    pretraining.settings = training.model_copy(update={"budget": left})
    pretraining.train()
    pretraining.export()
    return {"steps": pretraining.progress.step, "tokens": pretraining.progress.tokens}
