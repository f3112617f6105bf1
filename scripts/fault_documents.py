"""What `faults.py` does with documents of any length."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pyarrow.parquet as pq
from fault_runs import Bench, check

SIZE = 40_000_000
MOST = 4.0
"""So many times the memory and the time of the same text by line: each lane holds a whole record, not its tokens."""


def large_document(bench: Bench) -> str:
    """one document of 40 MB (a JSON line; text without blank lines; text in one line) beside the same text by line"""
    lines = [
        line for text in pq.read_table(bench.text)["text"].to_pylist() for line in text.splitlines() if line.strip()
    ]
    text = "\n".join(lines)
    text = (text + "\n") * (SIZE // len(text.encode()) + 1)
    contents = {
        "lines.txt": (text, ""),
        "record.jsonl": (json.dumps({"text": text}) + "\n", ""),
        "paragraph.txt": (text, ", document: paragraph"),
        "one-line.txt": (text.replace("\n", " "), ""),
    }
    results = {}
    for name, (content, key) in contents.items():
        file = bench.folder / "large" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(content, encoding="utf-8")
        results[name] = _measured(bench, file, key)
        file.unlink()
    memory, seconds = results["lines.txt"]
    for name, (its_memory, its_seconds) in results.items():
        what = f"{name}: {its_memory:.2f} GB, {its_seconds:.0f} s, against {memory:.2f} GB, {seconds:.0f} s by line"
        check(its_memory < MOST * memory and its_seconds < MOST * seconds, what)
    said = (f"{name} {its_memory:.2f} GB, {its_seconds:.0f} s" for name, (its_memory, its_seconds) in results.items())
    return "four steps: " + "; ".join(said)


def _measured(bench: Bench, file: Path, key: str) -> tuple[float, float]:
    """The memory in GB and the seconds of four steps on a file."""
    run = bench.new_run(
        f"large-{file.stem}",
        f"text.sources=[{{source: files, path: {file}{key}}}]",
        f"tokenizer.path={bench.folder / 'beginning' / 'run' / 'tokenizer'}",
        "training.budget.steps=4",
    )
    began, peak = time.monotonic(), 0
    process = run.start()
    while not run.ends_within(process, 0.1):
        peak = max(peak, _peak(process.pid))
    check(process.returncode == 0, run.said())
    return peak / 1e6, time.monotonic() - began


def _peak(pid: int) -> int:
    """The most memory that a process has had, in kilobytes; 0 if it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")), 0)
