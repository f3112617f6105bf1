"""The order contract: the same global batches, whoever makes them.

As a program, this file is one rank of a launcher: `torchrun … order.py JOBS` runs the jobs of a JSON file.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from figures.common import bench_config, load, make_tokenizer, open_batches, read_texts, repeated, write_jsonl
from figures.session import fresh
from figures.setting import Bench
from mlm_pretrain.config import Config
from mlm_pretrain.console import telemetry
from mlm_pretrain.errors import UserError
from mlm_pretrain.stream.loader import GlobalBatch

STEPS = 24
"""For each whole minute."""
SHARDS = (1, 7, 64)
PROCESSES = 2
LAUNCHERS = {
    "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"],
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
}

Lanes = dict[str, Any]


@dataclass
class Job:
    """Some steps of a run, for each of its processes to make its share of."""

    config: dict[str, Any]
    tokenizer: str
    out: str
    """A folder, where each rank writes its share."""
    steps: int
    step: int = 0
    lanes: Lanes | None = None
    workers: int = 0
    keep: int = 0
    """The step after which the lanes' states are wanted."""


@dataclass
class Share:
    """What a rank, or all of them joined, made of a job."""

    rows: list[dict[str, str]]
    """By step: the rows' numbers and the SHA-256 of each row, all of its tensors."""
    lanes: Lanes
    """The states after the step to keep."""


def order(bench: Bench) -> dict[str, float]:
    """Whether all ways of running a config give the same global batches, hash by hash.

    A global batch's hash is the SHA-256 over its rows in the order of their numbers, of each row every tensor; two
    sources of different weights (the small one is repeated) lie in 1, 7 and 64 files each. Settings: one process
    without workers, with 2 and with 4; two gloo ranks under `accelerate launch --multi_gpu --num_processes 2` and under
    `torchrun --nproc_per_node 2` with 2 workers each (each rank checks that there are two of them); and a run that goes
    from two processes to one to two, a third of the steps each. 24 steps for each whole minute. agree is 1 where in
    each corpus all hashes are the same, and every step has the right row numbers.
    """
    steps, folder, spending = STEPS * bench.minutes, bench.folder, bench.budget.spending
    texts = read_texts(bench.data)
    tokenizer = make_tokenizer(bench, texts, vocab_size=4096)
    configs = {shards: _config(folder, texts, shards) for shards in SHARDS}

    def jobs(**keys: Any) -> dict[int, Job]:
        return {
            shards: Job(config.model_dump(mode="json"), str(tokenizer), "", **({"steps": steps} | keys))
            for shards, config in configs.items()
        }

    third = steps // 3
    table: dict[str, dict[int, list[str]]] = {}
    for workers in (0, 2, 4):
        name = f"1 process, {workers or 'no'} workers"
        with spending(name):
            table[name] = _hashes(_run_alone(jobs(workers=workers), folder / f"alone{workers}"))
    with spending("accelerate launch"):
        accelerated = _launch("accelerate", jobs(keep=third), folder / "accelerate")
        table["accelerate launch, 2 processes"] = _hashes(accelerated)
    with spending("torchrun"):
        shares = _launch("torchrun", jobs(workers=2), folder / "torchrun")
        table["torchrun, 2 processes, 2 workers each"] = _hashes(shares)
    with spending("two processes, then one, then two"):
        middle = _resumed(jobs(steps=third, step=third, keep=2 * third), accelerated)
        second = _run_alone(middle, folder / "middle")
        last = _resumed(jobs(steps=third, step=2 * third), second)
        third_part = _hashes(_launch("torchrun", last, folder / "last"))
    chain = (_hashes(accelerated), _hashes(second), third_part)
    table["2 processes, then 1, then 2"] = {
        shards: chain[0][shards][:third] + chain[1][shards] + chain[2][shards] for shards in SHARDS
    }
    print(f"\nthe first {steps} global batches; the hash of their hashes, by the number of files of a source")
    print(telemetry.table(*_rows(table)))
    agree = all(len({tuple(hashes[shards]) for hashes in table.values()}) == 1 for shards in SHARDS)
    return {"agree": float(agree), "steps": float(steps)}


def _config(folder: Path, texts: list[str], shards: int) -> Config:
    sources = []
    for name, size, weight in (("large", 3_000_000, 3.0), ("small", 300_000, 1.0)):
        documents = repeated(texts if name == "large" else texts[::-1], size)
        for number in range(shards):
            write_jsonl(documents[number::shards], folder / f"{name}-{shards}" / f"{number:02d}.jsonl")
        sources.append({"source": "files", "path": str(folder / f"{name}-{shards}"), "label": name, "weight": weight})
    # Small windows, so that many of them pass.
    stream = {"sequence_length": 128, "shuffle_window": "400KB", "packing_buffer": "100KB"}
    return bench_config(folder, sources, stream=stream)


# -- jobs --------------------------------------------------------------------------------------------------------


def run_job(job: Job, rank: int = 0, world_size: int = 1) -> None:
    """Make a rank's share of a job, and write it to `out`."""
    config = Config.model_validate(job.config)
    tokenizer = load(Path(job.tokenizer))
    batches = open_batches(
        config,
        tokenizer,
        num_workers=job.workers,
        state=job.lanes,
        step=job.step,
        rank=rank,
        world_size=world_size,
    )
    share = Share([], {})
    for step, batch in enumerate(itertools.islice(batches, job.steps), start=job.step + 1):
        share.rows.append(_row_digests(batch))
        if step == job.keep:
            share.lanes = batch.lanes
    Path(job.out).mkdir(parents=True, exist_ok=True)
    Path(job.out, f"rank-{rank}.json").write_text(json.dumps(asdict(share)), encoding="utf-8")


def _row_digests(batch: GlobalBatch) -> dict[str, str]:
    digests = {}
    for place, number in enumerate(batch.rows.tolist()):
        whole = hashlib.sha256()
        for name, tensor in sorted(batch.tensors.items()):
            whole.update(f"{name} {tensor.dtype}".encode() + tensor[place].numpy().tobytes())
        digests[str(number)] = whole.hexdigest()
    return digests


def _joined(job: Job, world_size: int) -> Share:
    """The ranks' shares as one.

    Raises:
        UserError: the rows of a step are not those that it should have.
    """
    shares = [
        Share(**json.loads(Path(job.out, f"rank-{rank}.json").read_text(encoding="utf-8")))
        for rank in range(world_size)
    ]
    size = job.config["training"]["global_batch_size"]
    rows = []
    for step, parts in enumerate(zip(*(share.rows for share in shares), strict=True), start=job.step):
        numbers = sorted(int(number) for part in parts for number in part)
        if numbers != list(range(step * size, (step + 1) * size)):
            raise UserError(f"{job.out}: step {step} lacks rows, or has some twice: {numbers}")
        rows.append({number: digest for part in parts for number, digest in part.items()})
    return Share(rows, {number: state for share in shares for number, state in share.lanes.items()})


def _hashes(shares: dict[int, Share]) -> dict[int, list[str]]:
    """The hash of each global batch, by the number of shards."""
    return {
        shards: [
            hashlib.sha256("".join(rows[number] for number in sorted(rows, key=int)).encode()).hexdigest()
            for rows in share.rows
        ]
        for shards, share in shares.items()
    }


def _rows(table: dict[str, dict[int, list[str]]]) -> tuple[list[list[str]], list[str]]:
    rows = [
        [name, *(hashlib.sha256("".join(hashes[shards]).encode()).hexdigest()[:12] for shards in SHARDS)]
        for name, hashes in table.items()
    ]
    return rows, ["setting", *(f"{shards} file{'s' if shards > 1 else ''}" for shards in SHARDS)]


def _resumed(jobs: dict[int, Job], shares: dict[int, Share]) -> dict[int, Job]:
    for shards, job in jobs.items():
        job.lanes = shares[shards].lanes
    return jobs


def _run_alone(jobs: dict[int, Job], folder: Path) -> dict[int, Share]:
    for shards, job in jobs.items():
        job.out = str(folder / str(shards))
        fresh(run_job, job)
    return {shards: _joined(job, 1) for shards, job in jobs.items()}


def _launch(launcher: str, jobs: dict[int, Job], folder: Path) -> dict[int, Share]:
    """Let two ranks of a launcher do the jobs, one after another."""
    folder.mkdir(parents=True)
    for shards, job in jobs.items():
        job.out = str(folder / str(shards))
    file = folder / "jobs.json"
    file.write_text(json.dumps([asdict(job) for job in jobs.values()]), encoding="utf-8")
    command = [sys.executable, "-m", *LAUNCHERS[launcher], str(Path(__file__).resolve()), str(file)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{launcher} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return {shards: _joined(job, PROCESSES) for shards, job in jobs.items()}


def main() -> None:
    """One rank: do all jobs of a file."""
    import torch.distributed as dist
    from accelerate import PartialState

    telemetry.quiet_libraries()
    state = PartialState(cpu=True)
    assert (dist.get_world_size(), dist.get_backend()) == (PROCESSES, "gloo"), "two gloo ranks"
    for raw in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        run_job(Job(**raw), state.process_index, state.num_processes)
    state.wait_for_everyone()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
