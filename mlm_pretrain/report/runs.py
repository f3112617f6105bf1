"""What a report is made of: the records of a run, read as they are, and curves of a size that a page can hold."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlm_pretrain.config import Config
from mlm_pretrain.config.batch_size import BatchSize
from mlm_pretrain.config.public import public_record, public_results
from mlm_pretrain.config_file import load_config
from mlm_pretrain.errors import UserError
from mlm_pretrain.io.whole import read_json
from mlm_pretrain.records.facts import CardFacts, read_facts
from mlm_pretrain.run import RunDirectory

Record = dict[str, Any]


@dataclass(frozen=True)
class RunRecords:
    """One run. `results`, `end` and `facts` may be shown to others: absolute paths and credentials are cut.

    Numbers in `results` that were not finite are None, as in `facts`.
    """

    name: str
    """Unlike that of any other run of the report."""
    run: RunDirectory
    config: Config
    facts: CardFacts
    results: dict[str, Any]
    end: dict[str, Any]
    """Why the last stage ended; empty if that wasn't recorded."""
    tokenizer: dict[str, Any]
    training: list[Record]
    """By step, each with `minutes` and `fill` where they are known."""
    held_out: list[Record]
    """As `training`; the figures are called `heldout_…`."""


@dataclass(frozen=True)
class Curve:
    """Points in order; where there were too many, means of neighbours with the lowest and the highest of each."""

    x: list[float]
    y: list[float]
    low: list[float]
    high: list[float]
    records: int
    """How many they were before."""

    @property
    def is_thinned(self) -> bool:
        return self.records > len(self.x)


def read_runs(places: Sequence[str | Path]) -> list[RunRecords]:
    """Read the runs of a report.

    Args:
        places: run directories, or configs that say where the runs are.

    Raises:
        UserError: none is named, one is not there, or a record is damaged.
    """
    if not places:
        raise UserError("report: name a run's directory")
    read: list[RunRecords] = []
    for place in places:
        config = load_config(place)
        run = RunDirectory.of(config)
        if any(run.root.resolve() == other.run.root.resolve() for other in read):
            continue
        names = [other.name for other in read]
        name = config.run.name
        same = sum(other.config.run.name == name for other in read)
        while name in names:
            same += 1
            name = f"{config.run.name} ({same})"
        read.append(_read_run(name, config, run))
    return read


def _read_run(name: str, config: Config, run: RunDirectory) -> RunRecords:
    if not run.config.exists():
        raise UserError(f"{run.root}: no run there; `mlm-pretrain run` makes one")
    records = [record for record in json_lines(run.metrics) if _is_number(record.get("step"))]
    training = [record for record in records if not any(key.startswith("heldout_") for key in record)]
    held_out = [record for record in records if any(key.startswith("heldout_") for key in record)]
    training.sort(key=lambda record: record["step"])
    held_out.sort(key=lambda record: record["step"])
    return RunRecords(
        name=name,
        run=run,
        config=config,
        facts=read_facts(run),
        results=_finite(public_results(run.read_results())),
        end=public_record(read_json(run.end)),
        tokenizer=_finite(read_json(run.tokenizer_report)),
        training=_with_fill(config, _with_minutes(training)),
        held_out=_with_minutes(_with_seconds(held_out, training)),
    )


def _with_minutes(records: Sequence[Record]) -> list[Record]:
    return [{**r, "minutes": r["seconds"] / 60} if _is_number(r.get("seconds")) else r for r in records]


def _with_seconds(held_out: Sequence[Record], training: Sequence[Record]) -> list[Record]:
    """A held-out pass has the clock of the record before it, which is of the same step."""
    by_step = {record["step"]: record["seconds"] for record in training if _is_number(record.get("seconds"))}
    return [{"seconds": by_step[r["step"]], **r} if r["step"] in by_step else r for r in held_out]


def _with_fill(config: Config, records: Sequence[Record]) -> list[Record]:
    """Add `fill`, the share of the places in rows that real tokens took since the record before.

    It follows from the recorded tokens and steps, and the rows and length of the config.
    """
    rows, length = BatchSize(config.training.global_batch_size), config.stream.sequence_length
    step, tokens, filled = 0, 0, []
    for record in records:
        if not _is_number(record.get("tokens")) or record["step"] <= step:
            filled.append(record)
            continue
        places = (rows.rows_before(record["step"]) - rows.rows_before(step)) * length
        filled.append({"fill": (record["tokens"] - tokens) / places, **record})
        step, tokens = record["step"], record["tokens"]
    return filled


def curve(records: Sequence[Record], x: str, y: str, most: int) -> Curve | None:
    """One figure against another, where both were recorded and are finite; None if they never were.

    Args:
        most: points; more are gathered into as many groups of neighbours, whose means are taken.
    """
    points = [(float(r[x]), float(r[y])) for r in records if _is_number(r.get(x)) and _is_number(r.get(y))]
    if not points:
        return None
    size = math.ceil(len(points) / most)
    groups = [points[begin : begin + size] for begin in range(0, len(points), size)]
    columns = [list(zip(*group, strict=True)) for group in groups]
    return Curve(
        x=[math.fsum(xs) / len(xs) for xs, _ in columns],
        y=[math.fsum(ys) / len(ys) for _, ys in columns],
        low=[min(ys) for _, ys in columns],
        high=[max(ys) for _, ys in columns],
        records=len(points),
    )


def json_lines(path: Path) -> Iterator[Record]:
    """The whole JSON objects of a file, a line each; none where there is no file."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as handle:
        for line in handle:
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(record, dict):
                yield record


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
