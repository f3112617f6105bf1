"""Locks between real processes, on file systems that have them and on those that have none."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mlm_pretrain.errors import UserError
from mlm_pretrain.io import locks
from mlm_pretrain.io.locks import held, is_held

HOLD = """
import errno, fcntl, sys
from pathlib import Path
from mlm_pretrain.io.locks import held

def flock(*_):
    raise OSError(int(sys.argv[2]), "no locks here")

if sys.argv[2] != "0":
    fcntl.flock = flock
with held(Path(sys.argv[1]), "busy"):
    print("held", flush=True)
    sys.stdin.read()
"""
KINDS = [0, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP]


def without_locks(patch: pytest.MonkeyPatch, number: int) -> None:
    """Let the system say of this process's locks what such a file system says."""

    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    if number:
        patch.setattr(locks.fcntl, "flock", flock)


@contextmanager
def holder(lock: Path, number: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD, str(lock), str(number)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.stdin.close()


@pytest.mark.parametrize("number", KINDS)
def test_one_process_at_a_time_and_a_killed_one_holds_nothing(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_locks(monkeypatch, number)
    lock = tmp_path / "deeper" / ".lock"
    with holder(lock, number) as process:
        with pytest.raises(UserError, match=r"^busy") as refusal, held(lock, "busy"):
            pass
        said = f"process {process.pid} on {socket.gethostname()} has ended, delete {lock}.owner"
        assert (said in str(refusal.value)) == bool(number)
    with held(lock, "busy"), held(lock, "busy"):
        assert is_held(lock)
    assert not is_held(lock)
    with holder(lock, number) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        with held(lock, "busy"):
            pass
    assert [path.name for path in lock.parent.iterdir()] == [".lock"]


def test_of_a_process_on_another_machine_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_locks(monkeypatch, errno.ENOLCK)
    owner = tmp_path / ".lock.owner"
    owner.write_text(json.dumps({"host": "another", "pid": 3, "started": "5"}))
    with pytest.raises(UserError, match="if process 3 on another has ended, delete"), held(tmp_path / ".lock", "busy"):
        pass
    owner.unlink()
    with held(tmp_path / ".lock", "busy"):
        assert json.loads(owner.read_text())["pid"] == os.getpid()
    assert not owner.exists()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="tells when a process was started")
def test_a_number_that_another_process_has_by_now_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_locks(monkeypatch, errno.ENOSYS)
    record = {"host": socket.gethostname(), "pid": os.getpid(), "started": "1"}
    (tmp_path / ".lock.owner").write_text(json.dumps(record))
    with held(tmp_path / ".lock", "busy"):
        pass


def test_another_error_is_told_as_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_locks(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match="Input/output error"), held(tmp_path / ".lock", "busy"):
        pass
