"""What a run's records say, typed: the only thing that cards are made of.

Every field may be missing, since a run can be described at any stage; a number that was not recorded (or is not
finite) is `None`, never a guess. Absolute paths are cut to their last component as the records are read, so that
neither a card nor a published file tells where on whose machine a model was made.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from mlm_pretrain.config import Config, PublishConfig, TaskConfig
from mlm_pretrain.config_file import load_config, make_config
from mlm_pretrain.errors import UserError
from mlm_pretrain.run import RunDirectory, read_json

_ABSOLUTE = re.compile(
    r"(?P<label>file:/{0,2}|[\w.:-]{2,}:)?(?P<path>(?:/(?!/)|~[\w.-]*[/\\]|[A-Za-z]:[\\/]).+)", re.DOTALL
)
_EMBEDDED = re.compile(r"(?<![\w.~*:/\])}-])(?:~[\w.-]*|[A-Za-z]:)?(?:[/\\][^\s/\\'\",;|]+){2,}[/\\]?")
_CREDENTIALS = re.compile(r"(?<=://)[^\s/@]+@")
_SECRET_KEY = re.compile(
    r"(?:(?:hf|access|api|auth|use_auth|session)_)?token|(?:.*_)?(?:secret|password|credentials?|api_?key|access_key)",
    re.IGNORECASE,
)

T = TypeVar("T", bound=BaseModel)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_finite)]


class Facts(BaseModel):
    """Records hold more than cards tell: keys that are not named here are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


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
    epochs: Number = None
    dropped: dict[str, int] = {}


class Pretraining(Facts):
    steps: int | None = None
    tokens: int | None = None
    tokens_per_second: Number = None
    parameters: int | None = None
    sources: dict[str, SourceUse] = {}
    precision: str | None = None
    device: str | None = None
    seconds: Number = None


class TokenizerFacts(Facts):
    """The tokenizer's report on held-out text; rates are shares, `round_trip_exact` too where it is no boolean."""

    vocab_size: int | None = None
    bytes_per_token: Number = None
    tokens_per_word: Number = None
    unknown_rate: Number = None
    round_trip_exact: bool | Number = None


class TaskResult(Facts):
    """One task's test metric: mean and standard deviation over the seeds, as shares.

    `test_is_validation`: there was no test set, and the figures are those of the validation set.
    """

    metric: str | None = None
    pretrained: Number = None
    pretrained_std: Number = None
    scratch: Number = None
    scratch_std: Number = None
    majority: Number = None
    seeds: list[int] = []
    train_examples: int | None = None
    test_examples: int | None = None
    test_is_validation: bool = False
    learning_rate: Number = None
    scratch_learning_rate: Number = None


class Prediction(Facts):
    token: str
    score: Number = None


class FillMask(Facts):
    text: str
    predictions: list[Prediction] = []


class ModelFacts(Facts):
    """What a model's transformers `config.json` says."""

    architectures: list[str] | None = None
    model_type: str | None = None
    vocab_size: int | None = None
    hidden_size: int | None = None
    num_hidden_layers: int | None = None
    num_attention_heads: int | None = None
    max_position_embeddings: int | None = None
    id2label: dict[str, str] = {}

    @property
    def architecture(self) -> str:
        return self.architectures[0] if self.architectures else "unknown"


class TaskFacts(Facts):
    name: str
    model: ModelFacts
    config: TaskConfig | None = None
    result: TaskResult | None = None


class CardFacts(Facts):
    """Everything that the cards of one run tell."""

    config: Config
    publish: PublishConfig
    model: ModelFacts | None = None
    tokenizer: TokenizerFacts | None = None
    pretraining: Pretraining | None = None
    heldout: Heldout | None = None
    measured: dict[str, TaskResult] = {}
    """Results by task, whether or not the task's model still stands."""
    tasks: list[TaskFacts] = []
    """The fine-tuned models that stand in the run."""
    fill_mask: list[FillMask] = []
    versions: dict[str, str] = {}

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
        UserError: `config.yaml` is missing, or a record is damaged or holds a value of the wrong kind.
    """
    config = load_config(run.config)
    public_config = make_config(public_records(config.model_dump(mode="json")), place=str(run.config))
    results = public_records(run.read_results())
    report = public_records(read_json(run.tokenizer_report))
    measured = _parsed(_Measured, results, run.results).tasks
    tasks = [
        TaskFacts(
            name=folder.name,
            model=_parsed(ModelFacts, read_json(folder / "config.json"), folder / "config.json"),
            config=next((task for task in public_config.tasks if task.name == folder.name), None),
            result=measured.get(folder.name),
        )
        for folder in task_folders(run)
    ]
    architecture = run.model / "config.json"
    stage_records = ("pretraining", "heldout", "fill_mask", "versions")
    facts = {
        **{key: results[key] for key in stage_records if results.get(key) is not None},
        "config": public_config,
        "publish": publish or config.publish,
        "model": _parsed(ModelFacts, read_json(architecture), architecture) if architecture.exists() else None,
        "tokenizer": _parsed(TokenizerFacts, report, run.tokenizer_report) if report else None,
        "measured": measured,
        "tasks": tasks,
    }
    return _parsed(CardFacts, facts, run.results)


class _Measured(Facts):
    tasks: dict[str, TaskResult] = {}


def task_folders(run: RunDirectory) -> list[Path]:
    """The folders of the fine-tuned models that stand in a run, by name."""
    return sorted(folder for folder in run.tasks.glob("*") if (folder / "config.json").is_file())


def _parsed(kind: type[T], data: dict[str, Any], place: Path) -> T:
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"{place}: {key}: {first['msg']} (found: {first.get('input')!r}); rerun the stage that writes it"
        ) from None


def public_records(data: Any) -> Any:
    """Plain data as it may be shown to others.

    An absolute path, in a key or a value, is cut to its last component (`/home/me/corpus.txt` → `corpus.txt`);
    credentials in URLs and values under keys such as `password` or `api_key` are removed. The text of fill-mask
    examples is left as it is: a slash in it is no path.
    """
    if isinstance(data, dict):
        public: dict[Any, Any] = {}
        for key, value in data.items():
            name = _public_text(key) if isinstance(key, str) else key
            while name in public:  # two paths that end alike stay two entries
                name = f"{name}'"
            if isinstance(key, str) and isinstance(value, str) and _SECRET_KEY.fullmatch(key):
                public[name] = "removed"
            else:
                public[name] = value if key == "fill_mask" else public_records(value)
        return public
    if isinstance(data, list):
        return [public_records(item) for item in data]
    return _public_text(data) if isinstance(data, str) else data


def _public_text(text: str) -> str:
    whole = _ABSOLUTE.fullmatch(text)
    if whole and (last := _last_component(whole["path"])):
        label = whole["label"] or ""
        return last if label.startswith("file:") else label + last
    text = _CREDENTIALS.sub("", text)
    return _EMBEDDED.sub(lambda match: _last_component(match[0]), text)


def _last_component(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]
