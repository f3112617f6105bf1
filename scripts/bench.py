"""Measurements of this package beside its peers, made in one call.

    python scripts/bench.py throughput
    python scripts/bench.py order loader --json measured.json
    python scripts/bench.py time_to_loss --minutes 40
    python scripts/bench.py packing --data books/
    python scripts/bench.py finetune --minutes 10 --data sets/

Each figure prints a table of what it measured, and one of what its time went into. A figure ends within three minutes
on two cores unless --minutes says otherwise: preparation first, then every system is measured once at least, then
again in turn for as long as there is time. More minutes mean more and longer rounds, longer pretraining, or more text:
`bench.py FIGURE --about` prints what a figure measures, and how. Where preparation and one round take longer than the
time, the call takes as long as they do. Nothing else should run on the machine.

The text is the documentation strings of the installed packages, or with --data text of your own: a file or folder, as
the `files` source reads it. For `finetune`, `predict`, `probe` and `downstream` it is a folder with a folder for each
labelled set: files that begin with train, dev or val, and test, as jsonl with `text` and `label` or as CoNLL; `text/`
beside them is what `downstream` pretrains on. A set takes a minute: two are measured, and more with --minutes.

Tokenizers, encoders and compiled graphs are kept in --work, so that the next call has more time for rounds; a change of
the package's code, of the text or of a library makes them anew, and what isn't used for two weeks is deleted.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from figures.budget import Budget
from figures.setting import Bench, machine, open_work

from mlm_pretrain.console import telemetry
from mlm_pretrain.errors import UserError
from mlm_pretrain.io.cache import cache_folder

Figure = Callable[[Bench], dict[str, float]]
MINUTES = 2.5
"""For each figure; half a minute less than is promised, because a round may take longer than the one before."""
FIGURES = (
    "throughput",
    "time_to_loss",
    "downstream",
    "short_documents",
    "mfu",
    "processes",
    "scaling",
    "order",
    "resume",
    "loader",
    "memory",
    "packing",
    "finetune",
    "predict",
    "probe",
)
"""Each is the function of its name in the module of its name in `figures/`."""


def load_figure(name: str) -> Figure:
    return getattr(importlib.import_module(f"figures.{name}"), name)


def about(name: str) -> str:
    """A figure's docstring, without the seconds that importing it takes."""
    source = (Path(__file__).parent / "figures" / f"{name}.py").read_text(encoding="utf-8")
    functions = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    return ast.get_docstring(functions[name]) or ""


def measure(name: str, minutes: float, work: Path, data: Path | None) -> dict[str, Any]:
    """Run a figure, print its tables, and return its numbers under flat keys.

    Raises:
        UserError: the data or the setting doesn't suit.
    """
    budget = Budget(60 * minutes)
    with tempfile.TemporaryDirectory() as folder:
        found = load_figure(name)(Bench(budget, Path(folder), work, data))
    found |= {"rounds": budget.rounds} if budget.rounds else {}
    rows = [(key, f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}") for key, value in found.items()]
    print(f"\n{telemetry.table(rows, (name, ''))}\n\n{budget.table()}", flush=True)
    return {f"{name}.{key}": value for key, value in {**found, "seconds": round(budget.elapsed(), 1)}.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="figures:\n" + "\n".join(f"  {name:<17}{about(name).splitlines()[0]}" for name in FIGURES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("figures", nargs="+", choices=FIGURES, metavar="FIGURE", help=", ".join(FIGURES))
    parser.add_argument(
        "--minutes", type=float, help=f"of the whole call, preparation included (default: {MINUTES} a figure)"
    )
    parser.add_argument("--data", type=Path, metavar="PATH", help="your own text, or labelled sets")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers, the commit and the machine here")
    default = cache_folder() / "bench"
    parser.add_argument(
        "--work", type=Path, metavar="FOLDER", default=default, help=f"what is kept between calls (default: {default})"
    )
    parser.add_argument("--about", action="store_true", help="print what the figures measure, and end")
    arguments = parser.parse_args()
    if arguments.about:
        print("\n\n".join(f"{name}: {about(name)}" for name in arguments.figures))
        return
    telemetry.quiet_libraries()
    work = open_work(arguments.work.absolute())
    whole = Budget(60 * (arguments.minutes or MINUTES * len(arguments.figures)))
    flat: dict[str, Any] = {}
    for number, name in enumerate(arguments.figures):
        # No more than its share, so that sizes are those of any other call.
        shares = len(arguments.figures), len(arguments.figures) - number
        minutes = min(whole.seconds / shares[0], whole.left() / shares[1]) / 60
        try:
            flat |= measure(name, minutes, work, arguments.data)
        except UserError as error:
            parser.exit(2, f"{name}: {error}\n")
    print("\n" + ", ".join(f"{key} {value}" for key, value in machine().items()))
    if arguments.json:
        when = datetime.now(UTC).isoformat(timespec="seconds")
        written = {**flat, "minutes": whole.seconds / 60, "time": when, "machine": machine()}
        arguments.json.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
