"""Try settings at equal wall-clock time, and see which give the lowest held-out loss.

    python scripts/sweep.py --minutes 3 --out sweep.jsonl training.optim=adamw training.learning_rate=1e-3,2e-3,4e-3
    python scripts/sweep.py --minutes 3 --out sweep.jsonl training.optim=muon training.learning_rate=4e-3 --seeds 0 1 2
    python scripts/sweep.py --out sweep.jsonl                # only the table of what is there

Keys are those of the config; values separated by commas are tried in every combination, each in a process of its own,
on the reference setting of `scripts/bench.py` (6 layers × 384, rows of 128). The clock counts everything from building
the model to the last step. Each run's loss on the same held-out documents, under the same masks, is a line of `--out`;
runs that stand there already are not made again, so that a sweep can be stopped and taken up. Nothing else should run
on the machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import yaml
from figures.budget import Budget
from figures.reference import reference
from figures.session import fresh
from figures.setting import Bench, open_work
from figures.time_to_loss import our_loss

from mlm_pretrain.config import Config
from mlm_pretrain.console import telemetry
from mlm_pretrain.io.cache import cache_folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE[,VALUE]", help="dotted config keys")
    parser.add_argument("--minutes", type=float, default=3.0, help="of each run (default 3)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--data", type=Path, metavar="PATH", help="your own text files")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="one JSON line a run")
    arguments = parser.parse_intermixed_args()
    telemetry.quiet_libraries()
    if arguments.settings:
        sweep(arguments.settings, arguments.minutes, arguments.seeds, arguments.data, arguments.out)
    print(table(read(arguments.out)))


def combinations(settings: list[str]) -> list[dict[str, Any]]:
    """Every combination of the values given, by dotted key."""
    # A comma within braces or brackets separates nothing: `training.lr_scheduler_kwargs={decay_fraction: 0.4}`.
    keys = [setting.partition("=")[0] for setting in settings]
    values = [yaml.safe_load(f"[{_numbers(setting.partition('=')[2])}]") for setting in settings]
    return [dict(zip(keys, chosen, strict=True)) for chosen in itertools.product(*values)]


def _numbers(text: str) -> str:
    """YAML takes 1e-3 for a word, and 1.0e-3 for a number."""
    parts = [part.strip() for part in text.split(",")]
    return ", ".join(part.replace("e", ".0e", 1) if _is_short(part) else part for part in parts)


def _is_short(part: str) -> bool:
    mantissa, _, exponent = part.partition("e")
    return mantissa.isdigit() and exponent.lstrip("+-").isdigit()


def sweep(settings: list[str], minutes: float, seeds: list[int], data: Path | None, out: Path) -> None:
    """Make the runs that are not in `out` yet."""
    done = {json.dumps(run["settings"], sort_keys=True) + str(run["seed"]) + str(run["minutes"]) for run in read(out)}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Budget(0), Path(folder), open_work(cache_folder() / "bench"))
        common, _ = reference(bench, data)
        for seed, chosen in itertools.product(seeds, combinations(settings)):
            if json.dumps(chosen, sort_keys=True) + str(seed) + str(minutes) in done:
                continue
            config = with_settings(common, {**chosen, "run.seed": seed})
            with tempfile.TemporaryDirectory() as run:
                result = fresh(our_loss, config, 60 * minutes, Path(run))
            line = {"settings": chosen, "seed": seed, "minutes": minutes, **result}
            with out.open("a", encoding="utf-8") as handle:
                handle.write(json.dumps(line) + "\n")
            telemetry.say(f"{chosen}, seed {seed}: {result['loss']:.4f}")


def with_settings(config: Config, settings: dict[str, Any]) -> Config:
    plain = config.model_dump()
    for key, value in settings.items():
        *sections, name = key.split(".")
        section = plain
        for each in sections:
            section = section[each]
        section[name] = value
    return Config.model_validate(plain)


def read(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()] if out.exists() else []


def table(runs: list[dict[str, Any]]) -> str:
    """Settings by their mean loss, the best first."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        words = " ".join(f"{key.rpartition('.')[2]}={value}" for key, value in run["settings"].items())
        groups.setdefault(f"{run['minutes']:g} min  {words}", []).append(run)
    rows = []
    for name, group in sorted(groups.items(), key=lambda item: statistics.mean(run["loss"] for run in item[1])):
        losses = [run["loss"] for run in group]
        spread = f" ± {statistics.stdev(losses):.3f}" if len(losses) > 1 else ""
        tokens = statistics.mean(run["tokens"] for run in group)
        rows.append((name, f"{statistics.mean(losses):.3f}{spread}  ({tokens / 1e6:.2f} M tokens)"))
    return telemetry.table(rows, ("settings", "held-out loss"))


if __name__ == "__main__":
    main()
