"""What trackers are told, read back with their own readers; energy, where CodeCarbon is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mlm_pretrain import stages
from mlm_pretrain.config import Config
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.runtime.trackers import hyperparameters
from tests.conftest import tiny_config

READ_TRACKIO = """
import json, sys
import trackio
from trackio.sqlite_storage import SQLiteStorage
runs = list(trackio.Api().runs("mlm_pretrain"))
logs = [SQLiteStorage.get_logs("mlm_pretrain", run.name, run_id=run.id) for run in runs]
print(json.dumps([{"name": run.name, "config": run.config, "logs": log} for run, log in zip(runs, logs)], default=str))
"""


def make(corpus: Path, folder: Path, **training: Any) -> Config:
    steps = {"budget": {"steps": 8}, "logging_steps": 1, "save_steps": 3, "eval_steps": 4}
    return tiny_config(corpus, folder, training={**steps, "report_to": ["tensorboard", "trackio"], **training})


def pretrain(
    config: Config, folder: Path, environment: dict[str, str] | None = None, kill_at: int | None = None
) -> str:
    """In a process of its own, since Trackio's place is a process's; killed without a word behind a step if wished."""
    path = folder / "config.yaml"
    path.write_text(config.to_yaml(), encoding="utf-8")
    program = f"""
import os, signal
from mlm_pretrain.config_file import load_config
from mlm_pretrain.training import records
from mlm_pretrain import stages
write = records.Records.write
def write_and_die(self, progress, *rest):
    write(self, progress, *rest)
    if progress.step == {kill_at}:
        os.kill(os.getpid(), signal.SIGKILL)
records.Records.write = write_and_die
stages.pretrain(load_config({str(path)!r}))
"""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("TRACKIO")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=clean | (environment or {}), capture_output=True, text=True
    )
    assert done.returncode == (-9 if kill_at else 0), done.stderr
    assert "Trackio" not in done.stdout  # which is for results
    return done.stderr


def recorded(run: RunDirectory) -> dict[int, dict[str, float]]:
    """The numbers of `metrics.jsonl` by step; what one step has in several records is joined."""
    steps: dict[int, dict[str, float]] = {}
    for line in run.metrics.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        numbers = {key: value for key, value in record.items() if isinstance(value, int | float)}
        steps.setdefault(numbers.pop("step"), {}).update({k: v for k, v in numbers.items() if k != "time"})
    return steps


def in_tensorboard(run: RunDirectory) -> dict[int, dict[str, float]]:
    events = EventAccumulator(str(run.trackers / "mlm_pretrain"))
    events.Reload()
    steps: dict[int, dict[str, float]] = {}
    for name in events.Tags()["scalars"]:
        for event in events.Scalars(name):
            assert name not in steps.get(event.step, {}) or name == "tokens", (name, event.step)
            steps.setdefault(event.step, {})[name] = event.value
    return steps


def in_trackio(folder: Path) -> list[dict[str, Any]]:
    environment = {**os.environ, "TRACKIO_DIR": str(folder)}
    read = subprocess.run(
        [sys.executable, "-c", READ_TRACKIO], env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(read.stdout.splitlines()[-1])


def assert_as_recorded(run: RunDirectory, trackio: Path) -> None:
    expected = recorded(run)
    assert set(expected) == set(range(1, 9)) and {"loss", "heldout_loss", "learning_rate"} <= set(expected[8])
    tensorboard = in_tensorboard(run)
    assert set(tensorboard) == set(expected)
    for step, numbers in expected.items():
        assert tensorboard[step] == pytest.approx(numbers, rel=1e-6)  # TensorBoard keeps 32 bits
    (tracked,) = in_trackio(trackio)
    assert tracked["name"] == "tiny"
    steps: dict[int, dict[str, float]] = {}
    for log in tracked["logs"]:
        numbers = {key: value for key, value in log.items() if key not in ("step", "timestamp")}
        # A step that is there twice would have its loss twice.
        assert "loss" not in numbers or "loss" not in steps.get(log["step"], {})
        steps.setdefault(log["step"], {}).update(numbers)
    assert steps == expected
    assert tracked["config"]["training.learning_rate"] == 3e-3
    assert tracked["config"]["text.sources.0.path"] == "corpus0"


def test_trackers_hold_what_the_records_hold_after_a_kill_too(corpus: Path, tmp_path: Path) -> None:
    config = make(corpus, tmp_path)
    run = RunDirectory.of(config)
    stages.train_tokenizer(config)
    pretrain(config, tmp_path, kill_at=5)
    assert max(in_tensorboard(run)) == 5  # which are to be done again from step 3
    said = pretrain(config, tmp_path)
    assert "going on from" in said and f"TRACKIO_DIR={run.trackers / 'trackio'}" in said
    assert_as_recorded(run, run.trackers / "trackio")
    hyper = next(run.trackers.rglob("hparams.yml")).read_text(encoding="utf-8")
    assert "training.learning_rate: 0.003" in hyper
    assert len(list(run.trackers.rglob("hparams.yml"))) == 1
    kept = [path for path in run.trackers.rglob("*") if path.is_file()]
    for path in kept:
        assert str(corpus).encode() not in path.read_bytes(), path


def test_trackio_writes_where_its_own_setting_says(corpus: Path, tmp_path: Path) -> None:
    config = make(corpus, tmp_path, report_to=["trackio"], budget={"steps": 2}, save_steps=None, eval_steps=None)
    run = RunDirectory.of(config)
    stages.train_tokenizer(config)
    pretrain(config, tmp_path, {"TRACKIO_DIR": str(tmp_path / "all")})
    assert not run.trackers.exists() or not list(run.trackers.rglob("*.db"))
    (tracked,) = in_trackio(tmp_path / "all")
    assert [log["step"] for log in tracked["logs"]] == [1, 2]


def test_hyperparameters_are_plain_and_tell_no_place_or_secret(corpus: Path, tmp_path: Path) -> None:
    config = tiny_config(
        corpus,
        tmp_path,
        publish={"hub_model_id": "me/model", "tags": ["a", "b"]},
        training={"global_batch_size": {0: 4, 5: 8}},
        tasks=[{"task": "classification", "name": "topic", "train": "/home/somebody/train.csv"}],
    )
    told = hyperparameters(config)
    assert all(isinstance(value, int | float | str) for value in told.values())
    assert told["training.global_batch_size.5"] == 8
    assert told["publish.tags.1"] == "b" and told["tasks.0.train"] == "train.csv"
    assert not [value for value in told.values() if str(tmp_path) in str(value) or "/home" in str(value)]


def test_energy_is_estimated_and_counted_on(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("codecarbon")
    monkeypatch.setenv("CODECARBON_COUNTRY_ISO_CODE", "FRA")
    config = make(corpus, tmp_path, report_to=[])
    run = RunDirectory.of(config)
    stages.train_tokenizer(config)
    pretrain(config, tmp_path, kill_at=5)
    first = max(numbers.get("energy_kwh", 0.0) for numbers in recorded(run).values())
    pretrain(config, tmp_path)
    energy = run.read_results()["pretraining"]["energy"]
    assert 0 < first < energy["kwh"] < 0.01
    assert 0 < energy["emissions_kg"] < energy["kwh"]  # kg a kWh: nowhere above 1 in France
    assert energy["country_iso_code"] == "FRA" and energy["since_step"] == 0
    assert energy["method"].startswith("CodeCarbon 3")
