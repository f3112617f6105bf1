"""Figures about this package, measured beside its peers in one run.

    python scripts/bench.py throughput
    python scripts/bench.py order loader --minutes 5 --json figures.json
    python scripts/bench.py time_to_loss --minutes 10
    python scripts/bench.py packing --data books/

Each figure prints a table; `--json` writes flat keys `<figure>.<name>` beside the machine's description. A figure
takes about a minute by default (some need longer to say anything, see below). The text is the documentation strings
of the installed packages, or with `--data` text of your own: a file or folder, as the `files` source reads it. For
`finetune`, `predict`, `probe` and `downstream` it is a folder with a folder for each labelled set: files that begin
with train, dev or val, and test, as jsonl with `text` and `label` or as CoNLL; `text/` beside them is what `downstream`
pretrains on.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from mlm_pretrain import telemetry
from mlm_pretrain.errors import UserError
from mlm_pretrain.training.device import describe_device

Figure = Callable[[float, Path, Path | None], dict[str, float]]
"""(minutes, an empty folder, the user's text) → numbers."""

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


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    names = ("torch", "transformers", "datasets", "tokenizers")
    return {
        "processor": model,
        "device": describe_device(device),
        "python": platform.python_version(),
        **{name: version(name) for name in names},
    }


def main() -> None:
    summaries = "\n".join(f"  {name:<17}{(load_figure(name).__doc__ or '').splitlines()[0]}" for name in FIGURES)
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=f"figures:\n{summaries}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("figures", nargs="+", choices=FIGURES, metavar="FIGURE", help=", ".join(FIGURES))
    parser.add_argument("--minutes", type=float, default=1.0, help="about how long a figure may take (default 1)")
    parser.add_argument("--data", type=Path, metavar="PATH", help="your own text, or labelled sets")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write flat keys here")
    arguments = parser.parse_args()
    telemetry.quiet_libraries()
    flat: dict[str, Any] = {}
    for name in arguments.figures:
        with tempfile.TemporaryDirectory() as folder:
            try:
                figures = load_figure(name)(arguments.minutes, Path(folder), arguments.data)
            except UserError as error:
                parser.exit(2, f"{name}: {error}\n")
        flat |= {f"{name}.{key}": value for key, value in figures.items()}
        rows = [(key, f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}") for key, value in figures.items()]
        print("\n" + telemetry.table(rows, (name, "")))
    print("\n" + ", ".join(f"{key} {value}" for key, value in machine().items()))
    if arguments.json:
        arguments.json.write_text(json.dumps({**flat, "machine": machine()}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
