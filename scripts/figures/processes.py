"""Two processes of one thread beside one process of two.

As a program, this file is one process of a run: `torchrun … processes.py CONFIG TOKENIZER ADDRESS`.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from figures.loops import median_ratio, medians, time_loops, tokens_per_second
from figures.reference import our_speed, reference
from figures.session import LaunchedSession, serve
from figures.setting import Bench
from mlm_pretrain.config import Config
from mlm_pretrain.console import telemetry
from mlm_pretrain.runtime.processes import start

SETTINGS: dict[str, tuple[int, list[str]]] = {
    "one_process": (2, []),
    "two_processes": (1, ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]),
}
"""(threads of a process, the launcher)."""


def processes(bench: Bench) -> dict[str, float]:
    """Real tokens a second of pretraining on two processes of one thread against one process of two threads.

    Our loop in the reference setting (see `throughput`), our defaults with AdamW, on the CPU whatever else is there:
    with OMP_NUM_THREADS=2, and under `torchrun --nproc_per_node 2` with OMP_NUM_THREADS=1; the global batch is the
    same, so each of two processes has half of its rows. Rounds and clock as in `throughput`; medians, and the ratio
    (two / one) of the same round.
    """
    config, tokenizer = reference(bench, bench.data)
    file = bench.folder / "config.json"
    file.write_text(config.model_dump_json(), encoding="utf-8")
    program = [str(Path(__file__).resolve()), str(file), str(tokenizer)]
    found = time_loops(
        bench.budget,
        {
            name: partial(
                LaunchedSession,
                [sys.executable, *launcher, *program],
                {"OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""},
            )
            for name, (threads, launcher) in SETTINGS.items()
        },
    )
    speeds = tokens_per_second(found)
    compiled: dict[str, float] = {f"{name}_compiled": each[0].facts["compiled"] for name, each in found.items()}
    return {**medians(speeds), "ratio": median_ratio(speeds["two_processes"], speeds["one_process"]), **compiled}


class _Follower:
    """The rounds of a process that only takes part in them: the first process keeps the clock, and ends all."""

    def next(self, result: Any) -> float:
        return float("inf")


def main() -> None:
    """One process of a run."""
    telemetry.quiet_libraries()
    file, tokenizer, address = sys.argv[1:]
    config = Config.model_validate(json.loads(Path(file).read_text(encoding="utf-8")))
    group = start(config)
    if group.rank == 0:
        serve(address, our_speed, config, Path(tokenizer), group)
    else:
        our_speed(_Follower(), config, Path(tokenizer), group)


if __name__ == "__main__":
    main()
