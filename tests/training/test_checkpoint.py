"""Contract 5, and the bit-identical resume of contract 1: interrupted anywhere, killed for real, damaged on disk."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mlm_pretrain import stages
from mlm_pretrain.config import Config
from mlm_pretrain.console.telemetry import MetricsLog
from mlm_pretrain.errors import UserError
from mlm_pretrain.io.digests import find_fault
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.runtime.checkpoint import newest_checkpoint
from mlm_pretrain.stream.shuffle import ORDER
from mlm_pretrain.training.loop import Pretraining, pretrain
from mlm_pretrain.training.resume import STREAM_ORDER, refuse_changes
from tests.conftest import tiny_config

DROPOUT = {"config": {"attention_dropout": 0.1, "mlp_dropout": 0.1}}


class Killed(Exception):
    pass


def weights(run: RunDirectory) -> str:
    return hashlib.sha256((run.model / "model.safetensors").read_bytes()).hexdigest()


def train(config: Config, until: int | None = None) -> RunDirectory:
    """Pretrain, or be interrupted before step `until`."""

    def interrupt(step: int, batch: object) -> None:
        if step == until:
            raise Killed

    run = RunDirectory.of(config)
    if until is None:
        pretrain(config, run)
    else:
        with pytest.raises(Killed):
            pretrain(config, run, on_batch=interrupt)
    return run


def ready(corpus: Path, folder: Path, **training: Any) -> Config:
    """A config whose tokenizer stands; with dropout, so that the random state counts."""
    config = tiny_config(corpus, folder, training={"save_steps": 3, **training})
    config = config.model_copy(
        update={
            "model": config.model.model_copy(update={"config": {**config.model.config, **DROPOUT["config"]}}),
        }
    )
    stages.train_tokenizer(config)
    return config


@pytest.fixture(scope="module")
def uninterrupted(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[float]]:
    run = train(ready(corpus, tmp_path_factory.mktemp("whole"), budget={"steps": 12}))
    return weights(run), [record["loss"] for record in MetricsLog(run.metrics).read()]


def test_weights_after_interruptions_are_bit_identical(
    uninterrupted: tuple[str, list[float]], corpus: Path, tmp_path: Path
) -> None:
    expected, losses = uninterrupted
    config = ready(corpus, tmp_path, budget={"steps": 12})
    for step in (2, 5, 7, 11):  # before the first checkpoint, between two, at one, near the end
        train(config, until=step)
    run = train(config)
    assert weights(run) == expected
    records = MetricsLog(run.metrics).read()
    assert [record["step"] for record in records] == list(range(1, 13))
    assert [record["loss"] for record in records] == losses


def test_kill_minus_nine_loses_nothing(uninterrupted: tuple[str, list[float]], corpus: Path, tmp_path: Path) -> None:
    expected, _ = uninterrupted
    config = ready(corpus, tmp_path, budget={"steps": 12})
    run = RunDirectory.of(config)
    command = [sys.executable, "-m", "mlm_pretrain", "pretrain", str(run.root)]
    for step in (3, 9):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while not run.checkpoint(step).exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not run.model.exists()
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    assert weights(run) == expected


def test_damaged_checkpoints_are_skipped_by_name(
    uninterrupted: tuple[str, list[float]], corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ready(corpus, tmp_path, budget={"steps": 12}, save_total_limit=None)
    run = train(config, until=11)
    third, sixth, ninth = (run.checkpoint(step) for step in (3, 6, 9))
    flipped = bytearray((ninth / "optimizer.safetensors").read_bytes())
    flipped[-1] ^= 1
    (ninth / "optimizer.safetensors").write_bytes(flipped)
    (sixth / "manifest.json").unlink()
    assert newest_checkpoint(run.checkpoints) == third
    said = capsys.readouterr().err
    assert f"{ninth}: skipped: optimizer.safetensors is damaged" in said
    assert f"{sixth}: skipped: no readable manifest.json" in said
    assert weights(train(config)) == uninterrupted[0]


def test_a_save_that_fails_leaves_the_older_checkpoint(corpus: Path, tmp_path: Path) -> None:
    config = ready(corpus, tmp_path, budget={"steps": 12}, save_total_limit=1)
    run = train(config, until=5)
    trainer = Pretraining(config, run)
    before = sorted(path.name for path in run.checkpoints.iterdir())

    def full_disk(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    trainer._write_model = full_disk  # type: ignore[method-assign]
    with pytest.raises(OSError, match="No space left"):
        trainer.train()
    assert sorted(path.name for path in run.checkpoints.iterdir()) == before == ["step-00000003"]


def test_checkpoints_are_pruned_whole_and_unpickled_nothing(corpus: Path, tmp_path: Path) -> None:
    run = train(ready(corpus, tmp_path, budget={"steps": 12}, save_total_limit=2))
    kept = sorted(path.name for path in run.checkpoints.iterdir())
    assert kept == ["step-00000009", "step-00000012"]
    suffixes = {path.suffix for path in run.root.rglob("*") if path.is_file()}
    assert suffixes <= {".safetensors", ".json", ".jsonl", ".yaml", ""}
    newest = newest_checkpoint(run.checkpoints)
    assert newest is not None
    assert find_fault(newest) is None


def test_a_changed_key_or_corpus_is_refused_by_name(corpus: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for path in corpus.iterdir():
        (data / path.name).write_bytes(path.read_bytes())
    config = ready(data, tmp_path, budget={"steps": 12})
    train(config, until=4)
    for key, section in (
        ("training.learning_rate", {"training": config.training.model_copy(update={"learning_rate": 1e-4})}),
        ("stream.shuffle_window", {"stream": config.stream.model_copy(update={"shuffle_window": 10_000})}),
        ("run.seed", {"run": config.run.model_copy(update={"seed": 3})}),
    ):
        with pytest.raises(UserError, match=key):
            train(config.model_copy(update=section))
    with (data / "part-0.jsonl").open("a", encoding="utf-8") as handle:
        handle.write(json.dumps({"text": "one more document"}) + "\n")
    with pytest.raises(UserError, match="the corpus has changed"):
        train(config)


def test_a_run_in_use_is_refused(config: Config) -> None:
    stages.train_tokenizer(config)
    run = RunDirectory.of(config)
    hold = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); print(1, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", hold, str(run.root / ".lock")]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(UserError, match="another process is at work"):
            pretrain(config, run)
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        holder.stdout.close()


def test_a_run_of_a_version_with_another_order_is_refused_for_that_alone() -> None:
    old = {STREAM_ORDER: ORDER - 1, "corpus.files.document": "line", "training.learning_rate": 1e-3}
    now = {STREAM_ORDER: ORDER, "corpus.files.documents": ["line"], "training.learning_rate": 1e-3}
    with pytest.raises(UserError, match=r"^step-00000300: this run was begun with another version of mlm-pretrain"):
        refuse_changes("step-00000300", old, now)
