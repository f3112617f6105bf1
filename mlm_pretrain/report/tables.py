"""A report's tables on pretraining: what came, what was planned, what differs between runs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlm_pretrain import plan as plans
from mlm_pretrain.cards.tables import number, percent
from mlm_pretrain.config.public import public_config, without_places
from mlm_pretrain.errors import UserError
from mlm_pretrain.io.whole import read_json
from mlm_pretrain.report.runs import RunRecords
from mlm_pretrain.report.tasks import Table

ABSENT = "–"
_NOTHING: Any = object()


@dataclass(frozen=True)
class Planned:
    """What was planned beside what came; where that can't be told, why."""

    table: Table | None = None
    machine: str = ""
    utilisation: str = ""
    problem: str = ""


def headline(run: RunRecords) -> list[tuple[str, str]]:
    """What a reader looks for first."""
    results = run.results
    done, held_out = results.get("pretraining") or {}, results.get("heldout") or {}
    shown = [
        ("held-out loss", number(held_out.get("loss"))),
        ("perplexity", number(held_out.get("perplexity"), 1)),
        ("masked-token accuracy", percent(held_out.get("accuracy"))),
        ("parameters", _short_count(done.get("parameters"))),
        ("tokens seen", _short_count(done.get("tokens"))),
        ("steps", number(done.get("steps"))),
        ("minutes", number(done["seconds"] / 60, 1) if done.get("seconds") is not None else "not recorded"),
        ("tokens per second", _short_count(done.get("tokens_per_second"))),
    ]
    return shown if done or held_out else []


def overview(runs: Sequence[RunRecords]) -> Table:
    """A line a figure, a column a run."""
    columns = [dict(headline(run)) for run in runs]
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [(name, *(column.get(name, "not recorded") for column in columns)) for name in names]
    rows.append(("device", *(_device(run) for run in runs)))
    return Table(("", *(run.name for run in runs)), rows)


def differences(runs: Sequence[RunRecords]) -> Table:
    """The keys of the configs that differ, tasks by their names."""
    configs = []
    for run in runs:
        data, _ = public_config(run.config.model_dump(mode="json"))
        data["tasks"] = {task["name"]: task for task in data["tasks"]}
        data["run"] = {key: value for key, value in data["run"].items() if key not in ("name", "output_dir")}
        configs.append(data)
    return Table(("key", *(run.name for run in runs)), _differing(configs, ""))


def _differing(values: Sequence[Any], key: str) -> list[tuple[str, ...]]:
    """The rows of what differs in plain data, which is `_NOTHING` where a run doesn't have it."""
    if all(value == values[0] for value in values):
        return []
    if all(isinstance(value, dict) for value in values):
        names = dict.fromkeys(name for value in values for name in value)
        parts = [[value.get(name, _NOTHING) for value in values] for name in names]
        return [row for name, part in zip(names, parts, strict=True) for row in _differing(part, f"{key}.{name}")]
    if all(isinstance(value, list) and any(isinstance(item, dict) for item in value) for value in values):
        return _differing([dict(enumerate(value)) for value in values], key)
    return [(key.removeprefix("."), *map(_compact, values))]


def _compact(value: Any) -> str:
    """Plain data in a cell: what is set of a section."""
    if value is _NOTHING:
        return ABSENT
    if isinstance(value, dict):
        inner = (f"{key}: {_compact(item)}" for key, item in value.items() if item not in (None, {}, []))
        return f"{{{', '.join(inner)}}}" if "task" not in value else str(value["task"])
    return f"[{', '.join(map(_compact, value))}]" if isinstance(value, list) else _value(value)


def planned(run: RunRecords) -> Planned:
    """As `mlm-pretrain plan RUN` compares; the machine is the one that makes the report."""
    results = run.run.read_results()
    if not results.get("pretraining"):
        return Planned(problem="What pretraining came to is not recorded.")
    try:
        plan = plans.plan(run.config, own_utilisation=False)
    except UserError as error:
        return Planned(problem=f"The plan can't be made here: {without_places(str(error))}")
    rows = [
        (what.replace("_", " "), *(f"{value:,.{0 if value >= 100 else 3}f}" for value in pair))
        for what, *pair in plans.compare(plan, results)
    ]
    machine = f"{plan.machine.count} × {plan.machine.name}, {plans.DTYPE_NAMES[plan.machine.precision]}"
    return Planned(Table(("", "planned", "happened"), rows), machine, f"{plans.ASSUMED_UTILISATION:.0%}")


def text_tables(run: RunRecords) -> list[Table]:
    """What was read before training and in it, and what was dropped, by source."""
    tables = []
    if scanned := run.results.get("text"):
        rows = [
            (
                name,
                number(source.get("documents")),
                number(source.get("held_out")),
                _megabytes(source.get("bytes")),
                _drops(source),
                "yes" if source.get("complete") else "no",
            )
            for name, source in scanned.items()
        ]
        header = ("source", "documents", "held out", "MB", "dropped", "read to its end")
        tables.append(Table(header, rows, "Read for the tokenizer and the held-out set"))
    if used := (run.results.get("pretraining") or {}).get("sources"):
        rows = [
            (
                name,
                number(source.get("documents")),
                number(source.get("tokens")),
                _megabytes(source.get("bytes")),
                number(source.get("epochs", source.get("epoch")), 3),
                _drops(source),
            )
            for name, source in used.items()
        ]
        header = ("source", "documents", "tokens", "MB", "epochs", "dropped")
        tables.append(Table(header, rows, "Read in pretraining"))
    return tables


def tokenizer_table(run: RunRecords) -> Table | None:
    report = run.tokenizer
    if not report:
        return None
    counts = {
        "vocab_size": "vocabulary",
        "documents": "held-out documents",
        "bytes": "held-out bytes",
        "tokens": "held-out tokens",
        "unused": "tokens of the vocabulary not used here",
        "sample_bytes": "bytes that it was trained on",
    }
    figures = {"bytes_per_token": "bytes per token", "tokens_per_word": "tokens per word"}
    shares = {
        "unknown_rate": "unknown tokens",
        "round_trip_exact": "documents that decode exactly",
        "round_trip_exact_raw": "… to the raw text",
    }
    rows = [(words, number(report.get(key))) for key, words in counts.items()]
    rows += [(words, number(report.get(key), 2)) for key, words in figures.items()]
    rows += [(words, percent(report.get(key))) for key, words in shares.items()]
    return Table(("tokenizer", ""), rows)


def ending(run: RunRecords) -> str:
    """How the last stage ended, in a sentence."""
    if not run.end:
        return "How the run ended is not recorded."
    stage, reason, time = (run.end.get(key, "not recorded") for key in ("stage", "reason", "time"))
    said = {"finished": "finished", "running": "is running, or was killed"}.get(reason, f"ended: {reason}")
    return f"The last stage, {stage}, {said} ({_clock(time)})."


def stage_table(run: RunRecords) -> Table | None:
    """How long each stage took, and when it finished."""
    seconds = run.results.get("seconds") or {}
    finished = read_json(run.run.root / "stages.json")
    rows = [
        (name, number(took, 1), _clock(finished.get(name, {}).get("finished", "not recorded")))
        for name, took in seconds.items()
    ]
    return Table(("stage", "seconds", "finished"), rows) if rows else None


def environment(run: RunRecords) -> Table:
    """Versions and numeric choices, as far as they were recorded."""
    done = run.results.get("pretraining") or {}
    choices = {
        "device": "device",
        "processes": "processes",
        "threads": "threads",
        "precision": "precision",
        "attention": "attention",
        "packing": "documents share rows",
        "micro_batch": "rows per forward pass",
        "compiled": "compiled",
        "skipped_steps": "steps left out",
    }
    rows = [(words, _value(done[key])) for key, words in choices.items() if key in done]
    if tried := done.get("tuning"):
        before = ", measured in an earlier run" if tried.get("measured_before") else ""
        rows.append(("trying what is fastest", f"{number(tried.get('seconds'), 1)} s{before}"))
    energy = done.get("energy") or {}
    units = {"kwh": ("electricity", "kWh"), "emissions_kg": ("CO₂ equivalents", "kg")}
    rows += [
        (words, f"{energy[key]:.3g} {unit}") for key, (words, unit) in units.items() if energy.get(key) is not None
    ]
    rows += [(name, version) for name, version in (run.results.get("versions") or {}).items()]
    return Table(("", ""), rows)


def commands(run: RunRecords) -> list[str]:
    """What makes the run again: the packages with their versions, and the command."""
    versions = dict(run.results.get("versions") or {})
    python = versions.pop("python", None)
    lines = [f"# Python {python}"] if python else []
    if versions:
        lines.append(
            "pip install " + " ".join(f"{name}=={version.split('+')[0]}" for name, version in versions.items())
        )
    again = shlex.quote(f"run.name={run.config.run.name}-again")
    return [*lines, f"mlm-pretrain run {shlex.quote(f'{run.run.root.name}/{run.run.config.name}')} {again}"]


def _device(run: RunRecords) -> str:
    return str((run.results.get("pretraining") or {}).get("device", "not recorded"))


def _short_count(value: float | None) -> str:
    if value is None:
        return "not recorded"
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


def _clock(time: Any) -> str:
    """A recorded time as readers like it."""
    return str(time).replace("T", " ").replace("+00:00", " UTC")


def _megabytes(size: float | None) -> str:
    return number(size / 1e6, 1) if size is not None else "not recorded"


def _drops(source: dict[str, Any]) -> str:
    dropped = source.get("dropped")
    if dropped is None:
        return "not recorded"
    return ", ".join(f"{reason} {count:,}" for reason, count in dropped.items()) or "none"


def _value(value: Any) -> str:
    if value is None:
        return "none"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
