"""A report's sections on tasks: what fine-tuning came to, how it went, and where the model goes wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from mlm_pretrain import plots
from mlm_pretrain.cards.tables import number
from mlm_pretrain.config.public import public_record
from mlm_pretrain.io.paths import files_inside, inside
from mlm_pretrain.io.whole import read_json
from mlm_pretrain.report import task_plots as figures
from mlm_pretrain.report.confusion import Confusion, confusion_from_mistakes, recorded_confusion
from mlm_pretrain.report.mistakes import (
    ENTITY_KINDS,
    Mistakes,
    read_mistakes,
)
from mlm_pretrain.report.plots import Gallery
from mlm_pretrain.report.runs import RunRecords
from mlm_pretrain.tasks.scores import many_classes

Row = tuple[str, ...]


@dataclass
class Table:
    header: Row
    rows: Sequence[Row]
    title: str = ""


@dataclass
class TaskSection:
    name: str
    kind: str
    tables: list[Table] = field(default_factory=list)
    figures: list[Markup] = field(default_factory=list)
    confusions: list[Confusion] = field(default_factory=list)
    mistakes: Mistakes | None = None
    mistakes_file: str = ""
    notes: list[str] = field(default_factory=list)


def task_sections(run: RunRecords, gallery: Gallery) -> list[TaskSection]:
    return [
        _section(run, name, result, gallery)
        for name, result in run.results.get("tasks", {}).items()
        if isinstance(result, dict)
    ]


def _section(run: RunRecords, name: str, result: Mapping[str, Any], gallery: Gallery) -> TaskSection:
    title = f"{run.name}-{name}"
    made = TaskSection(name, str(result.get("task", "task")))
    made.mistakes = read_mistakes(inside(run.run.root, run.run.task_errors(name)))
    made.mistakes_file = f"tasks/{run.run.task_errors(name).name}"
    details = result.get("details") or {}
    classes = f"tasks/{run.run.task_classes(name).name}"
    made.tables = [*_summary(result, details), *_by_class(details, classes), *_entity_kinds(made.mistakes, details)]
    made.tables += [*_learning_curve(result), *_sweeps(result)]
    histories = [history for history in result.get("history", []) if history]
    if histories:
        made.figures += figures.histories(gallery, title, result, histories)
    else:
        made.notes.append("The course of its training is not recorded.")
    if any(point.get("pretrained") is not None for point in result.get("learning_curve", [])):
        made.figures.append(figures.learning_curve(gallery, title, result))
    _add_predictions(made, run, result, details, gallery, title)
    return made


# -- predictions by class and by confidence -----------------------------------------------------------------------


def _add_predictions(
    made: TaskSection,
    run: RunRecords,
    result: Mapping[str, Any],
    details: Mapping[str, Any],
    gallery: Gallery,
    title: str,
) -> None:
    """Confusion matrices and reliability diagrams: of the test set, and of files that the model was scored on."""
    test = "validation set" if result.get("test_is_validation") else "test set"
    scored: list[tuple[str, Mapping[str, Any]]] = [(f"the {test}", result)]
    folder = inside(run.run.root, run.run.tasks / f"{made.name}.evaluation")
    for file in files_inside(folder, "*/results.json", within=run.run.root):
        evaluated = public_record(read_json(file))
        scored.append(((evaluated.get("data") or {}).get("path", file.parent.name), evaluated))
    reliable = False
    for place, figured in scored:
        confusion = recorded_confusion(figured, place)
        if confusion is None and figured is result:
            confusion = confusion_from_mistakes(made.mistakes, details, place)
        if confusion:
            made.confusions.append(confusion)
        if bins := (figured.get("reliability") or {}).get("bins"):
            reliable = True
            made.figures.append(figures.reliability(gallery, title, place, bins, figured["reliability"].get("ece")))
    for confusion in made.confusions:
        if not confusion.matrix:
            continue
        path = gallery.folder / f"{gallery.unused(f'{title}-confusion')}.png"
        plots.confusion_matrix(confusion.labels, confusion.matrix, path)
    if "accuracy" in details and "by_class" in details and made.kind == "classification" and not reliable:
        made.notes.append(
            "Reliability (how often predictions of each confidence are right) is not recorded. What records it: "
            f"mlm-pretrain evaluate {run.run.root.name}/tasks/{made.name} --data FILE"
        )


# -- tables -------------------------------------------------------------------------------------------------------


def spread(figured: Mapping[str, Any], name: str) -> str:
    """A mean over seeds with its standard deviation, as far as there are several."""
    mean, deviation = figured.get(name), figured.get(f"{name}_std")
    if mean is None:
        return "not measured"
    several = len(figured.get(f"{name}_seeds") or []) > 1 and deviation is not None
    # No line may end within it.
    return f"{mean:.3f}" + (f"\u00a0±\u00a0{deviation:.3f}" if several else "")


def _summary(result: Mapping[str, Any], details: Mapping[str, Any]) -> list[Table]:
    """The figures of the test set, and the recipe."""
    scores = [(name, f"{value:.4f}") for name, value in details.items() if isinstance(value, int | float)]
    nested = {name: value for name, value in details.items() if isinstance(value, dict) and name != "classes"}
    scores += [
        (f"{name} {inner}", f"{value:.4f}")
        for name, values in nested.items()
        for inner, value in values.items()
        if isinstance(value, int | float)
    ]
    known = {
        "encoder": "encoder trained",
        "learning_rate": "learning rate",
        "num_train_epochs": "epochs",
        "scratch_learning_rate": "learning rate from random weights",
        "train_examples": "training examples",
        "validation_examples": "validation examples",
        "test_examples": "test examples",
        "examples_per_second": "examples per second in training",
        "seconds": "seconds in all",
    }
    recipe = [(words, _figure(result[key])) for key, words in known.items() if result.get(key) is not None]
    cut = {name: count for name, count in (result.get("truncated_examples") or {}).items() if count}
    if cut:
        recipe.append(("longer than a window, and cut", ", ".join(f"{name} {count:,}" for name, count in cut.items())))
    dropped = [
        f"{split} {count:,} ({reason})"
        for split, reasons in (result.get("dropped_examples") or {}).items()
        for reason, count in reasons.items()
    ]
    if dropped:
        recipe.append(("rows that can't be used, and dropped", ", ".join(dropped)))
    where = "validation" if result.get("test_is_validation") else "test"
    seeds = len(result.get("seeds") or [])
    return [
        Table(("metric", "value"), scores, f"On {where}, mean of {seeds} seeds" if seeds > 1 else f"On {where}"),
        Table(("setting", "value"), recipe, "Recipe and data"),
    ]


def _by_class(details: Mapping[str, Any], file: str) -> list[Table]:
    """
    Args:
        file: with the rows that the results lack, where there are very many.
    """
    tables = []
    for name, values in details.items():
        rows = {key: row for key, row in values.items() if isinstance(row, dict)} if isinstance(values, dict) else {}
        if rows:
            columns = list(dict.fromkeys(column for row in rows.values() for column in row))
            body = [
                (key, *(_count_or_score(column, row.get(column)) for column in columns)) for key, row in rows.items()
            ]
            title = name.replace("by_", "By ")
            told = many_classes.note(details, name, file)
            header = (title.removeprefix("By "), *columns)
            tables.append(Table(header, body, f"{title}, {told}" if told else title))
    return tables


def _entity_kinds(mistakes: Mistakes | None, details: Mapping[str, Any]) -> list[Table]:
    """How entities of each type were got wrong, by the exported model."""
    if mistakes is None or not mistakes.has_entities:
        return []
    support = {name: row.get("support") for name, row in (details.get("by_type") or {}).items()}
    types = sorted({*support, *(name for _, name in mistakes.kinds)})
    rows = [
        (
            name,
            _count_or_score("support", support.get(name)),
            *(f"{mistakes.kinds[kind, name]:,}" for kind in ENTITY_KINDS),
        )
        for name in types
    ]
    return [Table(("type", "entities", *ENTITY_KINDS.values()), rows, "Mistakes by type, the exported model")]


def _learning_curve(result: Mapping[str, Any]) -> list[Table]:
    points = result.get("learning_curve") or []
    rows = [
        (
            f"{point['fraction']:.3g}",
            f"{point['examples']:,}",
            *(spread(point, origin) for origin in ("pretrained", "scratch", "bag_of_words")),
        )
        for point in points
    ]
    header = ("share of train", "examples", "pretrained", "from random weights", "bag of words")
    return [Table(header, rows, f"{result.get('metric', 'score')} by the share of the training set")] if rows else []


def _sweeps(result: Mapping[str, Any]) -> list[Table]:
    tables = []
    metric = str(result.get("metric", "score"))
    if trials := (result.get("sweep") or {}).get("trials"):
        best = max(trials, key=lambda trial: _or_least(trial.get(metric)))
        rows = [
            (*(_figure(trial.get(key)) for key in ("learning_rate", "num_train_epochs", metric)), "★" * (trial is best))
            for trial in trials
        ]
        tables.append(Table(("learning rate", "epochs", f"{metric} on validation", "best"), rows, "Sweep"))
    if len(tried := result.get("scratch_sweep") or {}) > 1:
        top = max(map(_or_least, tried.values()))
        rows = [(rate, _figure(value), "★" * (value == top)) for rate, value in tried.items()]
        tables.append(Table(("learning rate", f"{metric} on validation", "best"), rows, "Sweep from random weights"))
    return tables


def _or_least(score: float | None) -> float:
    """A trial that diverged has no score, and is never the best."""
    return -math.inf if score is None else score


def task_comparison(runs: Sequence[RunRecords]) -> Table | None:
    """Every task's result in every run."""
    rows = []
    names = dict.fromkeys(name for run in runs for name in run.results.get("tasks", {}))
    for name in names:
        for run in runs:
            if result := run.results.get("tasks", {}).get(name):
                scores = (spread(result, origin) for origin in ("pretrained", "scratch", "bag_of_words", "majority"))
                rows.append(
                    (
                        name,
                        *([run.name] if len(runs) > 1 else []),
                        str(result.get("metric", "not recorded")),
                        *scores,
                        f"{len(result.get('seeds') or [])}",
                        number(result.get("train_examples")),
                        number(result.get("test_examples"))
                        + (" (validation)" if result.get("test_is_validation") else ""),
                    )
                )
    header = ("task", *(["run"] if len(runs) > 1 else []), "metric", "this encoder", "from random weights")
    return Table((*header, "bag of words", "majority", "seeds", "train", "test"), rows) if rows else None


def _figure(value: Any) -> str:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return str(value)
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 1000 else f"{value:.4g}"


def _count_or_score(column: str, value: Any) -> str:
    if not isinstance(value, int | float):
        return "–"
    return f"{value:,.0f}" if column == "support" else f"{value:.3f}"
