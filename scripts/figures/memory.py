"""How much memory the stream and the training of a tokenizer take."""

from __future__ import annotations

from pathlib import Path

from figures.common import (
    bench_config,
    load,
    make_tokenizer,
    one_epoch,
    open_batches,
    read_texts,
    resampled,
    run_stage,
    write_jsonl,
)
from figures.session import measured
from figures.setting import Bench
from mlm_pretrain import stages
from mlm_pretrain.config import Config

SMALL, LARGE = 50_000_000, 1_000_000_000
"""Bytes of text, in a time of so many minutes as follow."""
MINUTES = 15
WINDOW = 64_000_000  # the default
CHARACTERS = 600
WORKERS = 2


def memory(bench: Bench) -> dict[str, float]:
    """Peak memory over a corpus of 1 GB against one of 50 MB: of the stream, and of training a tokenizer.

    The text is sentences of the documentation in random order, 600 characters a document, with a made-up word in
    every tenth, so that new words keep coming. The stream (defaults, two loader workers) goes through it once; the
    tokenizer is trained with `tokenizer.max_bytes` of the small corpus. Each is measured in a new process: the sum of
    the peak resident sets (VmHWM) of the process and its workers, in which shared pages (the libraries) count for each.
    ratio: large / small; extra_mb: large - small. With less than 15 minutes both corpora and the stream's shuffle
    window are smaller in proportion to the whole minutes (corpus_mb); the ratio says little then, because the libraries
    are most of it, but extra_mb shows as well whether anything grows with the text.
    """
    texts = read_texts(bench.data)
    scale = min(bench.minutes / MINUTES, 1.0)
    tokenizer = make_tokenizer(bench, texts)
    figures: dict[str, float] = {}
    for name, size in {"small": int(SMALL * scale), "large": int(LARGE * scale)}.items():
        with bench.budget.spending(f"preparing: {name} corpus"):
            # A sentence may reach beyond the size that is asked for.
            documents = resampled(texts, int(size / (CHARACTERS * 1.07)), CHARACTERS)
            file = write_jsonl(documents, bench.folder / f"{name}.jsonl")
        config = bench_config(
            bench.folder / name,
            [one_epoch(file)],
            tokenizer={"max_bytes": int(SMALL * scale)},
            stream={"shuffle_window": int(WINDOW * scale)},
        )
        held_out = config.text.model_copy(update={"validation_fraction": 0.005})
        with bench.budget.spending(f"stream: {name}"):
            figures[f"{name}_mb"] = measured(_one_pass, config, tokenizer).peak_bytes / 1e6
        with bench.budget.spending(f"tokenizer: {name}"):
            trained = measured(run_stage, stages.train_tokenizer, config.model_copy(update={"text": held_out}))
        figures[f"tokenizer_{name}_mb"] = trained.peak_bytes / 1e6
        figures[f"{name}_corpus_mb"] = file.stat().st_size / 1e6
        file.unlink()
    return figures | {
        "ratio": figures["large_mb"] / figures["small_mb"],
        "extra_mb": figures["large_mb"] - figures["small_mb"],
        "peak_mb": figures["large_mb"],
        "tokenizer_ratio": figures["tokenizer_large_mb"] / figures["tokenizer_small_mb"],
        "tokenizer_extra_mb": figures["tokenizer_large_mb"] - figures["tokenizer_small_mb"],
    }


def _one_pass(config: Config, tokenizer: Path) -> int:
    return sum(batch.tokens for batch in open_batches(config, load(tokenizer), num_workers=WORKERS))
