"""Scoring a finished task model on any labelled file: figures, mistakes, and what they look like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pydantic

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.console.bars import progress
from mlm_pretrain.console.telemetry import figure, say, table, warn
from mlm_pretrain.errors import UserError, nearest
from mlm_pretrain.io.digests import file_digest
from mlm_pretrain.io.files.reading import Reading
from mlm_pretrain.io.plain_json import dumps
from mlm_pretrain.io.whole import write_json, write_text
from mlm_pretrain.models.loading import typed
from mlm_pretrain.tasks.adapter import Example, Prediction, TaskAdapter
from mlm_pretrain.tasks.data.examples import Examples
from mlm_pretrain.tasks.data.readers import read_rows
from mlm_pretrain.tasks.inference.logits import cut_texts
from mlm_pretrain.tasks.labels.names import label_columns, warn_of_unseen
from mlm_pretrain.tasks.scores import many_classes
from mlm_pretrain.tasks.scores.calibration import calibration_error, reliability
from mlm_pretrain.tasks.serve.finished import FinishedModel

CHUNK = 1024
"""Examples whose logits are in memory together."""
PLOTS = ("confusion.png", "reliability.png")
CLASSES = "classes.json"
READING = (*(field.name for field in fields(Reading)), "on_bad_examples", "label_names")
KEYS = sorted(name for name in TaskConfig.model_fields if name.endswith(("_column", "_columns")) or name in READING)
"""Those of a task's config that say how a file is read."""

Figures = dict[str, Any]


def evaluate(
    model_dir: str | Path,
    data: Path,
    out: Path | None = None,
    *,
    columns: Mapping[str, Any] | None = None,
    batch_size: int = 32,
    max_length: int | None = None,
    stride: int | None = None,
    bf16: bool = False,
    trust_remote_code: bool = False,
) -> Figures:
    """Score a fine-tuned model on a labelled file.

    Args:
        model_dir: a folder or a Hub repository; its architecture tells the task.
        data: as a config's `test`: jsonl, csv, tsv, Parquet, for tasks that label words CoNLL too.
        out: the folder for `results.json` (what is returned), `errors.jsonl` (the mistakes, as the task lists them)
            and, for classes, `confusion.png` and `reliability.png`; of more than a hundred classes `classes.json`, the
            scores of each as arrays, in place of a matrix. Files of these names are replaced. By default
            `<model_dir>.evaluation/<data>`.
        columns: the names of the columns where they aren't the usual ones, by a config's keys: `label_column` and so
            on, `conll_columns`; and how the file is read: `encoding`, `quoting`, `delimiter`, `on_bad_examples`.
        batch_size, max_length, stride, bf16, trust_remote_code: as for `predict`.

    Returns:
        `model`, `task`, `metric` (the name of the headline figure), `metrics`, `examples`, `dropped_examples` (counts
        by reason), `truncated`, `data` (`path`, `size`, `sha256`); for classes `confusion`, as `many_classes.confusion`
        has it, and `reliability`, the predictions by their confidence. Of many classes `metrics` has the best and the
        worst.

    Raises:
        UserError: no such model, or data that can't be read or used.
    """
    model = FinishedModel(typed(model_dir, trust_remote_code), max_length, stride, bf16)
    adapter = model.adapter
    task = _task_config(model, columns or {})
    read = Examples(type(adapter), task)
    read.read("data", read_rows(data, task, adapter.reads_conll, label_columns(task, adapter.label_key)), str(data))
    read.settle(adapter.labels)
    examples = read.splits["data"]
    labels = Counter(label for example in examples for label in adapter.labels_in(example))
    warn_of_unseen(str(data), adapter.learnt(), labels)
    predictions: list[Prediction] = []
    with progress(len(examples), "evaluate", unit="text") as bar:
        for start in range(0, len(examples), CHUNK):
            chunk = examples[start : start + CHUNK]
            predictions += model.predictions(chunk, batch_size)
            bar.update(len(chunk))
    metrics, whole = many_classes.cut(adapter.metrics(examples, predictions))
    figures: Figures = {
        "model": str(model_dir),
        "task": model.task,
        "metric": adapter.metric,
        "metrics": metrics,
        "examples": len(examples),
        "dropped_examples": read.unusable.dropped().get("data", {}),
        "truncated": model.truncated,
        "data": {"path": str(data), **file_digest(data)},
    }
    if model.truncated:
        warn(cut_texts(model.truncated, adapter.max_length))
    if _has_classes(adapter):
        figures |= _by_confidence_and_class(adapter, examples, predictions)
    _write(out or default_folder(model_dir, data), figures, adapter.errors(examples, predictions), whole)
    return figures


def default_folder(model_dir: str | Path, data: Path) -> Path:
    """Where an evaluation goes: beside a model's folder; for a Hub repository, here."""
    place = Path(model_dir) if Path(model_dir).is_dir() else Path(Path(model_dir).name)
    return place.with_name(f"{place.absolute().name}.evaluation") / data.name.split(".")[0]


def describe(figures: Figures) -> str:
    """The figures of an evaluation as tables: over all, and by class or type where a task has them."""
    metrics = figures["metrics"]
    overall = [(name, _figure(value)) for name, value in metrics.items() if not isinstance(value, dict)]
    lines = [table([*overall, ("examples", f"{figures['examples']:,}")], header=(figures["task"], ""))]
    for name, values in metrics.items():
        rows = {key: row for key, row in values.items() if isinstance(row, dict)} if isinstance(values, dict) else {}
        if rows:
            header = list(dict.fromkeys(column for row in rows.values() for column in row))
            body = [(str(key), *(_figure(row.get(column, "")) for column in header)) for key, row in rows.items()]
            lines.append(table(body, header=(name.removeprefix("by_"), *header)))
            if told := many_classes.note(metrics, name, CLASSES):
                lines.append(told)
    return "\n\n".join(lines)


def _figure(value: Any) -> str:
    return figure(value, ".4f") if value is None or isinstance(value, float) else str(value)


def _task_config(model: FinishedModel, columns: Mapping[str, Any]) -> TaskConfig:
    for name in columns:
        if name not in KEYS:
            raise UserError(f"evaluate: no column is called '{name}'{nearest(name, KEYS)}")
    try:
        return TaskConfig(task=model.task, name="evaluate", **columns)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"evaluate: {first['loc'][0]}: {first['msg']}") from None


def _has_classes(adapter: TaskAdapter) -> bool:
    return adapter.problem_type == "single_label_classification"


def _by_confidence_and_class(
    adapter: TaskAdapter, examples: Sequence[Example], predictions: Sequence[Prediction]
) -> Figures:
    pairs = [(e["label"], p["label"]) for e, p in zip(examples, predictions, strict=True)]
    right = [true == predicted for true, predicted in pairs]
    scores = [prediction["score"] for prediction in predictions]
    return {
        "confusion": many_classes.confusion(adapter.labels, pairs),
        "reliability": {"ece": calibration_error(scores, right), "bins": reliability(scores, right)},
    }


def _write(out: Path, figures: Figures, errors: Sequence[dict[str, Any]], whole: Figures) -> None:
    # Drawing is nothing that prediction needs.
    from mlm_pretrain import plots

    try:
        for name in PLOTS:
            (out / name).unlink(missing_ok=True)  # of another task's model, maybe
        write_json(out / "results.json", figures)
        write_text(out / "errors.jsonl", "".join(dumps(error) + "\n" for error in errors))
        many_classes.write_whole(out / CLASSES, whole)
        if "matrix" in figures.get("confusion", {}):
            plots.confusion_matrix(**figures["confusion"], path=out / PLOTS[0])
        if "reliability" in figures:
            plots.reliability_diagram(**figures["reliability"], path=out / PLOTS[1])
    except OSError as error:
        raise UserError(f"{out}: can't write: {error.strerror or error}") from None
    say(f"evaluation: {out}")
