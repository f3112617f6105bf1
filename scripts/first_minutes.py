"""What the first run comes to: the quickstart with several run seeds, for the README.

    python scripts/first_minutes.py --json docs/measurements/first_minutes.json
    python scripts/first_minutes.py --seeds 0 --work runs/first_minutes
    python scripts/first_minutes.py training.budget.tokens=500000 --seeds 0 1

Each seed is a run of its own, `mlm-pretrain run configs/quickstart.yaml run.seed=SEED`, one after another, so that the
whole takes as long as so many quickstarts; KEY=VALUE goes over the config, as on the command line. Nothing else should
run on the machine. With --work the runs remain, and the same command makes no finished run again: choose
another folder after a change of the code (each run's commit is in the JSON).

The table has, for each task, the mean over the run seeds (of which each is a mean over the task's own seeds) of the
pretrained encoder, the same architecture from random weights, a bag of words, and the majority; lead is the smallest
distance over the run seeds between the pretrained encoder and the best of the others.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from figures.setting import machine

from mlm_pretrain.console import telemetry
from mlm_pretrain.run import RunDirectory

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "quickstart.yaml"
ORIGINS = {
    "pretrained": "pretrained",
    "scratch": "random weights",
    "bag_of_words": "bag of words",
    "majority": "majority",
}
"""By their keys in `results.json`; what a run doesn't have is left out."""


def run_quickstart(config: Path, seed: int, work: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Run the quickstart, showing what it says; what `facts_of` finds in its results.

    Raises:
        SystemExit: the run failed; it has said why.
    """
    name = f"seed-{seed}"
    keys = [f"run.seed={seed}", f"run.name={name}", f"run.output_dir={work}", *overrides]
    done = subprocess.run([sys.executable, "-m", "mlm_pretrain", "run", str(config), *keys], check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    return facts_of(RunDirectory(work / name).read_results())


def facts_of(results: dict[str, Any]) -> dict[str, Any]:
    """What the README prints of a run's `results.json`."""
    pretraining = results["pretraining"]
    return {
        "commit": results.get("versions", {}).get("mlm-pretrain commit"),
        "seconds": sum(results["seconds"].values()),
        "stage_seconds": results["seconds"],
        **{key: pretraining[key] for key in ("steps", "tokens", "tokens_per_second") if key in pretraining},
        "heldout_loss": results.get("heldout", {}).get("loss"),
        "fill_mask": {
            each["text"]: [found["token"] for found in each["predictions"]] for each in results.get("fill_mask", [])
        },
        "tasks": {
            name: {
                "metric": task["metric"],
                **{key: task[key] for origin in ORIGINS for key in (origin, f"{origin}_std") if key in task},
            }
            for name, task in results["tasks"].items()
        },
    }


def over_seeds(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """For each task: means, and standard deviations where there is more than one run, of every origin; `lead`."""
    summary: dict[str, dict[str, float]] = {}
    for name in runs[0]["tasks"]:
        tasks = [run["tasks"][name] for run in runs]
        row: dict[str, float] = {}
        for origin in ORIGINS:
            scores = [task[origin] for task in tasks if origin in task]
            if scores:
                row[origin] = statistics.fmean(scores)
            if len(scores) > 1:
                row[f"{origin}_std"] = statistics.stdev(scores)
        others = [[task[origin] for origin in ORIGINS if origin != "pretrained" and origin in task] for task in tasks]
        row["lead"] = min(task["pretrained"] - max(other) for task, other in zip(tasks, others, strict=True))
        summary[name] = row
    return summary


def table(summary: dict[str, dict[str, float]]) -> str:
    def cell(row: dict[str, float], origin: str) -> str:
        spread = f" ± {row[f'{origin}_std']:.3f}" if f"{origin}_std" in row else ""
        return f"{row[origin]:.3f}{spread}" if origin in row else "-"

    rows = [
        (name, *(cell(row, origin) for origin in ORIGINS), f"{100 * row['lead']:+.1f} points")
        for name, row in summary.items()
    ]
    return telemetry.table(rows, ("task", *ORIGINS.values(), "lead"))


def measure(seeds: Sequence[int], config: Path, work: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Run the seeds that are not finished, print the table, and return everything for the JSON file."""
    runs = {str(seed): run_quickstart(config, seed, work, overrides) for seed in seeds}
    summary = over_seeds(list(runs.values()))
    print(f"\n{table(summary)}\n")
    for seed, run in runs.items():
        print(f"seed {seed}: held-out loss {run['heldout_loss']:.3f}, {run['seconds']:.0f} s, {run['fill_mask']}")
    when = datetime.now(UTC).isoformat(timespec="seconds")
    return {"tasks": summary, "runs": runs, "overrides": list(overrides), "time": when, "machine": machine()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="dotted config keys, for every run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the runs (default 0 1 2)")
    parser.add_argument("--config", type=Path, default=CONFIG, help="another config (default configs/quickstart.yaml)")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="where the runs remain (default: nowhere)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything, the commit and the machine here")
    arguments = parser.parse_intermixed_args()
    telemetry.quiet_libraries()
    with tempfile.TemporaryDirectory() as folder:
        work = (arguments.work or Path(folder)).absolute()
        found = measure(arguments.seeds, arguments.config, work, arguments.overrides)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
