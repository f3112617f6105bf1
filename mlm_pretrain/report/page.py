"""A report on runs: one HTML file that needs nothing else, for telephones and wide windows, light and dark.

The words stand in `model_cards/report.html.jinja`; every number is one of the runs' records. The page holds no scripts
and fetches nothing, and what came from text or records is escaped.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import jinja2
from markupsafe import Markup

from mlm_pretrain.cards.tables import number, recipe_rows, score_rows
from mlm_pretrain.errors import UserError
from mlm_pretrain.escaping import terminal
from mlm_pretrain.io.paths import inside
from mlm_pretrain.io.whole import write_text
from mlm_pretrain.records.facts import CardFacts
from mlm_pretrain.records.tasks import behind
from mlm_pretrain.report import tables, task_plots
from mlm_pretrain.report.curves import Curves, draw_curves
from mlm_pretrain.report.plots import Gallery
from mlm_pretrain.report.runs import RunRecords, read_runs
from mlm_pretrain.report.tables import Planned
from mlm_pretrain.report.tasks import Table, TaskSection, task_comparison, task_sections

TEMPLATE = "report.html.jinja"


@dataclass(frozen=True)
class RunSection:
    """What a page tells of one run alone."""

    name: str
    facts: CardFacts
    headline: list[tuple[str, str]]
    ending: str
    planned: Planned
    recipe: Table
    held_out: Table
    text: list[Table]
    tokenizer: Table | None
    longest_tokens: list[str]
    tasks: list[TaskSection]
    stages: Table | None
    environment: Table
    commands: list[str]
    config: str


@dataclass(frozen=True)
class Page:
    title: str
    runs: list[RunSection]
    curves: Curves
    task_table: Table | None
    task_figure: Markup | None
    behind: list[str]
    """What is to be said of tasks in which an encoder is behind a bag of words."""
    overview: Table | None = None
    differences: Table | None = None
    pictures: str = ""
    """The folder with the PNG files."""


def write_report(runs: Sequence[str | Path], out: Path | None = None) -> Path:
    """Write a report on one run, or on several beside each other.

    The figures lie as PNG files too, in a folder beside the page that has its name without `.html`.

    Args:
        runs: their directories (or configs). A record that is missing is said not to be there.
        out: the page, by default `report.html` in the (first) run's directory.

    Returns:
        The page.

    Raises:
        UserError: a run isn't there, a record is damaged, a symlink leads out of a run, or the page
            can't be written: into a run that another process is at work in, say.
    """
    read = read_runs(runs)
    page = out or read[0].run.report
    if out is None:
        inside(read[0].run.root, page.with_suffix(""))
    if page.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"{page}: a report is a page; name a .html file")
    try:
        with contextlib.nullcontext() if out else read[0].run.locked("give --out a file elsewhere"):
            write_text(page, render(read, Gallery(page.with_suffix(""))))
    except OSError as error:
        raise UserError(f"{page}: the report can't be written ({error.strerror})") from None
    return page


def render(runs: Sequence[RunRecords], gallery: Gallery) -> str:
    """The page as HTML; the gallery's folder gets the PNG files."""
    several = len(runs) > 1
    results = {run.name: run.results.get("tasks", {}) for run in runs}
    page = Page(
        title=" · ".join(run.name for run in runs),
        curves=draw_curves(runs, gallery),
        task_table=task_comparison(runs),
        task_figure=task_plots.results(gallery, results),
        behind=[
            line if len(runs) == 1 else f"{run.name}: {line}"
            for run in runs
            for line in behind(run.results.get("tasks", {}))
        ],
        runs=[_section(run, gallery) for run in runs],
        overview=tables.overview(runs) if several else None,
        differences=tables.differences(runs) if several else None,
        pictures=gallery.folder.name,
    )
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda shown: shown if isinstance(shown, Markup) or not isinstance(shown, str) else terminal(shown),
    )
    environment.filters["number"] = number
    template = (resources.files("mlm_pretrain") / "model_cards" / TEMPLATE).read_text(encoding="utf-8")
    return environment.from_string(template).render(page=page).lstrip()


def _section(run: RunRecords, gallery: Gallery) -> RunSection:
    return RunSection(
        name=run.name,
        facts=run.facts,
        headline=tables.headline(run),
        ending=tables.ending(run),
        planned=tables.planned(run),
        recipe=Table(("setting", "value"), recipe_rows(run.facts)),
        held_out=Table(("text", "loss", "perplexity", "accuracy", "top-5 accuracy"), score_rows(run.facts)),
        text=tables.text_tables(run),
        tokenizer=tables.tokenizer_table(run),
        longest_tokens=[repr(token) for token in run.tokenizer.get("longest_tokens", [])][:12],
        tasks=task_sections(run, gallery),
        stages=tables.stage_table(run),
        environment=tables.environment(run),
        commands=tables.commands(run),
        config=run.facts.config.to_yaml(),
    )
