"""Pretraining on short documents, beside `transformers.Trainer` with padding."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from figures.common import fresh, load, read_texts, repeated, sentences_of, write_jsonl
from figures.trainer import (
    in_turn,
    median_ratio,
    medians,
    our_speed,
    precision_here,
    reference_config,
    train_tokenizer,
    trainer_speed,
    tuned_peer,
)

ROUNDS = 3
MEDIAN = 30
MEGABYTES_PER_MINUTE = 5


def short_documents(minutes: float, folder: Path, data: Path | None) -> dict[str, float]:
    """Real tokens a second on documents of 30 tokens: ours, packed, against Trainer's padded `line_by_line` recipe.

    The documents are sentences and lines of the text (5 MB a minute), the longest of them, so many that their median
    is 30 tokens, special tokens included; median_tokens tells. Reference setting and tuned peer as in `throughput`,
    AdamW. Ours packs several documents into each row of 128, isolated from one another, 32 rows a batch. Trainer has
    each document in a row of its own, cut at 128 and padded by `DataCollatorForLanguageModeling` to the longest of the
    batch; its documents are tokenised before the clock begins. It is measured with 32 documents a batch
    (trainer_same_rows) and with as many as have the tokens of our batch (trainer_same_tokens); ratio is against the
    faster. Padding counts for nobody. In turn, in new processes, three rounds; medians, and the ratio of the same
    round; the clock leaves out the first five steps.
    """
    config = reference_config(folder, data)
    tokenizer = train_tokenizer(config)
    size = int(minutes * MEGABYTES_PER_MINUTE * 1_000_000)
    documents, ids = _documents(repeated(sentences_of(read_texts(data)), size), tokenizer)
    lengths = [len(each) for each in ids]
    # Our run reads these documents instead.
    file = write_jsonl(documents, folder / "documents" / "documents.jsonl")
    config = reference_config(folder, file, text={"validation_fraction": 0.0})
    length, rows = config.stream.sequence_length, config.training.global_batch_size
    cut = [each if len(each) <= length else [*each[: length - 1], each[-1]] for each in ids]
    real = statistics.mean(map(len, cut))
    precision = precision_here(config)
    sizes = {"trainer_same_rows": rows, "trainer_same_tokens": max(round(rows * length / real), 1)}
    peers = {name: tuned_peer(config, precision, per_device_train_batch_size=number) for name, number in sizes.items()}
    seconds = 60 * minutes / (ROUNDS * 3)
    systems: dict[str, Callable[[], float]] = {
        "ours": lambda: fresh(our_speed, config, tokenizer, seconds).tokens_per_second,
        **{
            name: lambda peer=peer: fresh(trainer_speed, peer, tokenizer, cut, seconds)[0]
            for name, peer in peers.items()
        },
    }
    speeds = in_turn(systems, ROUNDS)
    return {
        **medians(speeds),
        "ratio": median_ratio(speeds["ours"], *(speeds[name] for name in peers)),
        "median_tokens": float(np.median(lengths)),
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
