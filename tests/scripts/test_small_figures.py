"""Figures about tasks and about the stream come through on tiny data, with numbers that fit together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.scripts.test_figures import measure

LABELLED = {
    "finetune": {"ours", "peer", "ratio_speed", "examples_per_second", "train_examples"},
    "downstream": {"ours", "trainer"},
    "predict": {"ratio", "texts_per_second", "pipeline_batch_size", "same_output", "rounds", "texts"},
}
"""What each has of a set after one round."""


@pytest.fixture
def sets(tmp_path: Path, corpus: Path) -> Path:
    """A folder with one labelled set, and text."""
    folder = tmp_path / "sets"
    (folder / "moods").mkdir(parents=True)
    for name, places in {"train": 12, "test": 4}.items():
        rows = [
            {"text": f"it is {word} in {place}", "label": word} for place in range(places) for word in ("good", "bad")
        ]
        lines = "\n".join(map(json.dumps, rows))
        (folder / "moods" / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    (folder / "text").symlink_to(corpus)
    return folder


@pytest.mark.parametrize("name", LABELLED)
def test_a_figure_about_tasks_has_its_numbers_of_each_set(name: str, tiny: None, tmp_path: Path, sets: Path) -> None:
    figures = measure(name, tmp_path, sets)
    assert {key.removeprefix("moods.") for key in figures if key.startswith("moods.")} == LABELLED[name]
    if name == "predict":
        assert figures["same_output"] == 1
        assert figures["ratio"] == figures["moods.ratio"]
    else:
        assert 0 <= figures["moods.ours"] <= 1


def test_packing_loses_nothing(here: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, corpus: Path) -> None:
    from figures import packing

    monkeypatch.setattr(packing, "MEGABYTES", 0.05)
    figures = measure("packing", tmp_path, corpus)
    assert (figures["lost_tokens"], figures["lost_characters"]) == (0, 0)
    assert 0.8 < figures["fill_short"] <= 1
    assert 0.8 < figures["fill_long"] <= 1


def test_a_stream_is_resumed_at_either_mark(
    here: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, corpus: Path
) -> None:
    from figures import resume

    for name, number in {"DOCUMENTS": 1500, "NEAR": 100, "FAR": 1000, "WINDOW": 60_000, "MINUTES": 1}.items():
        monkeypatch.setattr(resume, name, number)
    figures = measure("resume", tmp_path, corpus)
    assert (figures["documents"], figures["far_document"]) == (1500, 1000)
    assert all(figures[f"{kind}_{mark}_seconds"] > 0 for kind in ("jsonl", "parquet") for mark in ("near", "far"))
    assert figures["extra_seconds"] == max(figures["jsonl_extra_seconds"], figures["parquet_extra_seconds"])


def test_all_loaders_give_the_same_tokens(
    here: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, corpus: Path
) -> None:
    from figures import loader

    for name, value in {"MEGABYTES": 0.05, "WORKERS": (0,), "RECIPES": ((1, 0),), "PREPARED_EPOCHS": 2}.items():
        monkeypatch.setattr(loader, name, value)
    figures = measure("loader", tmp_path, corpus)  # it compares the numbers of tokens itself
    assert figures["tokens"] > 5000
    assert all(figures[f"ratio_{peer}"] > 0 for peer in ("tokenizers", "map"))
    assert figures["prepared_tokens_per_s"] > 0


def test_memory_is_measured_of_both_corpora(
    here: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, corpus: Path
) -> None:
    from figures import memory

    sizes = {"SMALL": 50_000, "LARGE": 200_000, "WINDOW": 60_000, "MINUTES": 1, "WORKERS": 0}
    for name, number in sizes.items():
        monkeypatch.setattr(memory, name, number)
    figures = measure("memory", tmp_path, corpus)
    assert figures["large_corpus_mb"] == pytest.approx(4 * figures["small_corpus_mb"], rel=0.2)
    assert figures["peak_mb"] == figures["large_mb"] > 0
    assert figures["extra_mb"] == figures["large_mb"] - figures["small_mb"]
