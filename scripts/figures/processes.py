"""Two processes of one thread beside one process of two."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

from figures.clocks import WARMUP_STEPS
from figures.common import fresh
from figures.trainer import in_turn, median_ratio, medians, our_speed, reference_config, train_tokenizer
from mlm_pretrain.config import Config
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.telemetry import MetricsLog

ROUNDS = 2
STEPS = 5
"""Timed steps at least."""
SETTINGS: dict[str, tuple[int, list[str]]] = {
    "one_process": (2, []),
    "two_processes": (1, ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]),
}
"""(threads of a process, the launcher)."""


def processes(minutes: float, folder: Path, data: Path | None) -> dict[str, float]:
    """Real tokens a second of pretraining on two processes of one thread against one process of two threads.

    `mlm-pretrain pretrain` in the reference setting (see `throughput`), our defaults with AdamW, on the CPU whatever
    else is there: with OMP_NUM_THREADS=2, and under `torchrun --nproc_per_node 2` with OMP_NUM_THREADS=1; the global
    batch is the same, so each of two processes has half of its rows. Both make the same number of steps, as many as a
    short run before promises for --minutes; in turn, two rounds; medians, and the ratio (two / one) of the same round.
    Speeds are from the runs' own records, without the first five steps. The short run, and what each run does before
    its first step, take some three minutes more than --minutes.
    """
    config = reference_config(folder, data)
    tokenizer = train_tokenizer(config)
    seconds = 60 * minutes / (ROUNDS * len(SETTINGS))
    trial = fresh(our_speed, config, tokenizer, 0.1 * seconds)
    steps = WARMUP_STEPS + max(int(seconds / trial.step_seconds), STEPS)
    rounds = itertools.count()
    speeds = in_turn(
        {
            name: lambda name=name, setting=setting: _speed(config, f"{name}-{next(rounds)}", steps, *setting)
            for name, setting in SETTINGS.items()
        },
        ROUNDS,
    )
    return {
        **medians(speeds),
        "ratio": median_ratio(speeds["two_processes"], speeds["one_process"]),
        "steps": float(steps - WARMUP_STEPS),
    }


def _speed(config: Config, name: str, steps: int, threads: int, launcher: list[str]) -> float:
    """Real tokens a second of a run of its own, with the tokenizer that stands."""
    common = RunDirectory.of(config)
    run = RunDirectory(common.root.with_name(name))
    shutil.copytree(common.root, run.root)
    overrides = [f"run.name={name}", f"training.budget.steps={steps}", "training.logging_steps=1"]
    command = [sys.executable, *launcher, "-m", "mlm_pretrain", "pretrain", str(run.root), *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    records = {record["step"]: record for record in MetricsLog(run.metrics).read()}
    shutil.rmtree(run.root)
    first, last = records[WARMUP_STEPS], records[steps]
    return (last["tokens"] - first["tokens"]) / (last["seconds"] - first["seconds"])
