"""What a run has come to, for the end of a command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlm_pretrain.config import Config
from mlm_pretrain.console import telemetry
from mlm_pretrain.console.spent import OTHER
from mlm_pretrain.console.telemetry import figure
from mlm_pretrain.io.whole import read_json
from mlm_pretrain.records.tasks import behind
from mlm_pretrain.run import RunDirectory


def summary(run: RunDirectory) -> str:
    """What a run has come to, in a table, and where everything lies; every figure is read from `results.json`."""
    results = read_json(run.results)
    parts = [line] if (line := pretraining(results)) else []
    if heldout := results.get("heldout"):
        parts.append(
            f"held-out masked language modelling: loss {figure(heldout['loss'])}, perplexity "
            f"{figure(heldout['perplexity'], '.1f')}, accuracy {figure(heldout['accuracy'])} on "
            f"{heldout['masked_tokens']:,} tokens"
        )
    if tasks := results.get("tasks"):
        header = ("task", "metric", "pretrained", "from random weights", "bag of words", "majority")
        rows = [
            (
                name,
                str(task["metric"]),
                _spread(task, "pretrained"),
                _spread(task, "scratch"),
                _spread(task, "bag_of_words"),
                _spread(task, "majority"),
            )
            for name, task in tasks.items()
        ]
        parts.append("\n".join([telemetry.table(rows, header), *behind(tasks)]))
        parts.extend(_curve(name, task) for name, task in tasks.items() if "learning_curve" in task)
    for guess in results.get("fill_mask", []):
        words = ", ".join(f"{each['token']} ({figure(each['score'], '.2f')})" for each in guess["predictions"])
        parts.append(f"{guess['text']}  →  {words}")
    if results.get("seconds"):
        parts.append(where_time_went(results))
    lines = [f"encoder: {run.model}"] if run.model.exists() else []
    for name in results.get("tasks", {}):
        lines.append(f"task:    {run.task(name)}")
        if run.task_errors(name).exists():
            lines.append(f"         {run.task_errors(name)} (its mistakes)")
    if run.report.exists():
        lines.append(f"report:  {run.report}")
    parts.append("\n".join([*lines, f"card:    {run.card}", f"figures: {run.results}"]))
    return "\n\n".join(parts)


def pretraining(results: dict[str, Any]) -> str:
    """What the pretraining has come to, in a line; empty if there was none."""
    done = results.get("pretraining")
    if not done:
        return ""
    mfu = f", {done['mfu']:.0%} of the device's arithmetic" if "mfu" in done else ""
    energy = done.get("energy") or {}
    spent = f", {energy['kwh']:.3g} kWh" if energy.get("kwh") is not None else ""
    left_out = f", {done['skipped_steps']:,} of them left out" if done.get("skipped_steps") else ""
    return (
        f"pretraining: {done['steps']:,} steps{left_out}, {done['tokens']:,} tokens in {done['seconds']:,.0f} s "
        f"({done['tokens_per_second']:,.0f} tokens/s{mfu}{spent}), {done['parameters'] / 1e6:,.1f} M parameters"
    )


def where_time_went(results: dict[str, Any]) -> str:
    """The seconds of each stage and of what it did, as a table; what takes under a hundredth of all is in "other"."""
    seconds, activities = results["seconds"], results.get("activities", {})
    total = max(sum(seconds.values()), 1e-9)
    rows = []
    for stage, of_stage in seconds.items():
        rows.append((stage, f"{of_stage:,.1f}", f"{of_stage / total:.0%}"))
        named = {what: each for what, each in (activities.get(stage) or {}).items() if what != OTHER}
        shown = {what: each for what, each in named.items() if each >= total / 100}
        if shown and (rest := of_stage - sum(shown.values())) >= total / 100:
            shown[OTHER] = rest
        rows += [(f"  {what}", f"{each:,.1f}", f"{each / total:.0%}") for what, each in shown.items()]
    rows.append(("in all", f"{total:,.1f}", "100%"))
    return telemetry.table(rows, ("where the time went", "seconds", "share"))


def next_steps(place: str, config: Config) -> str:
    """What may be done with a finished run: commands to copy."""
    root = Path(config.run.output_dir) / config.run.name
    lines = [
        f"  {note:<14}mlm-pretrain {command}"
        for note, command in (
            *[("label texts:", f"predict {root / 'tasks' / task.name} texts.txt") for task in config.tasks[:1]],
            ("play:", f"demo {root}"),
            ("train longer:", f"run {place} run.name={config.run.name}-longer training.budget.minutes=30"),
            ("publish:", f"push {root} --repo-id you/{config.run.name} --dry-run"),
        )
    ]
    return "next:\n" + "\n".join(lines)


def _curve(name: str, task: dict[str, Any]) -> str:
    """The scores by the size of the training set."""
    rows = [
        (
            f"{point['fraction']:.0%}",
            f"{point['examples']:,}",
            *(_spread(point, origin) for origin in ("pretrained", "scratch", "bag_of_words")),
        )
        for point in task["learning_curve"]
    ]
    return telemetry.table(rows, (f"{name}: of train", "examples", "pretrained", "from random weights", "bag of words"))


def _spread(task: dict[str, Any], key: str) -> str:
    several = len(task.get(f"{key}_seeds") or []) > 1 and task.get(key) is not None
    return figure(task.get(key)) + (f" ± {figure(task.get(f'{key}_std'))}" if several else "")
