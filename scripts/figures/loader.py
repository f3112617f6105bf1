"""How fast text becomes masked batches."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import datasets
import torch
from torch.utils.data import DataLoader
from transformers import DataCollatorForLanguageModeling

from figures.common import (
    bare_tokenizer,
    bench_config,
    load,
    make_tokenizer,
    one_epoch,
    open_batches,
    read_texts,
    repeated,
    run_stage,
    text_tokens,
    write_jsonl,
)
from figures.loops import median_ratio
from figures.session import fresh
from figures.setting import Bench
from mlm_pretrain import stages
from mlm_pretrain.config import Config

MEGABYTES = 6
"""For each whole minute."""
PREPARED_EPOCHS = 10
WORKERS = (0, 1, 2)
RECIPES = ((1, 0), (1, 2), (2, 0), (2, 2))
"""(`num_proc` of `map`, `num_workers` of the `DataLoader`)."""


def loader(bench: Bench) -> dict[str, float]:
    """Tokens a second from raw text to masked batches: ours against `tokenizers` alone and the run_mlm.py recipe.

    Every system goes once through the same JSON-lines file (6 MB of documents for each whole minute), on all cores,
    each time in a new process, and gives rows of 512 tokens, 64 a batch; the clock runs from opening the text to the
    last batch. A system's tokens are those of the text, without the special tokens round each document, so that all
    have the same number.
    tokenizers: `Tokenizer.encode_batch_fast` on 1,000 documents at a time that are in memory already, its threads on;
    nothing is read, packed or masked. map: `load_dataset`, `map` of the tokenizer and of `group_texts` (caches cold),
    a shuffling `DataLoader` with `DataCollatorForLanguageModeling`. prepared: ours on shards that `prepare` has
    written, ten times through, in one process without workers on one thread.
    The numbers of processes (ours: 0, 1 or 2 workers; map: `num_proc` 1 or 2, 0 or 2 workers) are each side's best
    in a first round that doesn't count; then rounds in turn, of which the medians, and ratios of the same round.
    """
    folder, budget = bench.folder, bench.budget
    texts = read_texts(bench.data)
    tokenizer = make_tokenizer(bench, texts)
    file = write_jsonl(repeated(texts, MEGABYTES * 1_000_000 * bench.minutes), folder / "documents.jsonl")
    config = bench_config(folder, [one_epoch(file)], tokenizer={"path": str(tokenizer)})
    tokens, _ = fresh(_tokenizers, file, tokenizer)
    with budget.spending("finding the best number of processes: ours"):
        workers = min(WORKERS, key=lambda number: fresh(_ours, config, tokenizer, number, tokens))
    with budget.spending("finding the best number of processes: map"):
        recipe = min(RECIPES, key=lambda numbers: fresh(_map_recipe, file, tokenizer, folder, *numbers))
    with budget.spending("prepare"):
        fresh(run_stage, stages.prepare, config)
    epochs = {**one_epoch(file), "max_epochs": PREPARED_EPOCHS}
    prepared = bench_config(folder, [epochs], tokenizer={"path": str(tokenizer)}, stream={"prepared": True})
    seconds = budget.in_turn(
        {
            "ours": lambda _: fresh(_ours, config, tokenizer, workers, tokens),
            "tokenizers": lambda _: fresh(_tokenizers, file, tokenizer)[1],
            "map": lambda _: fresh(_map_recipe, file, tokenizer, folder, *recipe),
            "prepared": lambda _: fresh(_ours, prepared, tokenizer, 0, PREPARED_EPOCHS * tokens, 1) / PREPARED_EPOCHS,
        }
    )
    return _figures(seconds, tokens) | {
        "tokens": float(tokens),
        "num_workers": float(workers),
        "map_num_proc": float(recipe[0]),
        "map_num_workers": float(recipe[1]),
    }


def _figures(seconds: dict[str, list[float]], tokens: int) -> dict[str, float]:
    names = {"ours": "tokens_per_s"}
    speeds = {
        names.get(system, f"{system}_tokens_per_s"): tokens / statistics.median(values)
        for system, values in seconds.items()
    }
    ratios = {
        f"ratio_{peer}": median_ratio(seconds[peer], seconds["ours"])  # of seconds, so the other way round
        for peer in ("tokenizers", "map")
    }
    return speeds | ratios


def _ours(config: Config, tokenizer_folder: Path, workers: int, tokens: int, threads: int | None = None) -> float:
    """Seconds until the text ends."""
    if threads:
        torch.set_num_threads(threads)
    tokenizer = load(tokenizer_folder)
    started = time.perf_counter()
    found = sum(text_tokens(batch) for batch in open_batches(config, tokenizer, num_workers=workers))
    seconds = time.perf_counter() - started
    assert found == tokens, f"{found:,} tokens of {tokens:,} came through"
    return seconds


def _tokenizers(file: Path, tokenizer_folder: Path) -> tuple[int, float]:
    """(tokens of the text, seconds)."""
    texts = datasets.Dataset.from_json(str(file), cache_dir=str(file.parent / "in-memory"))["text"][:]
    backend = bare_tokenizer(load(tokenizer_folder))
    tokens = 0
    started = time.perf_counter()
    for start in range(0, len(texts), 1000):
        encodings = backend.encode_batch_fast(texts[start : start + 1000], add_special_tokens=False)
        tokens += sum(map(len, encodings))
    return tokens, time.perf_counter() - started


def _map_recipe(file: Path, tokenizer_folder: Path, folder: Path, num_proc: int, workers: int) -> float:
    """Seconds of one epoch as transformers' examples/pytorch/language-modeling/run_mlm.py makes it."""
    tokenizer = load(tokenizer_folder)
    length = 512

    def tokenize(examples: dict[str, list[Any]]) -> Any:
        return tokenizer(examples["text"], return_special_tokens_mask=True)

    def group_texts(examples: dict[str, list[Any]]) -> dict[str, list[Any]]:
        joined = {key: [each for example in examples[key] for each in example] for key in examples}
        total = len(joined["input_ids"]) // length * length
        return {
            key: [values[start : start + length] for start in range(0, total, length)] for key, values in joined.items()
        }

    with tempfile.TemporaryDirectory(dir=folder) as cache:
        started = time.perf_counter()
        dataset = datasets.load_dataset("json", data_files=str(file), split="train", cache_dir=cache)
        dataset = dataset.map(tokenize, batched=True, num_proc=num_proc, remove_columns=["text"])
        dataset = dataset.map(group_texts, batched=True, num_proc=num_proc)
        collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
        batches = DataLoader(dataset, batch_size=64, shuffle=True, collate_fn=collator, num_workers=workers)
        for _ in batches:
            pass
        return time.perf_counter() - started
