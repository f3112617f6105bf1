"""Fine-tuning as a stage of a run: what stands, what is asked for beside, and one task from another's model."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
from torch import Tensor

from mlm_pretrain import cli, stages
from mlm_pretrain.config import Config
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.tasks.adapter import Feature
from mlm_pretrain.tasks.fit.loop import Fit
from tests.conftest import tiny_config

TOPICS = {"time": "the clock of the hour and the minute", "place": "a street of the town and its river"}


def labelled(folder: Path) -> str:
    rows = [
        {"text": f"{word} {text.split()[number % 7]}", "label": label}
        for label, text in TOPICS.items()
        for number, word in enumerate(text.split() * 3)
    ]
    path = folder / "topics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def finished(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("finished")
    task = {"task": "classification", "train": labelled(folder), "max_steps": 6, "seeds": [0], "bf16": False}
    root = folder / "tiny"
    tasks = [
        {**task, "name": "topic", "sweep": {"learning_rate": [1e-3, 3e-3], "num_train_epochs": [1]}},
        {**task, "name": "again", "model": str(root / "tasks" / "topic")},
    ]
    config = tiny_config(corpus, folder, tasks=tasks)
    stages.run_all(config)
    return config


def test_tasks_stand_until_their_inputs_change(finished: Config, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    results = stages.finetune(finished)
    said = capsys.readouterr().err
    assert "finetune topic: up to date" in said and "finetune again: up to date" in said
    assert results["topic"]["metric"] == "accuracy"
    longer = finished.tasks[0].model_copy(update={"max_steps": 7})
    stages.finetune(finished.model_copy(update={"tasks": [longer, finished.tasks[1]]}), "topic")
    assert "up to date" not in capsys.readouterr().err
    # The other task began from this one's model, which is another one now.
    stages.finetune(finished, "again")
    assert "up to date" not in capsys.readouterr().err


def test_a_learning_curve_and_a_sweep_are_added(finished: Config, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunDirectory.of(finished)
    config = str(run.root)
    assert cli.main(["finetune", config, "--task", "topic", "--train-fractions", "0.5", "1"]) == 0
    curve = run.read_results()["tasks"]["topic"]["learning_curve"]
    assert [point["fraction"] for point in curve] == [0.5, 1.0]
    assert curve[0]["examples"] * 2 == pytest.approx(curve[1]["examples"], abs=1)
    capsys.readouterr()
    assert cli.main(["finetune", config, "--task", "topic"]) == 0
    assert "finetune topic: up to date, skipped" in capsys.readouterr().err
    assert cli.main(["finetune", config, "--task", "topic", "--sweep"]) == 0
    result = run.read_results()["tasks"]["topic"]
    assert len(result["sweep"]["trials"]) == 2
    assert result["learning_rate"] == result["sweep"]["best"]["learning_rate"]
    assert "learning_curve" not in result  # of another learning rate


def test_a_signal_stops_a_task_where_the_next_call_goes_on(
    finished: Config, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, step = RunDirectory.of(finished), Fit._step
    call = ["finetune", str(run.root), "--task", "again", "--force"]
    assert cli.main(call) == 0
    expected = run.read_results()["tasks"]["again"]

    def asked(fit: Fit, features: Sequence[Feature]) -> Tensor:
        if fit.progress.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(fit, features)

    with monkeypatch.context() as patch:
        patch.setattr(Fit, "_step", asked)
        assert cli.main(call) == 143
    assert "stopped after step 4 (SIGTERM); the same command goes on" in capsys.readouterr().err
    end = json.loads(run.end.read_text())
    assert (end["stage"], end["reason"], end["exit_code"]) == ("finetune again", "SIGTERM", 143)
    assert cli.main(call) == 0
    assert "going on from" in capsys.readouterr().err
    timed = ("seconds", "examples_per_second")
    assert {**run.read_results()["tasks"]["again"], **dict.fromkeys(timed)} == {**expected, **dict.fromkeys(timed)}


def test_shares_are_checked(finished: Config) -> None:
    with pytest.raises(SystemExit):
        cli.main(["finetune", str(RunDirectory.of(finished).root), "--train-fractions", "2"])
