"""Contracts 1 and 2 over several processes: real ones, whose number is read from the records."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from mlm_pretrain.config_file import make_config
from mlm_pretrain.console.telemetry import MetricsLog
from mlm_pretrain.errors import UserError
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.runtime.checkpoint import newest_checkpoint, read_state
from mlm_pretrain.runtime.processes import Processes, start
from mlm_pretrain.training.loop import pretrain
from tests.training.launching import (
    ENDLESS,
    ending,
    launched,
    losses,
    ranks_of,
    ready,
    wait_for_steps,
    with_budget,
)

STEPS = 20
# 24 rows on 2 processes with 5 rows a pass: three passes, the last one smaller.
SETTINGS = {"global_batch_size": 24, "per_device_train_batch_size": 5, "eval_steps": 7}


def processes_of(run: RunDirectory) -> int:
    """How many wrote the newest checkpoint."""
    newest = newest_checkpoint(run.checkpoints)
    assert newest is not None
    return read_state(newest)["numerics"]["processes"]


@pytest.fixture(scope="module")
def alone(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run of one process."""
    config = ready(corpus, tmp_path_factory.mktemp("alone"), budget={"steps": STEPS}, **SETTINGS)
    run = RunDirectory.of(config)
    pretrain(config, run)
    assert processes_of(run) == 1
    return run


def test_stopped_on_two_taken_up_on_one_and_on_two_the_losses_are_the_same(
    alone: RunDirectory, corpus: Path, tmp_path: Path
) -> None:
    config = ready(corpus, tmp_path, budget={"steps": ENDLESS}, **SETTINGS)
    run = RunDirectory.of(config)
    with launched("accelerate 2", run) as launcher:
        wait_for_steps(run, 3, launcher)
        ranks_of(launcher)[1].send_signal(signal.SIGUSR1)
        said, _ = launcher.communicate(timeout=60)
    assert launcher.returncode == 1  # of whatever its processes say, it makes a 1
    end = ending(run)
    assert (end["reason"], end["exit_code"]) == ("SIGUSR1", 138), said
    assert said.count("the same command goes on") == 1
    stopped = end["step"]
    assert 3 <= stopped < STEPS - 6
    assert processes_of(run) == 2

    pretrain(with_budget(config, stopped + 3), run)
    assert processes_of(run) == 1

    with launched("torchrun", run, f"training.budget.steps={STEPS}") as launcher:
        said, _ = launcher.communicate(timeout=120)
    assert launcher.returncode == 0, said
    assert processes_of(run) == 2
    records, expected = MetricsLog(run.metrics).read(), MetricsLog(alone.metrics).read()
    assert [record["step"] for record in records] == [record["step"] for record in expected]
    for got, wanted in zip(records, expected, strict=True):
        assert got["tokens"] == wanted["tokens"]
        assert got.get("sources") == wanted.get("sources")
        for name in {"loss", "accuracy", "grad_norm", "heldout_loss", "heldout_accuracy"} & set(wanted):
            assert got[name] == pytest.approx(wanted[name], rel=1e-5), (name, wanted["step"])
    assert [record["step"] for record in records if "heldout_loss" in record] == [7, 14]
    assert len(losses(run)) == STEPS
    assert losses(run)[-1] < losses(run)[0]
    figures = json.loads(run.results.read_text(encoding="utf-8"))["pretraining"]
    assert figures["processes"] == 2
    tokens = {name: source["tokens"] for name, source in figures["sources"].items()}
    assert tokens == {name: source["tokens"] for name, source in records[-1]["sources"].items()}


def test_a_process_that_is_killed_ends_the_others_and_the_run_goes_on(corpus: Path, tmp_path: Path) -> None:
    config = ready(corpus, tmp_path, budget={"steps": ENDLESS})
    run = RunDirectory.of(config)
    with launched("torchrun", run) as launcher:
        wait_for_steps(run, 3, launcher)
        ranks_of(launcher)[1].kill()
        said, _ = launcher.communicate(timeout=60)
    assert launcher.returncode == 1
    assert said.count("error: another process of this run has ended") == 1
    assert ending(run)["reason"].startswith("error: another process")
    pretrain(with_budget(config, 5), run)
    assert len(losses(run)) == 5


def test_an_error_of_all_processes_is_told_once(corpus: Path, tmp_path: Path) -> None:
    config = ready(corpus, tmp_path, budget={"steps": 20})
    run = RunDirectory.of(config)
    with launched("torchrun", run, "training.max_loss=0.1", "training.on_bad_loss=skip") as launcher:
        said, _ = launcher.communicate(timeout=60)
    assert launcher.returncode == 1
    assert said.count("error: ") == said.count("error: the loss is ") == 1, said
    assert said.count("left out\n") == 9
    assert "at step 10 (rows 72–79 of the run, of " in said
    assert ending(run)["exit_code"] == 2
    assert not list(run.checkpoints.glob("step-*"))


@pytest.mark.parametrize("key", ["stream.lanes", "training.global_batch_size"])
def test_more_processes_than_parts_are_refused(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    section, name = key.split(".")
    with pytest.raises(UserError, match=f"{key}: 2 is less than the number of processes, 3"):
        start(make_config({section: {name: 2}}))


def test_one_process_agrees_with_itself() -> None:
    alone = Processes()
    assert alone.sum([1, 2.5]) == [1.0, 2.5]
    assert alone.gather({"a": 1}) == [{"a": 1}]
    assert alone.broadcast([1]) == [1]
