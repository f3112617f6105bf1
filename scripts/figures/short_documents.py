"""Pretraining on short documents, beside `transformers.Trainer` with padding."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from figures.common import load, read_texts, repeated, sentences_of, write_jsonl
from figures.loops import median_ratio, medians, time_loops, tokens_per_second
from figures.reference import our_speed, precision_here, reference, reference_config
from figures.session import Session
from figures.setting import Bench
from figures.trainer import trainer_speed, tuned_peer

MEDIAN = 30
MEGABYTES = 2


def short_documents(bench: Bench) -> dict[str, float]:
    """Real tokens a second on documents of 30 tokens: ours, packed, against Trainer's padded `line_by_line` recipe.

    The documents are sentences and lines of the text (2 MB), the longest of them, so many that their median is 30
    tokens, special tokens included; median_tokens is what it came to. Reference setting and tuned peer as in
    `throughput`, AdamW. Ours packs several documents into each row of 128, isolated from one another, 32 rows a batch.
    Trainer has each document in a row of its own, cut at 128 and padded by `DataCollatorForLanguageModeling` to the
    longest of the batch; its documents are tokenised before the clock begins. It is measured with 32 documents a batch
    (trainer_same_rows) and with as many as have the tokens of our batch (trainer_same_tokens); ratio is against the
    faster. Padding counts for nobody. Rounds and clock as in `throughput`.
    """
    config, tokenizer = reference(bench, bench.data)
    with bench.budget.spending("preparing: documents"):
        documents, ids = _documents(
            repeated(sentences_of(read_texts(bench.data)), int(MEGABYTES * 1_000_000)), tokenizer
        )
        # Our run reads these documents instead.
        file = write_jsonl(documents, bench.folder / "documents" / "documents.jsonl")
        precision = precision_here(config)
    config = reference_config(bench.folder, file, text={"validation_fraction": 0.0})
    length, rows = config.stream.sequence_length, config.training.global_batch_size
    cut = [each if len(each) <= length else [*each[: length - 1], each[-1]] for each in ids]
    real = statistics.mean(map(len, cut))
    sizes = {"trainer_same_rows": rows, "trainer_same_tokens": max(round(rows * length / real), 1)}
    peers = {name: tuned_peer(config, precision, per_device_train_batch_size=number) for name, number in sizes.items()}
    loops = {"ours": partial(Session, our_speed, config, tokenizer)}
    loops |= {name: partial(Session, trainer_speed, peer, tokenizer, cut) for name, peer in peers.items()}
    speeds = tokens_per_second(time_loops(bench.budget, loops))
    return {
        **medians(speeds),
        "ratio": median_ratio(speeds["ours"], *(speeds[name] for name in peers)),
        "median_tokens": float(np.median([len(each) for each in ids])),
    }


def _documents(sentences: Sequence[str], tokenizer: Path) -> tuple[list[str], list[list[int]]]:
    """The longest sentences, with a median of 30 tokens, in the given order, and their token ids."""
    ids = load(tokenizer)(list(sentences), verbose=False)["input_ids"]
    lengths = [len(each) for each in ids]
    chosen = longest(lengths, MEDIAN)
    return [sentences[number] for number in chosen], [ids[number] for number in chosen]


def longest(lengths: Sequence[int], median: int) -> list[int]:
    """The places of the longest, ascending: as many as can be while their median is not below `median`."""
    values = np.asarray(lengths)
    count = 2 * int((values >= median).sum()) - 1
    return sorted(np.argsort(-values, kind="stable")[: max(count, 1)].tolist())
