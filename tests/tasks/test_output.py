"""Predictions that are killed, starved or disturbed, and repeated: the same bytes as without."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForSequenceClassification

from mlm_pretrain.errors import UserError
from mlm_pretrain.io.files.records import Records
from mlm_pretrain.tasks.serve import predict as module
from mlm_pretrain.tasks.serve.predict import predict
from tests.tasks.conftest import make_tokenizer, separable_texts, tiny_masked_lm

CHUNK = 8


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier, untrained."""
    folder = tmp_path_factory.mktemp("output")
    tokenizer = make_tokenizer("bpe")
    tiny_masked_lm("modernbert", len(tokenizer)).save_pretrained(folder / "encoder")
    AutoModelForSequenceClassification.from_pretrained(folder / "encoder").save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder / "model"


@pytest.fixture
def task(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], dict[str, int]]:
    """A function that labels 40 lines, some of them bad, in chunks of 8 rows."""
    monkeypatch.setattr(module, "CHUNK", CHUNK)
    lines = [json.dumps(row) for row in separable_texts(40, seed=3)]
    lines[3], lines[20] = "{", "[]"
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    return lambda output: predict(model, tmp_path / "in.jsonl", output, batch_size=3)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def killed_at(event: int, folder: Path, run: Callable[[], object]) -> bool:
    """Run in a forked process that kills itself when it opens, renames, cuts or removes for the n-th time in a folder;
    whether it came to that."""
    child = os.fork()
    if child == 0:
        left = event

        def watch(name: str, arguments: tuple) -> None:
            nonlocal left
            if name in ("open", "os.rename", "os.truncate", "os.remove") and str(folder) in str(arguments[0]):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        try:
            run()
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), status
    return status == signal.SIGKILL


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv"])
def test_killed_at_any_point_and_repeated(task: Callable[[Path], dict[str, int]], tmp_path: Path, name: str) -> None:
    for folder in ("whole", "often"):
        (tmp_path / folder).mkdir()
    counts = task(tmp_path / "whole" / name)
    assert counts == {"texts": 38, "bad_lines": 2, "truncated": 0}
    whole = contents(tmp_path / "whole")
    assert sorted(whole) == [name, f"{name}.bad.jsonl"]
    event, step = 1, 1 if name.endswith("jsonl") else 4
    while True:
        folder = tmp_path / f"killed {event}"
        folder.mkdir()
        killed = killed_at(event, folder, lambda: task(folder / name))  # noqa: B023
        assert not killed or contents(folder).get(name, whole[name]) == whole[name]  # whole, or not there
        if killed:
            assert task(folder / name) == counts
        assert contents(folder) == whole
        if not killed:
            break
        event += step
    assert event > 15
    deaths = 0
    while killed_at(9, tmp_path / "often", lambda: task(tmp_path / "often" / name)):
        deaths += 1
        assert deaths < 30
    assert deaths > 2 and contents(tmp_path / "often") == whole


def test_killed_from_outside(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", CHUNK)
    rows = separable_texts(1200, seed=4)
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = (model, tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    code = (
        "import sys, pathlib; from mlm_pretrain.tasks.serve import predict as module;"
        f"module.CHUNK = {CHUNK}; module.predict(*map(pathlib.Path, sys.argv[1:]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stderr=subprocess.DEVNULL)
    state = tmp_path / ".out.jsonl.part.json"
    until = time.monotonic() + 120
    while not state.exists() or json.loads(state.read_text())["progress"]["lines"] < 5 * CHUNK:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL and not (tmp_path / "out.jsonl").exists()
    done = json.loads(state.read_text())["progress"]["lines"]
    # What is on disk stands for so many lines, whatever was being written behind it.
    with (tmp_path / ".out.jsonl.part").open("ab") as handle:
        handle.write(b'{"text": "half')
    read = []

    def watched(*arguments: Any, skip: int, **keys: Any) -> Records:
        read.append(skip)
        return Records(*arguments, skip=skip, **keys)

    monkeypatch.setattr(module, "Records", watched)
    assert predict(*arguments)["texts"] == 1200 and read == [done]
    predict(*arguments[:2], tmp_path / "whole.jsonl")
    assert read == [done, 0]
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_what_no_longer_fits_is_begun_anew(task: Callable[[Path], dict[str, int]], tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    task(tmp_path / "whole.jsonl")
    whole = (tmp_path / "whole.jsonl").read_bytes()
    part = folder / ".out.jsonl.part"
    for damage in ("shorter", "no bad lines", "another input", "another setting"):
        assert killed_at(12, folder, lambda: task(folder / "out.jsonl"))
        if damage == "shorter":
            part.write_bytes(part.read_bytes()[:-1])
        elif damage == "no bad lines":
            (folder / ".out.jsonl.part.bad").unlink()
        elif damage == "another input":
            content = (tmp_path / "in.jsonl").read_bytes()
            (tmp_path / "in.jsonl").write_bytes(content.replace(b"river", b"train"))
        else:
            state = json.loads((folder / ".out.jsonl.part.json").read_text())
            (folder / ".out.jsonl.part.json").write_text(json.dumps({**state, "identity": "other"}))
        task(folder / "out.jsonl")
        if damage == "another input":
            task(tmp_path / "whole.jsonl")
            assert (tmp_path / "whole.jsonl").read_bytes() != whole
            whole = (tmp_path / "whole.jsonl").read_bytes()
        assert (folder / "out.jsonl").read_bytes() == whole
        (folder / "out.jsonl").unlink()


def test_two_at_once_and_a_full_disk(task: Callable[[Path], dict[str, int]], tmp_path: Path) -> None:
    task(tmp_path / "whole.jsonl")
    folder = tmp_path / "out"
    folder.mkdir()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, limits[1]))
    try:
        with pytest.raises(UserError, match=r"out\.jsonl: can't write: .*; the same command goes on"):
            task(folder / "out.jsonl")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    part = folder / ".out.jsonl.part"
    assert part.stat().st_size > 0 and not (folder / "out.jsonl").exists()
    with part.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is writing it"):
            task(folder / "out.jsonl")
    task(folder / "out.jsonl")
    assert (folder / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert len(list(folder.iterdir())) == 2
