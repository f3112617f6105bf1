"""Where the time goes, and how much of it is left."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from mlm_pretrain import stages
from mlm_pretrain.console import outlook, spent
from mlm_pretrain.console.outlook import Outlook
from mlm_pretrain.console.spent import OTHER, Spent
from mlm_pretrain.run import BESIDE
from mlm_pretrain.stages.expected import expected_seconds
from mlm_pretrain.summary import where_time_went
from tests.conftest import tiny_config


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_each_second_counts_once_for_the_innermost_activity() -> None:
    clock = Clock()
    counted = Spent(clock)
    clock.now = 1.0
    with counted.on("stepping"):
        clock.now = 3.0
        with counted.on("saving"):
            clock.now = 3.5
        with counted.stopped():
            clock.now = 10.0
        clock.now = 12.0
        with pytest.raises(KeyError), counted.on("saving"):
            clock.now = 13.0
            raise KeyError
    clock.now = 14.0
    assert counted.seconds == {OTHER: 2.0, "stepping": 4.0, "saving": 1.5}


def test_what_is_counted_inside_is_not_counted_outside() -> None:
    with spent.counting() as outer, spent.on("outside"), spent.counting() as inner, spent.on("inside"):
        time.sleep(0.01)
    assert set(inner.seconds) == {"inside", OTHER} and set(outer.seconds) == {"outside", OTHER}
    assert inner.seconds["inside"] >= 0.01
    with spent.on("nobody counts"):
        pass


def test_the_time_left_in_all_is_of_this_stage_and_of_those_to_come() -> None:
    clock = Clock()
    whole = Outlook({"tokenizer": 20.0, "pretrain": 120.0, "evaluate": 10.0, "finetune topic": None}, clock)
    assert whole.words() == "" and whole.seconds is None
    with whole.stage("tokenizer"):
        clock.now = 10.0
        assert whole.words() == "about 2 min left, 1 stage to come"
    # Another stage was skipped, or is of no concern.
    with whole.stage("prepare"), whole.stage("evaluate"):
        whole.stage_left(300.0)
        assert whole.words() == "about 5 min left, 1 stage to come"
        clock.now += 280.0
        assert whole.words() == "about 20 s left, 1 stage to come"
    with whole.stage("finetune topic"):
        assert whole.words() == "" and whole.seconds is None
        whole.stage_left(70.0)
        assert whole.words() == "about 70 s left in all" and whole.seconds == 70.0
        clock.now += 200.0
        assert whole.words() == "a few seconds left in all"
    assert whole.took == {"tokenizer": 10.0, "evaluate": 280.0, "finetune topic": 200.0}


def test_outside_of_a_run_nothing_is_left_in_all() -> None:
    outlook.stage_left(10.0)
    with outlook.stage("pretrain"):
        assert outlook.current() is None


def test_the_table_adds_up_to_the_time_of_the_run(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLM_PRETRAIN_CACHE", str(tmp_path / "cache"))
    config = tiny_config(corpus, tmp_path, training={"eval_steps": 4})
    assert set(expected_seconds(config).values()) == {None}
    began = time.monotonic()
    run = stages.run_all(config, began)
    elapsed = time.monotonic() - began
    results = run.read_results()
    assert list(results["seconds"]) == ["tokenizer", "pretrain", "evaluate", BESIDE]
    assert sum(results["seconds"].values()) == pytest.approx(elapsed, rel=0.05, abs=0.2)
    for stage, seconds in results["seconds"].items():
        assert sum(results["activities"][stage].values()) == pytest.approx(seconds, abs=0.02)
    assert results["activities"]["pretrain"].keys() >= {
        *("building the model", "trying what is fastest", "stepping", "waiting for data", "scoring validation"),
        *("saving", "writing the model"),
    }
    lines = where_time_went(results).splitlines()
    assert lines[-1].split()[:2] == ["in", "all"]
    shown = [float(line.split()[-2].replace(",", "")) for line in lines[2:-1] if not line.startswith("  ")]
    assert sum(shown) == pytest.approx(float(lines[-1].split()[-2].replace(",", "")), abs=0.3)
    # What stages took is known to the next run.
    assert all(seconds is not None for seconds in expected_seconds(config).values())
