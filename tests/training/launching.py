"""Runs in processes of their own, with and without a launcher."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from mlm_pretrain import stages
from mlm_pretrain.config import Config
from mlm_pretrain.console.telemetry import MetricsLog
from mlm_pretrain.run import RunDirectory
from tests.conftest import tiny_config

ENDLESS = 1_000_000


def ready(corpus: Path, folder: Path, init_embeddings: str = "random", **training: Any) -> Config:
    """A config with its tokenizer; neither the learning rate nor, by default, how embeddings begin depends on the
    budget, so that a part is a run too."""
    settings = {"lr_scheduler_type": "constant", "warmup_steps": 0, "save_steps": None, **training}
    config = tiny_config(corpus, folder, training=settings)
    config = config.model_copy(update={"model": config.model.model_copy(update={"init_embeddings": init_embeddings})})
    stages.train_tokenizer(config)
    return config


def with_budget(config: Config, steps: int) -> Config:
    training = config.training.model_copy(update={"budget": config.training.budget.model_copy(update={"steps": steps})})
    return config.model_copy(update={"training": training})


def losses(run: RunDirectory) -> list[float]:
    return [record["loss"] for record in MetricsLog(run.metrics).read() if "loss" in record]


def ending(run: RunDirectory) -> dict[str, Any]:
    return json.loads(run.end.read_text(encoding="utf-8"))


def _launcher(kind: str) -> list[str]:
    if kind == "torchrun":
        return ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    if kind == "accelerate":
        return ["-m", "accelerate.commands.launch", "--cpu"]
    if kind == "accelerate 2":
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            port = probe.getsockname()[1]
        multi = ["--multi_gpu", "--num_processes", "2", "--main_process_port", str(port)]
        return ["-m", "accelerate.commands.launch", *multi]
    assert kind == "none"
    return []


@contextmanager
def launched(kind: str, run: RunDirectory, *overrides: str) -> Iterator[subprocess.Popen[str]]:
    """`pretrain` under a launcher ("none", "accelerate", "accelerate 2", "torchrun"), in a process group of its own."""
    command = [sys.executable, *_launcher(kind), "-m", "mlm_pretrain", "pretrain", str(run.root), *overrides]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        for each in [*ranks_of(process), process]:
            if each.poll() is None if isinstance(each, subprocess.Popen) else each.is_running():
                each.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def ranks_of(launcher: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes of a run that was launched, by rank."""
    if launcher.poll() is not None:
        return []
    children = psutil.Process(launcher.pid).children(recursive=True)
    ranks = [child for child in children if "mlm_pretrain" in child.cmdline()]
    return sorted(ranks, key=lambda child: int(child.environ().get("RANK", "0")))


def wait_until(true: Callable[[], Any], process: subprocess.Popen[str], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "took too long"
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.002)


def wait_for_steps(run: RunDirectory, steps: int, process: subprocess.Popen[str]) -> None:
    wait_until(lambda: run.metrics.exists() and run.metrics.read_bytes().count(b"\n") >= steps, process)


def wait_for_end(processes: list[psutil.Process], seconds: float = 60) -> None:
    """Wait for processes that may not be our children."""
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    assert not alive


os.environ.setdefault("OMP_NUM_THREADS", "1")
