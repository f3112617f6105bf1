"""One schema for all stages.

A config is a YAML file with a section a stage; keys carry the names that `transformers.TrainingArguments`,
`datasets.load_dataset` and the transformers configs already use. Any key can be overridden on the command line by
its dotted name (`training.learning_rate=5e-4`). Sections are frozen, and an unknown key is an error with the
nearest known name (`config_file.py` reads files and words the errors). This module imports no torch, so that a
misspelt key is told at once.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from mlm_pretrain.errors import UserError, nearest

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def parse_size(value: Any) -> int:
    """Read a number of bytes: `1048576`, `"64MB"` (10⁶ bytes each), `"1GiB"` (2³⁰ bytes)."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(value))
    if isinstance(value, bool) or not match or match[2].upper() not in _UNITS:
        raise ValueError(f"{value!r} is not a size; write for example 64MB or 1GB")
    return int(float(match[1]) * _UNITS[match[2].upper()])


Bytes = Annotated[int, BeforeValidator(parse_size), Field(gt=0)]
Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


def _check_pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return value


Pattern = Annotated[str, AfterValidator(_check_pattern)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, protected_namespaces=())


class RunConfig(Section):
    name: Name = "run"
    seed: int = Field(0, ge=0, lt=2**32)
    output_dir: str = "runs"


class FilterConfig(Section):
    """Which documents of a source are dropped; every drop is counted by its reason."""

    min_length: Positive | None = None
    """Shortest document, in characters."""
    max_length: Positive | None = None
    """Longest document, in characters."""
    include: Pattern | None = None
    """A regular expression that a document has to match somewhere (`re.search`)."""
    exclude: Pattern | None = None
    """A regular expression that it may match nowhere."""


class SourceConfig(Section):
    """One text source. Which keys count depends on `source`; see `mlm_pretrain.text.sources`."""

    source: str
    path: str | list[str] | None = None
    """hub: the dataset repository. files: a file, a directory, a glob pattern, or a list of them."""
    name: str | None = None
    split: str = "train"
    revision: str | None = None
    data_dir: str | None = None
    data_files: str | list[str] | dict[str, Any] | None = None
    text_column: str = "text"
    weight: float = Field(1.0, gt=0)
    """This source's share of the tokens relative to the other sources' weights."""
    max_epochs: Positive | None = None
    """A source repeats as often as its weight asks for; with this, so often at most, and the others go on without."""
    filters: FilterConfig = FilterConfig()
    label: str | None = None
    """What the records call this source; by default it is made from `source`, `path` and `name`."""
    document: Literal["line", "paragraph", "file"] = "paragraph"
    """files: what one document is in a .txt file."""
    encoding: str = "utf-8"
    packages: list[str] | None = None
    """installed_docs: only these packages."""
    options: dict[str, Any] = {}
    """hub: further arguments of `load_dataset`. A source of your own: whatever it takes."""


class TextConfig(Section):
    sources: list[SourceConfig] = Field([SourceConfig(source="installed_docs")], min_length=1)
    stopping_strategy: Literal["first_exhausted", "all_exhausted"] | None = None
    """By default sources repeat until the training budget is spent. Otherwise the run ends sooner, when the first or
    the last of them has been through (once, or `max_epochs` times), as in `datasets.interleave_datasets`."""
    validation_fraction: float = Field(0.005, ge=0.0, lt=0.5)
    """Share of the documents that is held out, chosen by a hash of the text."""
    validation_max_bytes: Bytes = 2_000_000
    """At most this much held-out text is scored (those with the smallest hashes); all of it stays out of training."""


class TokenizerConfig(Section):
    path: str | None = None
    """An existing tokenizer: a folder, a run's `tokenizer/` or a Hub repository."""
    revision: str | None = None
    add_tokens: list[str] = []
    """Words to add to an existing tokenizer (`path`)."""
    algorithm: Literal["bpe", "wordpiece", "unigram"] = "bpe"
    vocab_size: int = Field(16384, ge=300)
    min_frequency: Positive = 2
    max_bytes: Bytes = 1_000_000_000
    """Train on at most this much text, spread evenly over the sources."""
    lowercase: bool = False
    strip_accents: bool = False
    normalization: Literal["nfc", "nfkc"] | None = "nfc"

    @model_validator(mode="after")
    def _added_tokens_need_a_tokenizer(self) -> TokenizerConfig:
        if self.add_tokens and self.path is None:
            raise ValueError("add_tokens extends an existing tokenizer: give tokenizer.path too")
        return self


class StreamConfig(Section):
    sequence_length: int = Field(512, ge=8)
    lanes: Positive = 8
    """Parts in which the text is read side by side, whatever the number of processes; at least as many as there are
    processes × loader workers, best a multiple of the processes."""
    shuffle_window: Bytes = 64_000_000
    """Bytes of text that are shuffled together, over all lanes and sources."""
    packing_buffer: Bytes | None = None
    """Bytes of text that are tokenised and packed into rows at a time, over all lanes and sources; by default 4 MB,
    or more where rows are long."""
    prepared: bool | str = False
    """Train on shards that `mlm-pretrain prepare` has written: true for those of this run, or their folder."""
    dataloader_num_workers: int | None = Field(None, ge=0)
    """Processes beside each training process that tokenise and mask; 0: the training process does. By default 0 on a
    CPU, and beside a GPU as many as there are cores and lanes for."""


class PrepareConfig(Section):
    """`mlm-pretrain prepare`: the packed rows of one epoch, written once."""

    deduplicate: bool = False
    """Drop exact copies of documents, over all sources; the first one stays."""
    num_proc: Positive | None = None
    """Processes; by default one a core."""


class Ramp(Section):
    """A value that moves linearly from `start` to `end` over the first `steps` optimizer steps, then stays."""

    start: Fraction
    end: Fraction
    steps: Positive


def _begins_at_zero(stages: dict[int, int]) -> dict[int, int]:
    if not stages or min(stages) != 0:
        raise ValueError("stages begin with that of step 0, as in {0: 8, 500: 32}")
    return dict(sorted(stages.items()))


Stages = Annotated[dict[Annotated[int, Field(ge=0)], Positive], AfterValidator(_begins_at_zero)]
"""A whole number that changes at certain optimizer steps: {step from which it holds: value}."""


class ObjectiveConfig(Section):
    name: str = "mlm"
    mlm_probability: Annotated[float, Field(gt=0.0, le=1.0)] | Ramp = 0.15
    mask_replace_prob: Fraction = 0.8
    random_replace_prob: Fraction = 0.1
    masking: Literal["token", "whole_word", "span"] = "token"
    mask_count: Literal["bernoulli", "exact"] = "bernoulli"
    """exact: ⌊mlm_probability × sequence_length⌋ label slots a row, so that shapes are static."""
    span_geometric_p: float = Field(0.2, gt=0.0, lt=1.0)
    span_max_length: Positive = 10

    @model_validator(mode="after")
    def _consistent(self) -> ObjectiveConfig:
        if self.mask_replace_prob + self.random_replace_prob > 1.0:
            raise ValueError("mask_replace_prob + random_replace_prob must not exceed 1")
        if self.mask_count == "exact" and self.masking != "token":
            raise ValueError("mask_count: exact goes with masking: token only (words and spans vary in length)")
        return self


class ModelConfig(Section):
    """Exactly one of `preset`, `model_type`, `path`; the default is the preset `mini`."""

    preset: str | None = None
    model_type: str | None = None
    """A transformers architecture that has a masked-LM class: bert, roberta, deberta-v2, modernbert, …"""
    path: str | None = None
    """Continue this checkpoint: a folder, a run's `model/` or a Hub repository."""
    init_from: str | None = None
    """Fill the new model (`preset`, `model_type`) with the weights of this smaller one of its architecture, tiled."""
    revision: str | None = None
    """Of the Hub repository in `path` or `init_from`."""
    config: dict[str, Any] = {}
    """Keys of the transformers config, over the preset's or the architecture's defaults."""
    attn_implementation: str | None = None
    trust_remote_code: bool = False

    @model_validator(mode="before")
    @classmethod
    def _one_origin(cls, data: Any) -> Any:
        if isinstance(data, dict):
            given = [key for key in ("preset", "model_type", "path") if data.get(key) is not None]
            if len(given) > 1:
                raise ValueError(f"give one of preset, model_type, path; {' and '.join(given)} are given")
            if "path" in given and data.get("init_from") is not None:
                raise ValueError("init_from fills a new model: give preset or model_type with it, not path")
            if not given:
                data = {**data, "preset": "mini"}
        return data


class Budget(Section):
    """What the pretraining may spend: exactly one of the three."""

    steps: Positive | None = None
    tokens: Annotated[int, BeforeValidator(lambda value: int(float(value))), Field(gt=0)] | None = None
    minutes: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _one_measure(self) -> Budget:
        given = [key for key in ("steps", "tokens", "minutes") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of steps, tokens, minutes; {' and '.join(given) or 'none'} given")
        return self


class OptimizerSection(Section):
    """What pretraining and fine-tuning both set about their optimizer; names as in `TrainingArguments`."""

    optim: str = "adamw"
    optim_args: dict[str, Any] = {}
    """Further arguments of the optimizer, as `{ns_steps: 3}` for muon; for muon they go to its matrices' part."""
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.98, ge=0, lt=1)
    adam_epsilon: float = Field(1e-6, gt=0)
    max_grad_norm: float = Field(1.0, ge=0)
    """0 turns clipping off."""
    lr_scheduler_type: str = "linear"
    lr_scheduler_kwargs: dict[str, float] = {}
    warmup_steps: float = Field(0.05, ge=0)
    """Steps of warmup; below 1, the share of the budget."""
    bf16: bool | Literal["auto"] = "auto"
    """auto: where a bf16 matrix product is measured to be faster than an fp32 one on this device."""
    fp16: bool = False
    gradient_checkpointing: bool = False

    @model_validator(mode="after")
    def _one_precision(self) -> OptimizerSection:
        if self.fp16 and self.bf16 is True:
            raise ValueError("bf16 and fp16 are both set; choose one")
        return self


class TrainingConfig(OptimizerSection):
    budget: Budget = Budget(steps=1000)
    global_batch_size: Positive | Stages = 256
    """Rows per optimizer step, over all processes and accumulation; `{0: 8, 500: 32}`: 32 from step 500 on."""
    per_device_train_batch_size: Positive | None = None
    """Rows per forward pass; by default so many as are fastest, tried before the first step."""
    torch_compile: bool | Literal["auto"] = "auto"
    """auto: where a compiled step is measured to be faster, and the run is long enough to gain by it."""
    per_device_eval_batch_size: Positive = 32
    lr_scheduler_type: str = "warmup_stable_decay"
    logging_steps: Positive = 10
    eval_steps: Positive | None = None
    """Steps between held-out passes; none by default, the evaluation stage scores the final model."""
    save_steps: Positive | None = 500
    save_total_limit: Positive | None = 2
    on_bad_loss: Literal["stop", "skip"] = "stop"
    """Where a loss is not finite or above `max_loss`: stop the run, or leave the step out and count it."""
    max_loss: float | None = Field(None, gt=0)
    """Nats per label; by default three times the loss of guessing uniformly, 3 ln(vocabulary)."""
    report_to: list[str] = []


class TaskConfig(OptimizerSection):
    task: str
    name: Name
    source: Literal["files", "hub", "installed_docs"] | None = None
    """By default `files` where `train` names a file, `hub` where `path` is given."""
    path: str | None = None
    config_name: str | None = None
    revision: str | None = None
    train: str | None = None
    """A file (jsonl, csv, CoNLL), or a split of the Hub dataset (default: train)."""
    validation: str | None = None
    test: str | None = None
    text_column: str = "text"
    label_column: str = "label"
    tokens_column: str = "tokens"
    tags_column: str = "ner_tags"
    validation_fraction: float = Field(0.1, gt=0.0, lt=1.0)
    """Taken from train (by a hash of the text) where no validation set is given."""
    max_train_samples: Positive | None = None
    max_eval_samples: Positive | None = None
    model: str | None = None
    """The encoder: a folder or a Hub repository; by default the run's own `model/`."""
    learning_rate: float = Field(3e-4, gt=0)
    num_train_epochs: float = Field(3.0, gt=0)
    max_steps: Positive | None = None
    """Overrides num_train_epochs."""
    per_device_train_batch_size: Positive = 16
    per_device_eval_batch_size: Positive = 64
    warmup_steps: float = Field(0.1, ge=0)
    max_length: Positive | None = None
    """Tokens per window; by default what the encoder can take, 512 at most."""
    stride: Annotated[int, Field(ge=0)] = 0
    """Tokens shared by neighbouring windows of a long text."""
    seeds: list[int] = Field([0, 1, 2], min_length=1)
    scratch_learning_rates: list[float] = []
    """Where given, the same encoder from random weights is trained too, at the best of these on validation."""


class EvaluationConfig(Section):
    fill_mask: list[str] = []
    """Sentences with one [MASK] each, whatever the tokenizer calls it; the guesses go into the records."""


class PublishConfig(Section):
    hub_model_id: str | None = None
    hub_private_repo: bool = True
    license: str | None = None
    language: str | list[str] | None = None
    tags: list[str] = []
    description: str | None = None


class Config(Section):
    run: RunConfig = RunConfig()
    text: TextConfig = TextConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    stream: StreamConfig = StreamConfig()
    prepare: PrepareConfig = PrepareConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    tasks: list[TaskConfig] = []
    publish: PublishConfig = PublishConfig()

    @model_validator(mode="after")
    def _task_names_differ(self) -> Config:
        names = [task.name for task in self.tasks]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"two tasks are named '{sorted(twice)[0]}'; each task needs a name of its own")
        return self

    def to_yaml(self) -> str:
        """The resolved config, every default written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    def task(self, name: str) -> TaskConfig:
        for task in self.tasks:
            if task.name == name:
                return task
        raise UserError(f"no task is named '{name}'{nearest(name, [task.name for task in self.tasks])}")


def fingerprint(*parts: Any) -> str:
    """A short digest of plain data or config sections: equal inputs, equal digest."""
    plain = [part.model_dump(mode="json") if isinstance(part, BaseModel) else part for part in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def dotted(data: Any, prefix: str = "") -> dict[str, Any]:
    """Nested plain data as one mapping from dotted keys to values."""
    if isinstance(data, dict) and data:
        return {name: value for key in data for name, value in dotted(data[key], f"{prefix}{key}.").items()}
    if isinstance(data, list) and data:
        return dotted(dict(enumerate(data)), prefix)
    return {prefix.removesuffix("."): data}
