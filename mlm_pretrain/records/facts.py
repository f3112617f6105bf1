"""What a run's records say, typed: the only thing that cards are made of.

Every field may be missing, since a run can be described at any stage; a number that was not recorded (or is not
finite) is `None`, never a guess. Absolute paths are cut to their last component as the records are read, so that
neither a card nor a published file tells where on whose machine a model was made.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from mlm_pretrain.config import Config, PublishConfig
from mlm_pretrain.config.public import public_config, public_record, public_results
from mlm_pretrain.config_file import load_config, make_config
from mlm_pretrain.console.telemetry import MetricsLog
from mlm_pretrain.errors import UserError
from mlm_pretrain.escaping import given
from mlm_pretrain.io.paths import inside
from mlm_pretrain.io.whole import read_json
from mlm_pretrain.records.tasks import Facts, ModelFacts, Number, TaskFacts, TaskResult
from mlm_pretrain.run import RunDirectory

T = TypeVar("T", bound=BaseModel)


class Scores(Facts):
    """Cross-entropy in nats a masked token, and the shares of masked tokens that are guessed right."""

    loss: Number = None
    perplexity: Number = None
    accuracy: Number = None
    top5_accuracy: Number = None
    masked_tokens: int | None = None
    documents: int | None = None


class Heldout(Scores):
    by_source: dict[str, Scores] = {}


class SourceUse(Facts):
    """What pretraining read of one source; `dropped` counts documents by reason."""

    documents: int | None = None
    bytes: int | None = None
    tokens: int | None = None
    epochs: Number = None
    dropped: dict[str, int] = {}


class SourceText(Facts):
    """What a source holds, as the tokenizer stage has counted it; `complete`: it was read to its end."""

    documents: int | None = None
    held_out: int | None = None
    complete: bool = False
    dropped: dict[str, int] = {}


class EnergyFacts(Facts):
    """Electricity and CO₂ equivalents of the pretraining; `country_iso_code` None stands for the world's average."""

    kwh: Number = None
    emissions_kg: Number = None
    country_iso_code: str | None = None
    since_step: int = 0
    method: str | None = None


class InitialisationFacts(Facts):
    """How the weights began, where a sample of the text decided it."""

    method: str | None = None
    sample_tokens: int | None = None
    tokens_with_vectors: int | None = None


class Pretraining(Facts):
    steps: int | None = None
    tokens: int | None = None
    tokens_per_second: Number = None
    parameters: int | None = None
    initialisation: InitialisationFacts | None = None
    sources: dict[str, SourceUse] = {}
    precision: str | None = None
    device: str | None = None
    processes: int | None = None
    attention: str | None = None
    compiled: bool | None = None
    skipped_steps: int | None = None
    mfu: Number = None
    seconds: Number = None
    energy: EnergyFacts | None = None


class TokenizerFacts(Facts):
    """The tokenizer's report on held-out text; rates are shares, `round_trip_exact` too where it is no boolean."""

    vocab_size: int | None = None
    documents: int | None = None
    bytes: int | None = None
    tokens: int | None = None
    bytes_per_token: Number = None
    tokens_per_word: Number = None
    unknown_rate: Number = None
    round_trip_exact: bool | Number = None
    round_trip_exact_raw: Number = None
    unused: int | None = None
    sample_bytes: int | None = None
    """UTF-8 bytes of text that it was trained on; 0 if it was taken from elsewhere."""


class Prediction(Facts):
    token: str
    score: Number = None


class FillMask(Facts):
    text: str
    predictions: list[Prediction] = []


class RecipeFacts(Facts):
    """What was chosen for what the config left open, by dotted key, and for what."""

    tokens: Number = None
    parameters: Number = None
    values: dict[str, Any] = {}


class StageFacts(Facts):
    """What the stages have recorded, beside the tasks."""

    text: dict[str, SourceText] = {}
    """By source."""
    recipe: RecipeFacts | None = None
    pretraining: Pretraining | None = None
    heldout: Heldout | None = None
    fill_mask: list[FillMask] = []
    versions: dict[str, str] = {}


class CardFacts(StageFacts):
    """Everything that the cards of one run tell."""

    config: Config
    publish: PublishConfig
    model: ModelFacts | None = None
    tokenizer: TokenizerFacts | None = None
    measured: dict[str, TaskResult] = {}
    """Results by task, whether or not the task's model is still there."""
    tasks: list[TaskFacts] = []
    """The fine-tuned models of the run."""
    year: int | None = None
    """Of the last record of the pretraining."""

    def task(self, name: str) -> TaskFacts:
        """
        Raises:
            UserError: the run holds no fine-tuned model of this name.
        """
        for task in self.tasks:
            if task.name == name:
                return task
        known = ", ".join(task.name for task in self.tasks) or "none"
        raise UserError(f"task '{name}': this run has no model of it (there: {known}); run the finetune stage first")


def read_facts(run: RunDirectory, publish: PublishConfig | None = None) -> CardFacts:
    """Read the records of a run.

    Args:
        run: the run directory; everything in it but `config.yaml` may still be missing.
        publish: licence, language, repository and description of the card, by default those of the run's config.

    Raises:
        UserError: `config.yaml` is missing, a record is damaged or holds a value of the wrong kind, or a symlink leads
            out of the run.
    """
    refuse_links_out(run)
    config = load_config(run.config)
    shown = make_config(public_config(config.model_dump(mode="json"))[0], place=str(run.config))
    recorded = run.read_results()
    _parsed(_Results, recorded, run.results)  # what is damaged is said to be so, and not left out
    results = public_results(recorded)
    report = public_record(read_json(run.tokenizer_report))
    measured = _parsed(_Results, results, run.results).tasks
    tasks = [
        TaskFacts(
            name=folder.name,
            model=_parsed(ModelFacts, read_json(folder / "config.json"), folder / "config.json"),
            config=next((task for task in shown.tasks if task.name == folder.name), None),
            result=measured.get(folder.name),
        )
        for folder in task_folders(run)
    ]
    architecture = run.model / "config.json"
    facts = {
        **{key: results[key] for key in StageFacts.model_fields if results.get(key) is not None},
        "config": shown,
        "publish": publish or config.publish,
        "model": _parsed(ModelFacts, read_json(architecture), architecture) if architecture.exists() else None,
        "tokenizer": _parsed(TokenizerFacts, report, run.tokenizer_report) if report else None,
        "measured": measured,
        "tasks": tasks,
        "year": _year(run),
    }
    return _parsed(CardFacts, facts, run.results)


def _year(run: RunDirectory) -> int | None:
    clocks = [record["time"] for record in MetricsLog(run.metrics).read() if "time" in record]
    return time.gmtime(max(clocks)).tm_year if clocks else None


class _Results(StageFacts):
    tasks: dict[str, TaskResult] = {}


def refuse_links_out(run: RunDirectory) -> None:
    """Refuse a run whose records, models or outbox are outside of it: a run may come from somebody else.

    Its checkpoints may be elsewhere, on a larger disk say, as long as none is sent.

    Raises:
        UserError: a symlink leads out of the run.
    """
    records = (run.config, run.results, run.metrics, run.end, run.tokenizer_report)
    for path in (*records, run.model, run.tokenizer, run.tasks, run.outbox):
        inside(run.root, path)


def task_folders(run: RunDirectory) -> list[Path]:
    """The folders of the fine-tuned models of a run, by name.

    Raises:
        UserError: a symlink leads out of the run.
    """
    return [inside(run.root, folder) for folder in run.task_folders()]


def _parsed(kind: type[T], data: dict[str, Any], place: Path) -> T:
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"{place}: {key}: {first['msg']} (found: {given(first.get('input'))}); rerun the stage that writes it"
        ) from None
