"""Faults of the machine, with real processes: killed in a save, no room for a file, a worker gone, half a line.

`scripts/faults.py` does the same to larger runs, many times and at random moments.
"""

from __future__ import annotations

import hashlib
import re
import resource
import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest

from mlm_pretrain import stages
from mlm_pretrain.cli import main
from mlm_pretrain.config import Config
from mlm_pretrain.console.telemetry import MetricsLog
from mlm_pretrain.errors import UserError
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.runtime.checkpoint import newest_checkpoint
from mlm_pretrain.training.loop import pretrain
from tests.conftest import tiny_config
from tests.training.launching import ending, launched, wait_for_end, wait_for_steps, wait_until

STEPS = 100
Finished = tuple[str, list[float]]


def finished(run: RunDirectory) -> Finished:
    """Digest of the weights, losses; every step is there once."""
    records = MetricsLog(run.metrics).read()
    assert [record["step"] for record in records] == list(range(1, STEPS + 1))
    weights = hashlib.sha256((run.model / "model.safetensors").read_bytes()).hexdigest()
    return weights, [record["loss"] for record in records]


@pytest.fixture(scope="module")
def begun(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A run that has a tokenizer and nothing else, to be copied; with dropout, so that the random state counts."""
    settings = {"budget": {"steps": STEPS}, "save_steps": 10}
    config = tiny_config(corpus, tmp_path_factory.mktemp("begun"), training=settings)
    dropout = {"attention_dropout": 0.1, "mlp_dropout": 0.1}
    model = config.model.model_copy(update={"config": {**config.model.config, **dropout}})
    config = config.model_copy(update={"model": model})
    stages.train_tokenizer(config)
    return config


@pytest.fixture(scope="module")
def whole(begun: Config, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The run without a fault."""
    run = RunDirectory.of(copied(begun, tmp_path_factory.mktemp("whole")))
    stages.pretrain(copied(begun, run.root.parent))
    return finished(run)


def copied(begun: Config, folder: Path) -> Config:
    config = begun.model_copy(update={"run": begun.run.model_copy(update={"output_dir": str(folder)})})
    if not RunDirectory.of(config).root.exists():
        shutil.copytree(RunDirectory.of(begun).root, RunDirectory.of(config).root)
    RunDirectory.of(config).write_config(config)
    return config


@pytest.fixture
def config(begun: Config, tmp_path: Path) -> Config:
    return copied(begun, tmp_path)


def one_error(said: str) -> str:
    """The one line in which a run told its end."""
    errors = re.findall("^error: .*$", said, re.MULTILINE)
    assert len(errors) == 1, said
    assert "Traceback" not in said
    return errors[0]


def saving(run: RunDirectory) -> bool:
    return any(run.checkpoints.glob(".step-*.tmp"))


def test_killed_in_the_middle_of_a_save(config: Config, whole: Finished) -> None:
    run = RunDirectory.of(config)
    with launched("none", run) as process:
        wait_for_steps(run, 25, process)
        while not saving(run):
            # Halted where it is about to be killed: a save may end before it is seen.
            wait_until(lambda: saving(run), process)
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.01)
            if not saving(run):
                process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()
    assert saving(run)
    assert newest_checkpoint(run.checkpoints) is not None
    stages.pretrain(config)
    assert not saving(run)
    assert finished(run) == whole


def test_no_room_for_a_file_is_one_line_and_the_older_checkpoint_stands(
    config: Config, whole: Finished, capfd: pytest.CaptureFixture[str]
) -> None:
    run = RunDirectory.of(config)
    stop_at(config, 15)
    capfd.readouterr()
    # A limit on the size of files stands for a full disk, which only root can make.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, before[1]))
    try:
        exit_code = main(["pretrain", str(run.root)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert exit_code == 2
    assert "File too large" in one_error(capfd.readouterr().err)
    assert ending(run)["exit_code"] == 2
    assert not saving(run)
    assert newest_checkpoint(run.checkpoints) == run.checkpoint(10)
    assert ending(run)["checkpoint"] == str(run.checkpoint(10))
    stages.pretrain(config)
    assert finished(run) == whole


def test_a_killed_loader_worker_ends_the_run_which_goes_on(config: Config, whole: Finished) -> None:
    run = RunDirectory.of(config)
    with launched("none", run, "stream.dataloader_num_workers=2") as process:
        wait_for_steps(run, 15, process)
        workers = psutil.Process(process.pid).children()
        assert len(workers) == 2
        workers[1].kill()
        said, _ = process.communicate(timeout=60)
        wait_for_end(workers)
    assert process.returncode == 2, said
    assert "a loader worker was killed" in one_error(said)
    assert ending(run)["reason"].startswith("error: a loader worker was killed")
    stages.pretrain(config)
    assert finished(run) == whole


def test_half_a_line_in_the_records_is_dropped(config: Config, whole: Finished) -> None:
    run = RunDirectory.of(config)
    stop_at(config, 27)
    lines = run.metrics.read_bytes().splitlines(keepends=True)
    assert len(lines) == 27
    run.metrics.write_bytes(b"".join(lines[:26]) + lines[26][:20])
    assert len(MetricsLog(run.metrics).read()) == 26
    stages.pretrain(config)
    assert finished(run) == whole


def test_a_truncated_checkpoint_is_skipped_by_name(
    config: Config, whole: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDirectory.of(config)
    stop_at(config, 27)
    with (run.checkpoint(20) / "model.safetensors").open("r+b") as handle:
        handle.truncate(1000)
    capsys.readouterr()
    stages.pretrain(config)
    said = capsys.readouterr().err
    assert f"{run.checkpoint(20)}: skipped: model.safetensors is damaged" in said
    assert f"going on from {run.checkpoint(10)} " in said
    assert finished(run) == whole


def test_text_that_has_gone_is_named_and_its_run_goes_on_with_it(
    config: Config, corpus: Path, tmp_path: Path, whole: Finished
) -> None:
    own = tmp_path / "text"
    shutil.copytree(corpus, own)
    source = config.text.sources[0].model_copy(update={"path": str(own / "*.jsonl"), "label": "corpus"})
    moved = config.model_copy(update={"text": config.text.model_copy(update={"sources": [source]})})
    stages.train_tokenizer(moved)
    run = RunDirectory.of(moved)
    stop_at(moved, 15)
    first, *_ = sorted(own.iterdir())
    first.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"the corpus has changed: corpus\..*files"):
        stages.pretrain(moved)
    shutil.rmtree(own)
    with pytest.raises(UserError, match=re.escape(str(own))):
        stages.pretrain(moved)
    assert newest_checkpoint(run.checkpoints) == run.checkpoint(10)
    shutil.copytree(corpus, own)
    stages.pretrain(moved)
    assert finished(run) == whole


class Stopped(Exception):
    pass


def stop_at(config: Config, step: int) -> None:
    """Run so many steps, and end in an error."""

    def stop(done: int, batch: object) -> None:
        if done == step:
            raise Stopped

    with pytest.raises(Stopped):
        pretrain(config, RunDirectory.of(config), on_batch=stop)
