"""Model cards from a run's records, after the annotated model card of the Hub.

The sections and their order follow the Hub's annotated model card (after Mitchell et al. 2019, "Model Cards for
Model Reporting"). The words stand in `model_cards/*.jinja`; the numbers are those of the records.
"""

from __future__ import annotations

import functools
import re
import shlex
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from mlm_pretrain.cards import citation, pictures, tables, task_tables
from mlm_pretrain.config import FilterConfig, PublishConfig, SourceConfig, TaskConfig
from mlm_pretrain.console.telemetry import MetricsLog
from mlm_pretrain.errors import UserError
from mlm_pretrain.escaping import json_line, markdown, markdown_code, visible
from mlm_pretrain.io.whole import write_text
from mlm_pretrain.records.facts import CardFacts, read_facts
from mlm_pretrain.records.tasks import TaskFacts
from mlm_pretrain.run import RunDirectory

PIPELINE_TAGS = {
    "ForMaskedLM": "fill-mask",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
}
# `load_dataset` takes these names for readers of files, which are no datasets of the Hub.
_FILE_READERS = {"arrow", "csv", "json", "pandas", "parquet", "text", "webdataset", "xml"}


def write_cards(run: RunDirectory, publish: PublishConfig | None = None) -> list[Path]:
    """Write the cards of a run: its own, that of its model, and one for each fine-tuned task that stands.

    They are made anew from the records each time; words of your own belong into `publish.description`. The learning
    curves lie beside the cards that show them, as PNG files (`pictures.py`).

    Returns:
        The files written.

    Raises:
        UserError: `config.yaml` is missing, a record is damaged, the disk refuses, or another process is at work in
            the run.
    """
    with run.locked():
        return _write_cards(run, publish)


def _write_cards(run: RunDirectory, publish: PublishConfig | None) -> list[Path]:
    facts = read_facts(run, publish)
    records = MetricsLog(run.metrics).read()
    written = []
    place = run.card
    try:
        for place, model_id in ((run.card, f"./{run.model.name}"), (run.model / "README.md", None)):
            if place == run.card or run.model.is_dir():
                picture = pictures.loss_picture(records, place.with_name(pictures.LOSS))
                write_text(place, str(render_encoder_card(facts, model_id, pictures.LOSS if picture else None)))
                written.append(place)
        for task in facts.tasks:
            place = run.task(task.name) / "README.md"
            drawn = (
                pictures.training_picture(task.result, place.with_name(pictures.TRAINING)),
                pictures.learning_curve_picture(task.result, place.with_name(pictures.LEARNING_CURVE)),
            )
            write_text(place, str(render_task_card(facts, task.name, pictured=drawn)))
            written.append(place)
    except OSError as error:
        raise UserError(f"{place}: the card can't be written ({error.strerror})") from error
    return written


def render_encoder_card(facts: CardFacts, model_id: str | None = None, picture: str | None = None) -> ModelCard:
    """The card of the pretrained encoder.

    Args:
        facts: what the records say; sections without a record say so.
        model_id: what the code on the card loads, by default the Hub repository, or the card's own folder (`.`)
            where none is configured.
        picture: the file of the loss curve beside the card, if there is one.
    """
    publish = facts.publish
    config = facts.config
    title = _name(publish.hub_model_id, config.run.name)
    results = _heldout_results(facts)
    data = ModelCardData(
        language=publish.language,
        license=publish.license,
        library_name="transformers",
        pipeline_tag="fill-mask",
        tags=["mlm_pretrain", "masked-lm", *map(visible, publish.tags)],
        datasets=[source.path for source in config.text.sources if _is_hub_dataset(source)] or None,
        base_model=_hub_id(config.model.path),
        model_name=title if results else None,
        eval_results=results or None,
        metrics=["accuracy", "perplexity"] if facts.heldout else None,
    )
    example = facts.fill_mask[0].text if facts.fill_mask else None
    return _rendered(
        "encoder.md.jinja",
        data,
        facts=facts,
        model_id=model_id or publish.hub_model_id or ".",
        title=title,
        example=example,
        no_filters=FilterConfig(),
        picture=picture,
        sources=tables.source_rows(facts),
        drops=tables.drop_rows(facts),
        tokenizer=tables.tokenizer_rows(facts.tokenizer) if facts.tokenizer else [],
        recipe=tables.recipe_rows(facts),
        speed=tables.speed_rows(facts),
        heldout=tables.score_rows(facts),
        tasks=task_tables.task_rows(facts),
        behind=task_tables.behind_rows(facts),
        impact=tables.impact_rows(facts),
        architecture=tables.architecture_rows(facts),
        hardware=tables.hardware_rows(facts),
        bibtex=citation.bibtex(facts, title, publish.hub_model_id),
        method=citation.method(facts),
    )


def render_task_card(
    facts: CardFacts, task: str, model_id: str | None = None, pictured: tuple[bool, bool] = (False, False)
) -> ModelCard:
    """The card of one fine-tuned task model; arguments as for `render_encoder_card`.

    Args:
        pictured: whether the pictures of its training and of its learning curve lie beside the card.

    Raises:
        UserError: the run holds no fine-tuned model of this task.
    """
    publish = facts.publish
    model = facts.task(task)
    repository = f"{publish.hub_model_id}-{task}" if publish.hub_model_id else None
    title = _name(repository, f"{facts.config.run.name}-{task}")
    kind = pipeline_tag(model.model.architecture)
    results = _task_results(model, kind)
    origin = model.config.origin if model.config else None
    data = ModelCardData(
        language=publish.language,
        license=publish.license,
        library_name="transformers",
        pipeline_tag=kind,
        tags=["mlm_pretrain", *map(visible, publish.tags)],
        datasets=[model.config.path] if model.config and _is_hub_dataset(model.config) else None,
        base_model=_hub_id(origin.path) if origin else publish.hub_model_id,
        model_name=title if results else None,
        eval_results=results or None,
        metrics=[model.result.metric] if model.result and model.result.metric else None,
    )
    return _rendered(
        "task.md.jinja",
        data,
        facts=facts,
        model_id=model_id or repository or ".",
        title=title,
        task=model,
        kind=kind,
        encoder=(_hub_id(origin.path) or Path(origin.path).name) if origin else publish.hub_model_id,
        repository=repository,
        recipe=task_tables.task_recipe_rows(model),
        results=task_tables.task_rows(facts, only=task),
        behind=task_tables.behind_rows(facts, only=task),
        training_picture=pictures.TRAINING if pictured[0] else None,
        curve_picture=pictures.LEARNING_CURVE if pictured[1] else None,
        **task_tables.result_rows(model.result),
        class_note=task_tables.class_note(model.result, task),
        bibtex=citation.bibtex(facts, title, repository),
        method=citation.method_of_task(model),
    )


def _literal(text: str) -> str:
    """A string as Python source, in double quotes."""
    return json_line(text)


def _shell_word(text: str) -> str:
    """A word of a command, on one line."""
    return shlex.quote(visible(text))


def pipeline_tag(architecture: str) -> str | None:
    """The Hub's pipeline tag of a transformers class name, as far as one is known."""
    return next((tag for ending, tag in PIPELINE_TAGS.items() if architecture.endswith(ending)), None)


def _rendered(template: str, data: ModelCardData, **values: Any) -> ModelCard:
    body = _environment().get_template(template).render(**values)
    # Sections that are left out leave blank lines; blank lines inside code blocks are single already.
    body = re.sub(r"\n{3,}", "\n\n", body).strip("\n")
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}\n")


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"number": tables.number, "percent": tables.percent}
    environment.filters |= {"text": markdown, "code": markdown_code, "python": _literal, "shell": _shell_word}
    return environment


def _template(name: str) -> str:
    return (resources.files("mlm_pretrain") / "model_cards" / name).read_text(encoding="utf-8")


def _name(repository: str | None, otherwise: str) -> str:
    return repository.split("/")[-1] if repository else otherwise


def _hub_id(path: str | None) -> str | None:
    """A Hub repository's name, or nothing where the path is a folder."""
    looks_like_one = path is not None and re.fullmatch(r"[\w-][\w.-]*(?:/[\w-][\w.-]*)?", path)
    return path if looks_like_one and path is not None and not Path(path).exists() else None


def _is_hub_dataset(source: SourceConfig | TaskConfig) -> bool:
    named = source.path if isinstance(source.path, str) else None
    by_hub = source.source == "hub" or (isinstance(source, TaskConfig) and source.source is None)
    return by_hub and _hub_id(named) is not None and named not in _FILE_READERS


# -- the Hub's model index -------------------------------------------------------------------------------------


def _heldout_results(facts: CardFacts) -> list[EvalResult]:
    if facts.heldout is None:
        return []
    measured = {
        "loss": facts.heldout.loss,
        "perplexity": facts.heldout.perplexity,
        "accuracy": facts.heldout.accuracy,
    }
    hub = [source.path for source in facts.config.text.sources if _is_hub_dataset(source)]
    names = {source.source for source in facts.config.text.sources}
    return [
        EvalResult(
            task_type="fill-mask",
            dataset_type=str(hub[0]) if len(hub) == 1 == len(facts.config.text.sources) else "-".join(sorted(names)),
            dataset_name="held-out part of the pretraining text",
            metric_type=metric,
            metric_value=value,
            metric_name=f"masked-token {metric}",
        )
        for metric, value in measured.items()
        if value is not None
    ]


def _task_results(task: TaskFacts, kind: str | None) -> list[EvalResult]:
    result = task.result
    if result is None or result.metric is None or result.pretrained is None or kind is None:
        return []
    hub = task.config and _is_hub_dataset(task.config)
    return [
        EvalResult(
            task_type=kind,
            dataset_type=str(task.config.path) if hub and task.config else task.name,
            dataset_name=task.name,
            dataset_config=task.config.config_name if hub and task.config else None,
            metric_type=result.metric,
            metric_value=result.pretrained,
            metric_name=f"{'validation' if result.test_is_validation else 'test'} {result.metric}"
            + (f", mean of {len(result.seeds)} seeds" if len(result.seeds) > 1 else ""),
        )
    ]
