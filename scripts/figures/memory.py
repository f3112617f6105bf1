"""How much memory the stream and the training of a tokenizer take."""

from __future__ import annotations

from pathlib import Path

from figures.common import (
    bench_config,
    load,
    make_tokenizer,
    measured,
    one_epoch,
    open_batches,
    read_texts,
    resampled,
    run_stage,
    write_jsonl,
)
from mlm_pretrain import stages
from mlm_pretrain.config import Config

SMALL, LARGE = 50_000_000, 1_000_000_000
CHARACTERS = 600
WORKERS = 2


def memory(minutes: float, folder: Path, data: Path | None) -> dict[str, float]:
    """Peak memory over a corpus of 1 GB against one of 50 MB: of the stream, and of training a tokenizer.

    The text is sentences of the documentation in random order, 600 characters a document, with a made-up word in
    every tenth, so that new words keep coming. The stream (defaults, two loader workers) goes through it once; the
    tokenizer is trained with `tokenizer.max_bytes` of 50 MB. Each is measured in a new process: the sum of the peak
    resident sets (VmHWM) of the process and its workers, in which shared pages (the libraries) count for each.
    ratio: 1 GB / 50 MB. Under one minute the large corpus is smaller in proportion (200 MB at least); 1 GB takes
    several minutes.
    """
    texts = read_texts(data)
    sizes = {"small": SMALL, "large": max(int(LARGE * min(minutes, 1.0)), 4 * SMALL)}
    tokenizer = make_tokenizer(texts, folder / "tokenizer")
    figures: dict[str, float] = {}
    for name, size in sizes.items():
        # A sentence may reach beyond the size that is asked for.
        documents = resampled(texts, int(size / (CHARACTERS * 1.07)), CHARACTERS)
        file = write_jsonl(documents, folder / f"{name}.jsonl")
        settings = {"max_bytes": SMALL}
        config = bench_config(folder / name, [one_epoch(file)], tokenizer=settings)
        held_out = config.text.model_copy(update={"validation_fraction": 0.005})
        figures[f"{name}_mb"] = measured(_one_pass, config, tokenizer).peak_bytes / 1e6
        trained = measured(run_stage, stages.train_tokenizer, config.model_copy(update={"text": held_out}))
        figures[f"tokenizer_{name}_mb"] = trained.peak_bytes / 1e6
        figures[f"{name}_corpus_mb"] = file.stat().st_size / 1e6
        file.unlink()
    return figures | {
        "ratio": figures["large_mb"] / figures["small_mb"],
        "peak_mb": figures["large_mb"],
        "tokenizer_ratio": figures["tokenizer_large_mb"] / figures["tokenizer_small_mb"],
    }


def _one_pass(config: Config, tokenizer: Path) -> int:
    return sum(batch.tokens for batch in open_batches(config, load(tokenizer), num_workers=WORKERS))
