"""Each figure comes through in a tiny setting, with numbers that fit together."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

SECONDS = {"scaling": 60.0}
"""For each figure; 0.6 for others. What scaling has no time for is missing."""
FOUND = {
    "throughput": {
        *("ours", "trainer_tuned", "trainer_default", "loop_ours", "loop_trainer"),
        *("ratio_default", "ratio_tuned", "ratio_loop_only", "compiled", "compile_seconds"),
    },
    "short_documents": {"ours", "trainer_same_rows", "trainer_same_tokens", "ratio", "median_tokens"},
    "mfu": {"mfu", "tokens_per_s", "flops_per_token", "matmul_flops", "bf16", "compiled"},
    "processes": {
        *("one_process", "two_processes", "ratio"),
        *("one_process_compiled", "two_processes_compiled"),
    },
    "scaling": {"length_48", "length_96", "width_32", "layers_1"},
}


def measure(name: str, folder: Path, data: Path) -> dict[str, float]:
    from figures.budget import Budget
    from figures.setting import Bench

    for kind in ("own", "work"):
        (folder / kind).mkdir()
    bench = Bench(Budget(SECONDS.get(name, 0.6)), folder / "own", folder / "work", data)
    return getattr(importlib.import_module(f"figures.{name}"), name)(bench)


@pytest.mark.parametrize("name", FOUND)
def test_a_figure_has_its_numbers(name: str, tiny: None, tmp_path: Path, corpus: Path) -> None:
    figures = measure(name, tmp_path, corpus)
    assert set(figures) == FOUND[name]
    assert all(value > 0 for key, value in figures.items() if key != "bf16" and "compiled" not in key)
    if name == "mfu":
        assert figures["mfu"] < 1
    if name == "short_documents":
        assert figures["median_tokens"] >= 30
        best = max(figures["trainer_same_rows"], figures["trainer_same_tokens"])
        assert figures["ratio"] == pytest.approx(figures["ours"] / best)


def test_time_to_loss(tiny: None, tmp_path: Path, corpus: Path) -> None:
    figures = measure("time_to_loss", tmp_path, corpus)
    # Better than guessing uniformly among 600 by little, in so little time.
    assert all(0 < figures[key] < 7 for key in ("ours", "trainer", "ours_third"))
    assert figures["nats_better"] == pytest.approx(figures["trainer"] - figures["ours"])
    if figures["nats_better"] >= 0:
        assert 0.2 <= figures["time_ratio"] <= 1
    else:
        assert "time_ratio" not in figures
    assert 0 < figures["trainer_schedule"] <= 1
