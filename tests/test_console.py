"""What a command writes to its console: the real command line, on a pseudo-terminal and into a pipe."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mlm_pretrain.console import telemetry
from mlm_pretrain.console.bars import progress
from tests.conftest import tiny_config

BAR = re.compile(r"pretrain +\d+%\|")


@pytest.fixture(scope="module")
def config(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run whose tokenizer stands."""
    from mlm_pretrain import stages

    folder = tmp_path_factory.mktemp("console")
    made = tiny_config(corpus, folder, training={"budget": {"steps": 30}, "logging_steps": 5, "eval_steps": 10})
    stages.train_tokenizer(made)
    path = folder / "config.yaml"
    path.write_text(made.to_yaml(), encoding="utf-8")
    return path


def command(config: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "mlm_pretrain", "pretrain", str(config), "--force", *arguments]


def on_a_terminal(config: Path, *arguments: str, columns: int = 100) -> str:
    """What a terminal of this width is sent: stdin and stderr are one, stdout goes nowhere."""
    controller, terminal = pty.openpty()
    subprocess.run(["stty", "cols", str(columns), "rows", "30"], stdin=terminal, check=True)
    with subprocess.Popen(
        command(config, *arguments), stdin=terminal, stdout=subprocess.DEVNULL, stderr=terminal
    ) as process:
        os.close(terminal)
        said = b""
        while True:
            try:
                part = os.read(controller, 65536)
            except OSError:  # how Linux tells that the other end is closed
                break
            if not part:
                break
            said += part
    os.close(controller)
    assert process.returncode == 0, said
    return said.decode()


def into_a_pipe(config: Path, *arguments: str) -> tuple[str, str]:
    done = subprocess.run(command(config, *arguments), capture_output=True, text=True, check=True)
    return done.stdout, done.stderr


def screen(said: str) -> list[str]:
    """The lines that a terminal shows after what it was sent: carriage returns, newlines and steps upwards."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[A|\r|\n|[^\x1b\r\n]+", said):
        if part == "\x1b[A":
            row -= 1
        elif part == "\r":
            column = 0
        elif part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        else:
            lines[row] = lines[row].ljust(column)[:column] + part + lines[row][column + len(part) :]
            column += len(part)
    return [line.rstrip() for line in lines if line.strip()]


def test_a_terminal_has_one_bar_that_moves(config: Path) -> None:
    said = on_a_terminal(config, "run.name=terminal")
    assert len(BAR.findall(said)) >= 2
    shown = screen(said)
    # Each bar is one line at the end, inner bars are gone, and no line is torn by another.
    assert len([line for line in shown if line.startswith("pretrain ")]) == 1
    assert not [line for line in shown if line.startswith("held-out")]
    steps = [line for line in shown if line.startswith("step ")]
    assert [re.fullmatch(r"step (\d+): held-out loss \d\.\d{4}, accuracy \d\.\d{3}", line)[1] for line in steps] == [
        "10",
        "20",
        "30",
    ]
    bar = next(line for line in shown if line.startswith("pretrain "))
    assert re.search(r"100%\|.*step 30, loss \d", bar)
    assert shown[-1].startswith("pretraining: 30 steps, ")


def test_a_pipe_has_whole_lines(config: Path) -> None:
    out, said = into_a_pipe(config, "run.name=pipe")
    assert "\r" not in said and "\x1b" not in said and "█" not in said
    lines = said.splitlines()
    assert all(line.strip() for line in lines)
    assert len([line for line in lines if line.startswith("pretrain: ")]) == 1  # seconds are too short for more
    assert re.search(
        r"^pretrain: 100% \[\d+:\d+<\d+:\d+, step 30, loss \d\.\d+, [\d,]+ tokens/s\]$", said, re.MULTILINE
    )
    assert [line.split(":")[0] for line in lines if line.startswith("step ")] == ["step 10", "step 20", "step 30"]
    assert Path(out.splitlines()[-1]).name == "model"  # stdout is what a script reads


def test_json_lines_on_request(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, said = into_a_pipe(config, "run.name=json", "--log-format", "json")
    records = [json.loads(line) for line in said.splitlines()]
    assert {record["event"] for record in records} >= {"message", "metrics", "progress"}
    assert all(isinstance(record["time"], float) for record in records)
    folder = Path(out.splitlines()[-1]).parent
    written = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    for record in written:
        record.pop("time")
    told = [
        {key: value for key, value in record.items() if key not in ("event", "time")}
        for record in records
        if record["event"] == "metrics"
    ]
    assert told == written
    assert {5, 10, 15, 20, 25, 30} <= {record["step"] for record in told if "loss" in record}
    last = [record for record in records if record["event"] == "progress"][-1]
    assert (last["stage"], last["done"], last["total"]) == ("pretrain", 30, 30)
    # A terminal gets them too, and the environment serves as well as the option; errors are JSON then.
    monkeypatch.setenv(telemetry.LOG_FORMAT, "json")
    wrong = subprocess.run(command(config, "training.optimiser=adamw"), capture_output=True, text=True)
    error = json.loads(wrong.stderr)
    assert wrong.returncode == 2
    assert error["event"] == "error" and "optimiser" in error["message"]


@pytest.mark.parametrize(("kind", "seconds"), [("plain", 0.0), ("json", 0.0), ("plain", 3600.0)])
def test_lines_come_every_so_often_and_at_the_end(
    kind: str, seconds: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(telemetry.LOG_FORMAT, kind)
    monkeypatch.setattr("mlm_pretrain.console.bars.SECONDS_PER_LINE", seconds)
    with progress(3, "outer", unit="row", scale=False) as outer:
        for _ in range(3):
            with progress(2, "inner") as inner:
                inner.update(2)
            outer.update()
    lines = capsys.readouterr().err.splitlines()
    outer_lines = [line for line in lines if "outer" in line]
    assert len(outer_lines) == (3 if seconds == 0 else 1)  # each update, and the end if it is another
    assert len(lines) - len(outer_lines) == (3 if seconds == 0 else 0)
    if kind == "json":
        assert [json.loads(line)["done"] for line in outer_lines] == [1, 2, 3]
    else:
        assert outer_lines[-1].startswith("outer: 100%, 3/3 [")


def test_a_closed_console_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    for kind in ("plain", "json"):
        monkeypatch.setenv(telemetry.LOG_FORMAT, kind)
        broken = os.fdopen(os.dup(writer), "w", buffering=1)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", broken)
            telemetry.say("into nothing")
            with progress(2, "nothing") as bar:
                bar.update(2)
        with contextlib.suppress(BrokenPipeError):
            broken.close()
    os.close(writer)
