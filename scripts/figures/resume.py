"""How long a run takes to be back at its place."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from figures.common import (
    bench_config,
    load,
    make_tokenizer,
    open_batches,
    read_texts,
    resampled,
    write_jsonl,
)
from figures.session import fresh
from figures.setting import Bench
from mlm_pretrain.config import Config
from mlm_pretrain.console import telemetry

DOCUMENTS = 1_300_000
CHARACTERS = 230
NEAR, FAR = 1_000, 1_000_000
ROUNDS = 9
"""At most."""
WINDOW = 64_000_000  # the default
MINUTES = 15
"""Of a time in which there are so many documents."""


def resume(bench: Bench) -> dict[str, float]:
    """Seconds from opening a stream with a checkpoint's state to its first batch: at document 1,000,000 against 1,000.

    The text is one JSON-lines file and one Parquet file (as pyarrow writes it by default) of 1.3 million documents of
    270 bytes (350 MB, so that the window in hand is a whole one at either mark), sentences of the documentation in
    random order. The states are real: the stream runs through the text, with the same tokenizer (vocabulary 16,384),
    default window and lanes, two workers, and leaves its state after the batch in which the documents of all lanes
    together reach the mark. Each state is restored in rounds, in turn, each time in a new process without loader
    workers; opening the files is counted, imports and the loading of the tokenizer are not. The files are in the page
    cache. Medians; extra_seconds is the worse of both formats. With less than 15 minutes, text, mark and window are
    smaller in proportion to the whole minutes (far_document).
    """
    scale = min(bench.minutes / MINUTES, 1.0)
    texts = read_texts(bench.data)
    tokenizer = make_tokenizer(bench, texts)
    with bench.budget.spending("preparing: files"):
        documents = list(resampled(texts, int(DOCUMENTS * scale), CHARACTERS))
        files = {
            "jsonl": write_jsonl(documents, bench.folder / "documents.jsonl"),
            "parquet": bench.folder / "documents.parquet",
        }
        pq.write_table(pa.table({"text": documents}), files["parquet"])
    marks = {"near": NEAR, "far": int(FAR * scale)}
    systems: dict[str, Callable[[int], float]] = {}
    for name, file in files.items():
        stream = {"shuffle_window": int(WINDOW * scale)}
        config = bench_config(bench.folder, [{"source": "files", "path": str(file)}], stream=stream)
        with bench.budget.spending(f"running through the text: {name}"):
            states = fresh(_states_at, config, tokenizer, marks)
        telemetry.say(
            f"{name}: states after document "
            + " and ".join(f"{state['documents']:,} ({state['bytes']:,} bytes)" for state in states.values())
        )
        for mark, state in states.items():
            systems[f"{name}_{mark}_seconds"] = partial(_restored, config, tokenizer, state)
    found = bench.budget.in_turn(systems, most=ROUNDS)
    figures = {name: statistics.median(values) for name, values in found.items()}
    extra = {
        f"{name}_extra_seconds": figures[f"{name}_far_seconds"] - figures[f"{name}_near_seconds"] for name in files
    }
    sizes = {"documents": float(len(documents)), "far_document": float(marks["far"])}
    return sizes | figures | extra | {"extra_seconds": max(extra.values())}


def _restored(config: Config, tokenizer: Path, state: dict[str, Any], _: int) -> float:
    return fresh(_seconds_to_first_batch, config, tokenizer, state)


def _states_at(config: Config, tokenizer: Path, marks: dict[str, int]) -> dict[str, dict[str, Any]]:
    """The stream's states where the documents of all lanes together first reach each mark."""
    states: dict[str, dict[str, Any]] = {}
    waiting = dict(marks)
    for step, batch in enumerate(open_batches(config, load(tokenizer), num_workers=2), start=1):
        documents = sum(counts["documents"] for counts in batch.counts.values())
        for mark in [name for name, number in waiting.items() if documents >= number]:
            del waiting[mark]
            lanes = json.dumps(batch.lanes)
            states[mark] = {"lanes": lanes, "step": step, "documents": documents, "bytes": len(lanes)}
        if not waiting:
            break
    return states


def _seconds_to_first_batch(config: Config, tokenizer_folder: Path, state: dict[str, Any]) -> float:
    tokenizer = load(tokenizer_folder)
    tokenizer.backend_tokenizer.encode_batch(["warm"] * 1000)  # its threads are there in a run too
    started = time.perf_counter()
    next(open_batches(config, tokenizer, num_workers=0, state=json.loads(state["lanes"]), step=state["step"]))
    return time.perf_counter() - started
