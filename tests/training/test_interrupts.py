"""A run that is asked to stop: real signals to real processes and launchers, and what stands afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from mlm_pretrain import stages
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.runtime.interrupts import EXIT_CODES, Interrupted, Interrupts, reason_of
from mlm_pretrain.training.loop import pretrain
from tests.training.launching import (
    ENDLESS,
    ending,
    launched,
    losses,
    ranks_of,
    ready,
    wait_for_end,
    wait_for_steps,
    with_budget,
)

DROPOUT = {"attention_dropout": 0.1, "mlp_dropout": 0.1}


def weights(run: RunDirectory) -> str:
    return hashlib.sha256((run.model / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_saves_and_the_weights_after_resuming_are_bit_identical(
    number: signal.Signals, corpus: Path, tmp_path: Path
) -> None:
    config = ready(corpus, tmp_path / "stopped", budget={"steps": ENDLESS})
    run = RunDirectory.of(config)
    with launched("none", run, "stream.dataloader_num_workers=2") as process:
        wait_for_steps(run, 5, process)
        # To the whole group, as a terminal and a batch system do: the loader's workers too.
        os.killpg(process.pid, number)
        said, _ = process.communicate(timeout=60)
    reason = {signal.SIGINT: "Ctrl-C"}.get(number, number.name)
    assert process.returncode == 128 + number, said
    end = ending(run)
    assert (end["reason"], end["exit_code"]) == (reason, 128 + number)
    assert end["checkpoint"] == str(run.checkpoint(end["step"]))
    assert f"stopped after step {end['step']} ({reason}); the checkpoint is {end['checkpoint']}" in said
    assert "Traceback" not in said
    assert not run.model.exists()
    steps = end["step"] + 3
    stages.pretrain(with_budget(config, steps))
    whole = with_budget(ready(corpus, tmp_path / "whole"), steps)
    stages.pretrain(whole)
    assert weights(run) == weights(RunDirectory.of(whole))
    assert losses(run) == losses(RunDirectory.of(whole))
    assert ending(run)["reason"] == "finished"


def test_ctrl_c_twice_stops_at_once(corpus: Path, tmp_path: Path) -> None:
    # A step of many passes: long enough for both to fall into it.
    slow = {"global_batch_size": 2000, "per_device_train_batch_size": 1, "logging_steps": 1}
    config = ready(corpus, tmp_path, budget={"steps": ENDLESS}, **slow)
    run = RunDirectory.of(config)
    with launched("none", run) as process:
        wait_for_steps(run, 1, process)
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)  # two that come at the same moment are one
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; the same command goes on" in said
    assert "Traceback" not in said
    assert ending(run)["reason"] == "Ctrl-C"
    assert not list(run.checkpoints.glob("step-*"))


@pytest.mark.parametrize(
    ("launcher", "number"), [("accelerate", signal.SIGTERM), ("torchrun", signal.SIGKILL)], ids=["accelerate", "two"]
)
def test_processes_whose_launcher_has_died_save_and_end(
    launcher: str, number: signal.Signals, corpus: Path, tmp_path: Path
) -> None:
    config = ready(corpus, tmp_path, budget={"steps": ENDLESS})
    run = RunDirectory.of(config)
    with launched(launcher, run) as process:
        wait_for_steps(run, 3, process)
        ranks = ranks_of(process)
        assert len(ranks) == (2 if launcher == "torchrun" else 1)
        # The terminal or pipe may be gone with it.
        assert process.stdout is not None
        process.stdout.close()
        process.send_signal(number)
        wait_for_end(ranks)
    end = ending(run)
    assert (end["reason"], end["exit_code"]) == ("launcher died", 129)
    assert end["step"] >= 3
    assert Path(end["checkpoint"]).is_dir()


def test_a_run_that_ended_without_a_word_says_so(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ready(corpus, tmp_path, budget={"steps": 3})
    run = RunDirectory.of(config)
    with launched("none", run, f"training.budget.steps={ENDLESS}") as process:
        wait_for_steps(run, 1, process)
        process.kill()
        process.wait()
    end = ending(run)
    assert (end["reason"], end["pid"]) == ("running", process.pid)
    (run.checkpoints / ".step-00000002.tmp").mkdir(parents=True)  # as a save that was killed leaves
    capsys.readouterr()
    stages.pretrain(config)
    said = capsys.readouterr().err
    assert f"warning: the last part of this run (pretrain, process {process.pid} on " in said
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-00000003"]
    stages.evaluate(config)
    assert "without a word" not in capsys.readouterr().err


def test_handlers_are_taken_and_given_back() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    with Interrupts() as interrupts:
        assert reason_of(interrupts.requests()) is None
        os.kill(os.getpid(), signal.SIGUSR1)
        assert reason_of(interrupts.requests()) == "SIGUSR1"
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert {number: signal.getsignal(number) for number in before} == before
    asked: list[int] = []

    def elsewhere() -> None:
        with Interrupts() as others:
            asked.extend(others.requests())

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert asked == [0] * len(EXIT_CODES)


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            os.kill(os.getpid(), signal.SIGHUP)
            assert reason_of(interrupts.requests()) is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_request_behind_the_last_step_stops_before_the_next_stage(corpus: Path, tmp_path: Path) -> None:
    config = ready(corpus, tmp_path, budget={"steps": 3})
    run = RunDirectory.of(config)

    def ask(step: int, batch: object) -> None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with Interrupts() as interrupts, pytest.raises(Interrupted, match="after step 3") as stop:
        pretrain(config, run, on_batch=ask, interrupts=interrupts)
    assert stop.value.exit_code == 143
    assert run.checkpoint(3).is_dir()
    assert json.loads((run.model / "config.json").read_text(encoding="utf-8"))
