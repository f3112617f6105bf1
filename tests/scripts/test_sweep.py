"""Settings tried at equal time."""

from __future__ import annotations

from pathlib import Path

import pytest


def test_every_combination_is_a_line_and_none_is_made_again(
    tiny: None, tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import sweep

    out = tmp_path / "sweep.jsonl"
    settings = ["training.learning_rate=1e-3,2e-3", "objective.mlm_probability=0.4"]
    for _ in range(2):
        sweep.sweep(settings, 0.01, [0], corpus, out)
    runs = sweep.read(out)
    assert [run["settings"]["training.learning_rate"] for run in runs] == [1e-3, 2e-3]
    assert all(0 < run["loss"] < 7 for run in runs)
    assert "learning_rate=0.001 mlm_probability=0.4" in sweep.table(runs)
