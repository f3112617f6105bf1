"""How long a run takes to be back at its place."""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from figures.common import (
    bench_config,
    fresh,
    load,
    make_tokenizer,
    open_batches,
    read_texts,
    resampled,
    write_jsonl,
)
from mlm_pretrain import telemetry
from mlm_pretrain.config import Config

DOCUMENTS = 1_300_000
CHARACTERS = 230
NEAR, FAR = 1_000, 1_000_000
WINDOW = 64_000_000  # the default
ROUNDS = 5


def resume(minutes: float, folder: Path, data: Path | None) -> dict[str, float]:
    """Seconds from opening a stream with a checkpoint's state to its first batch: at document 1,000,000 against 1,000.

    The text is one JSON-lines file and one Parquet file (as pyarrow writes it by default) of 1.3 million documents of
    270 bytes (350 MB, so that the window in hand is a whole one at either mark), sentences of the documentation in
    random order. The states are real: the stream runs through the text, with the same tokenizer (vocabulary 16,384),
    default window and lanes, two workers, and leaves its state behind the batch in which the documents of all lanes
    together reach the mark. Each state is restored five times, in turn, each time in a new process without loader
    workers; opening the files is counted, imports and the loading of the tokenizer are not. The files are in the page
    cache. Medians; extra_seconds is the worse of both formats. Under one minute text, mark and window are smaller in
    proportion; the run through the text takes some minutes beyond.
    """
    scale = min(minutes, 1.0)
    documents = list(resampled(read_texts(data), int(DOCUMENTS * scale), CHARACTERS))
    tokenizer = make_tokenizer(documents, folder / "tokenizer")
    files = {"jsonl": write_jsonl(documents, folder / "documents.jsonl"), "parquet": folder / "documents.parquet"}
    pq.write_table(pa.table({"text": documents}), files["parquet"])
    marks = {"near": NEAR, "far": int(FAR * scale)}
    figures: dict[str, float] = {"documents": float(len(documents))}
    for name, file in files.items():
        stream = {"shuffle_window": int(WINDOW * scale)}
        config = bench_config(folder, [{"source": "files", "path": str(file)}], stream=stream)
        states = fresh(_states_at, config, tokenizer, marks)
        telemetry.say(
            f"{name}: states behind document "
            + " and ".join(f"{state['documents']:,} ({state['bytes']:,} bytes)" for state in states.values())
        )
        seconds: dict[str, list[float]] = {mark: [] for mark in marks}
        for _ in range(ROUNDS):
            for mark, state in states.items():
                seconds[mark].append(fresh(_seconds_to_first_batch, config, tokenizer, state))
        for mark, values in seconds.items():
            figures[f"{name}_{mark}_seconds"] = statistics.median(values)
        figures[f"{name}_extra_seconds"] = figures[f"{name}_far_seconds"] - figures[f"{name}_near_seconds"]
    figures["extra_seconds"] = max(figures[f"{name}_extra_seconds"] for name in files)
    return figures


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
