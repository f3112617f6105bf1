"""A whole run where the file system has no locks, and folders can't be told to reach the disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlm_pretrain import stages
from mlm_pretrain.run import RunDirectory
from tests.conftest import tiny_config
from tests.training.launching import ENDLESS, wait_for_steps

# What the system says there, in every process that is started with this on its path.
SYSTEM = """
import errno, fcntl, os, stat

def odd(file):
    descriptor = file if isinstance(file, int) else file.fileno()
    return os.readlink(f"/proc/self/fd/{descriptor}").startswith(os.environ["ODD_FOLDER"])

def flock(file, operation, _flock=fcntl.flock):
    if odd(file):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    _flock(file, operation)

def fsync(file, _fsync=os.fsync):
    if odd(file) and stat.S_ISDIR(os.fstat(file).st_mode):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    _fsync(file)

fcntl.flock, os.fsync = flock, fsync
"""


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="tells which files are meant")
def test_runs_are_kept_apart_killed_and_resumed_there(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "system").mkdir()
    (tmp_path / "system" / "sitecustomize.py").write_text(SYSTEM)
    config = tiny_config(corpus, tmp_path, training={"budget": {"steps": ENDLESS}, "save_steps": 5})
    stages.train_tokenizer(config)
    run = RunDirectory.of(config)
    path = os.pathsep.join([str(tmp_path / "system"), os.environ.get("PYTHONPATH", str(Path.cwd()))])
    command = [sys.executable, "-m", "mlm_pretrain", "pretrain", str(run.root)]
    environment = {**os.environ, "PYTHONPATH": path, "ODD_FOLDER": str(run.root)}
    common = {"env": environment, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, stdout=subprocess.PIPE, **common) as first:  # type: ignore[call-overload]
        try:
            wait_for_steps(run, 7, first)
            second = subprocess.run(command, check=False, timeout=120, **common)  # type: ignore[call-overload]
            assert second.returncode == 2
            assert "another process is at work in this run" in second.stderr
            assert f"if process {first.pid} on " in second.stderr
            assert "Traceback" not in second.stderr
        finally:
            first.kill()
    last = [*command, "training.budget.steps=20"]
    third = subprocess.run(last, check=False, timeout=120, **common)  # type: ignore[call-overload]
    assert third.returncode == 0, third.stderr
    assert "going on from" in third.stderr
    assert (run.model / "model.safetensors").exists()
    assert not list(run.root.glob(".lock.owner*"))
