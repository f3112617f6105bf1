"""What `faults.py` does its harm with: runs in processes of their own, and a disk that fills."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import yaml
from safetensors.torch import load_file

from mlm_pretrain.io.digests import file_digest
from mlm_pretrain.run import checkpoints_in
from mlm_pretrain.text import installed_docs

STEPS = 300
PATIENCE = 300.0
"""Seconds until a run counts as hung."""
GRACE = 30.0
"""Seconds in which the others have to notice that one has died."""
LAYERS = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
DROPOUT = {"attention_dropout": 0.1, "mlp_dropout": 0.1}  # so that the state of the random generators counts
CONFIG: dict[str, Any] = {
    "text": {"validation_fraction": 0.05},
    "tokenizer": {"vocab_size": 2000},
    "stream": {"sequence_length": 64, "shuffle_window": "200KB", "packing_buffer": "40KB"},
    # Of two runs, each would take the attention that it finds to be faster.
    "model": {
        "model_type": "modernbert",
        "config": {**LAYERS, **DROPOUT, "local_attention": 16},
        "attn_implementation": "sdpa",
    },
    "training": {
        "torch_compile": False,
        "budget": {"steps": STEPS},
        "global_batch_size": 8,
        "bf16": False,
        "logging_steps": 1,
        "save_steps": 10,
    },
}


class Fault(Exception):
    """A run has lost something, or said the wrong thing."""


class Skipped(Exception):
    """This machine can't do it."""


def check(true: object, otherwise: str) -> None:
    """
    Raises:
        Fault: it isn't true.
    """
    if not true:
        raise Fault(" ⏎ ".join(line for line in otherwise.strip().splitlines()[-12:] if line))


def one_error(said: str, words: str) -> None:
    """Check that a run told its end in one line, with these words."""
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    check(len(errors) == 1 and words in errors[0] and "Traceback" not in said, said)


def wait_for_end(processes: Sequence[psutil.Process], first: subprocess.Popen[bytes]) -> None:
    """Wait until a process and those that it started have ended."""
    _, alive = psutil.wait_procs(processes, timeout=GRACE)
    check(not alive, f"{len(alive)} processes are still there after {GRACE:.0f} s")
    first.wait(GRACE)


class Run:
    """A run directory, and the command that begins it or goes on with it."""

    def __init__(self, folder: Path, verb: str, overrides: Sequence[str], processes: int) -> None:
        self.folder = folder
        self._verb = verb
        self._overrides = [f"run.output_dir={folder.parent}", *overrides]
        self._processes = processes
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, log: str = "said.txt") -> subprocess.Popen[bytes]:
        command = [sys.executable]
        if self._processes > 1:
            with socket.socket() as probe:
                probe.bind(("localhost", 0))
                port = str(probe.getsockname()[1])
            command += ["-m", "accelerate.commands.launch", "--multi_gpu", "--main_process_port", port]
            command += ["--num_processes", str(self._processes)]
        command += ["-m", "mlm_pretrain", self._verb, str(self.folder / "config.yaml"), *self._overrides]
        with self._log(log).open("wb") as output:
            # A session of its own, so that whatever is left can be found.
            process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        self.started.append(process)
        return process

    def finish(self, log: str = "said.txt", exit_code: int = 0) -> str:
        """Run to the end; what was said."""
        code = self.exit_code(self.start(log), log)
        check(code == exit_code, f"exit code {code}: {self.said(log)}")
        return self.said(log)

    def exit_code(self, process: subprocess.Popen[bytes], log: str = "said.txt") -> int:
        """Wait for the end."""
        check(self.ends_within(process, PATIENCE), f"hangs: {self.said(log)}")
        return process.returncode

    def ends_within(self, process: subprocess.Popen[bytes], seconds: float) -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        return process.poll() is not None

    def wait_for(self, true: Callable[[], object], process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not true():
            check(process.poll() is None, self.said())
            check(time.monotonic() < deadline, f"takes too long: {self.said()}")
            time.sleep(0.001)

    def wait_for_steps(self, steps: int, process: subprocess.Popen[bytes]) -> None:
        self.wait_for(lambda: len(self._records()) >= steps, process)

    def wait_for_save(self, process: subprocess.Popen[bytes], seconds: float) -> None:
        """Wait for the middle of a save, so far behind its beginning; or for the end."""
        while not self.is_saving() and process.poll() is None:
            time.sleep(0.0005)
        time.sleep(seconds)

    def ranks(self, launcher: subprocess.Popen[bytes]) -> list[psutil.Process]:
        """The processes that a launcher has started, by rank; waits for them."""
        found: list[psutil.Process] = []

        def all_there() -> bool:
            with contextlib.suppress(psutil.NoSuchProcess):
                below = psutil.Process(launcher.pid).children(recursive=True)
                found[:] = [each for each in below if "mlm_pretrain" in each.cmdline() and "RANK" in each.environ()]
            return len(found) == self._processes

        self.wait_for(all_there, launcher)
        return sorted(found, key=lambda each: int(each.environ()["RANK"]))

    def said(self, log: str = "said.txt") -> str:
        return self._log(log).read_text(encoding="utf-8", errors="replace")

    def is_saving(self) -> bool:
        return any(self.folder.glob("checkpoints/.step-*.tmp"))

    def checkpoints(self) -> list[Path]:
        return checkpoints_in(self.folder / "checkpoints")

    def is_finite(self, checkpoint: Path) -> bool:
        return all(bool(tensor.isfinite().all()) for tensor in load_file(checkpoint / "model.safetensors").values())

    def weights(self) -> str:
        return file_digest(self.folder / "model" / "model.safetensors")["sha256"]

    def skipped_steps(self) -> int:
        return json.loads(self._records()[-1]).get("skipped_steps", 0)

    def losses(self) -> list[tuple[int, float]]:
        return [(record["step"], record["loss"]) for record in map(json.loads, self._records())]

    def _records(self) -> list[str]:
        file = self.folder / "metrics.jsonl"
        return file.read_text(encoding="utf-8").splitlines() if file.exists() else []

    def _log(self, name: str) -> Path:
        # Beside the run: on a full disk, what is said has to go somewhere.
        return self.folder.parent.with_name(f"{self.folder.parent.name}-{name}")


class Bench:
    """A run without a fault, and copies of its beginning.

    Args:
        folder: where all runs go.
        kills: how often to kill.
        seed: of the random moments.
    """

    def __init__(self, folder: Path, kills: int, seed: int) -> None:
        self.folder = folder
        self.kills = kills
        self.random = random.Random(seed)
        self.text = folder / "text" / "docs.parquet"
        self._runs: list[Run] = []
        self.text.parent.mkdir()
        shutil.copy(installed_docs.extract([installed_docs.STDLIB]), self.text)
        self._begin(folder / "beginning")
        whole = self.new_run("whole")
        began = time.monotonic()
        whole.finish()
        self.seconds = time.monotonic() - began
        self._weights, self.losses = whole.weights(), whole.losses()
        self.compare(whole)

    def _begin(self, folder: Path) -> None:
        """A run directory with a tokenizer."""
        raw = {**CONFIG, "text": {**CONFIG["text"], "sources": [{"source": "files", "path": str(self.text)}]}}
        (folder / "run").mkdir(parents=True)
        (folder / "run" / "config.yaml").write_text(yaml.safe_dump({"run": {"name": "run"}, **raw}), encoding="utf-8")
        self._run(folder, "tokenizer").finish()

    def new_run(self, name: str, *overrides: str, processes: int = 1) -> Run:
        """A run that has a tokenizer and nothing else."""
        # A disk to be filled is there already.
        shutil.copytree(self.folder / "beginning" / "run", self.folder / name / "run")
        return self._run(self.folder / name, "pretrain", *overrides, processes=processes)

    def stopped_run(self, name: str, *overrides: str) -> Run:
        """A run that was killed half-way, with steps behind its newest checkpoint."""
        run = self.new_run(name, *overrides)
        process = run.start()
        run.wait_for_steps(STEPS // 2 + 5, process)
        process.kill()
        process.wait()
        return run

    def finished_run(self, name: str) -> Run:
        """A copy of the run without a fault."""
        shutil.copytree(self.folder / "whole" / "run", self.folder / name / "run")
        return self._run(self.folder / name, "pretrain")

    def again(self, run: Run, verb: str, *overrides: str) -> Run:
        """The same directory, for another verb or with other keys."""
        return self._run(run.folder.parent, verb, *overrides)

    def preparing_run(self, name: str) -> Run:
        """A run that prepares the documentation of all packages."""
        run = self.new_run(name)
        everything = self.folder / "everything" / "docs.parquet"
        if not everything.exists():
            everything.parent.mkdir()
            shutil.copy(installed_docs.extract(), everything)
        source = f"text.sources=[{{source: files, path: {everything}}}]"
        tokenizer = f"tokenizer.path={self.folder / 'beginning' / 'run' / 'tokenizer'}"
        return self._run(run.folder.parent, "prepare", source, tokenizer, "prepare.deduplicate=true")

    def _run(self, folder: Path, verb: str, *overrides: str, processes: int = 1) -> Run:
        self._runs.append(Run(folder / "run", verb, overrides, processes))
        return self._runs[-1]

    def compare(self, run: Run) -> None:
        """
        Raises:
            Fault: a finished run differs from the one without a fault.
        """
        steps = [step for step, _ in run.losses()]
        check(steps == list(range(1, STEPS + 1)), f"metrics.jsonl has {len(steps)} records of {len(set(steps))} steps")
        check(run.losses() == self.losses, "the losses differ")
        check(run.weights() == self._weights, "the weights differ")

    def end_processes(self) -> None:
        """Kill whatever the runs have left."""
        sessions = {process.pid for run in self._runs for process in run.started}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                if os.getsid(process.pid) in sessions:
                    process.kill()


class Disk:
    """A small file system to fill."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._filler = folder / "filler"

    def fill(self, room: int, until: Callable[[], bool]) -> None:
        """Leave `room` bytes free, and keep it so: saving a checkpoint removes older ones."""
        deadline = time.monotonic() + PATIENCE
        with self._filler.open("ab", buffering=0) as handle:
            while not until():
                check(time.monotonic() < deadline, "the run goes on though the disk is full")
                usage = os.statvfs(self._folder)
                more = usage.f_bavail * usage.f_frsize - room
                with contextlib.suppress(OSError):
                    handle.write(bytes(max(more, 0)))
                time.sleep(0.001)

    def make_room(self) -> None:
        self._filler.unlink()


@contextlib.contextmanager
def full_disk(folder: Path, size: int = 32_000_000) -> Iterator[Disk]:
    """
    Raises:
        Skipped: only root may mount one.
    """
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        raise Skipped("needs root, to mount a small tmpfs")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
