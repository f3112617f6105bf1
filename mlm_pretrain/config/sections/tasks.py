"""A task to fine-tune on: its data, how the encoder is used, and the recipe."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from mlm_pretrain.config.base import Delimiter, Distinct, Encoding, Name, Positive, QuotingKey, Section, Seed
from mlm_pretrain.config.sections.training import OptimizerSection

ClassName = Annotated[str, BeforeValidator(str)]
"""YAML reads 0 and 1 as numbers."""


class EncoderOrigin(Section):
    """A checkpoint that a task starts from."""

    path: str
    """A folder (a run's `model/`, another task's `tasks/<name>`) or a Hub repository."""
    revision: str | None = None
    trust_remote_code: bool = False
    """Whether code that the checkpoint brings may run. Counts in a config that is named or on the command line, not in
    a run's folder."""


class LoraConfig(Section):
    """`encoder: lora`; names as in `peft.LoraConfig`."""

    r: Positive = 8
    lora_alpha: Positive = 16
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: str | list[str] = "all-linear"
    merge: bool = True
    """Export the merged model; false: the adapter, in a folder that `peft` loads over the encoder."""


class Sweep(Section):
    """What `finetune --sweep` tries on validation with the first seed, before all seeds run with the best."""

    learning_rate: list[Annotated[float, Field(gt=0)]] = Field([1e-4, 3e-4, 1e-3], min_length=1)
    num_train_epochs: list[Annotated[float, Field(gt=0)]] = Field([3.0, 6.0], min_length=1)
    n_trials: Positive | None = None
    """So many trials that Optuna chooses between the ends of the lists (learning rates by their logarithm); by
    default every combination."""


FROZEN: dict[str, Any] = {
    "learning_rate": 1e-2,
    "num_train_epochs": 40.0,
    "per_device_train_batch_size": 64,
    # For a thousand labels (configs/RECIPES.md).
    "weight_decay": 1.5,
    "sweep": {"learning_rate": [3e-3, 1e-2, 3e-2], "num_train_epochs": [20.0, 40.0]},
}


class TaskConfig(OptimizerSection):
    task: str
    name: Name

    # -- data
    source: Literal["files", "hub", "installed_docs"] | None = None
    """By default `files` where `train` names a file, `hub` where `path` is given."""
    path: str | None = None
    config_name: str | None = None
    revision: str | None = None
    train: str | None = None
    """A file (jsonl, csv, tsv, Parquet, CoNLL), or a split of the Hub dataset (default: train)."""
    validation: str | None = None
    test: str | None = None
    text_column: str = "text"
    text_pair_column: str | None = None
    """The second text of a pair."""
    label_column: str | list[str] = "label"
    """multi_label_classification: also a list, of columns that hold 0 or 1 for the label that they are named after."""
    label_names: list[ClassName] | None = None
    """The names behind labels or tags that are integers, in their order. Parquet files that `datasets` wrote, and
    datasets of the Hub, have them already."""
    tokens_column: str = "tokens"
    tags_column: str = "ner_tags"
    spans_column: str = "entities"
    """ner: where the rows have no words, the entities of `text_column` by character: `{start, end, label}` each."""
    conll_columns: tuple[int, int] = (0, -1)
    """The columns of a CoNLL file that hold the word and the tag, counted from 0, or from -1 backwards."""
    question_column: str = "question"
    context_column: str = "context"
    answers_column: str = "answers"
    validation_fraction: float = Field(0.1, gt=0.0, lt=1.0)
    """Taken from train (by a hash of the text) where no validation set is given."""
    encoding: Encoding = "utf-8"
    """Of files of text; utf-16, latin-1, cp1252, …"""
    quoting: QuotingKey = None
    """.csv, .tsv: minimal (or 0), a quoted field may hold delimiters and line ends; none (or 3), quotes are characters.
    By default what the beginning of a file shows."""
    delimiter: Delimiter = None
    """.csv, .tsv: the character between two columns; by default a comma, and a tab in .tsv."""
    max_train_samples: Positive | None = None
    max_eval_samples: Positive | None = None
    on_bad_examples: Literal["error", "drop"] = "error"
    """What becomes of labelled rows that can't be used (no label, an answer that isn't in its context, …): all are
    counted and refused in one message, or dropped and counted by their reasons."""

    # -- the model
    model: str | EncoderOrigin | None = None
    """The encoder: a folder or a Hub repository; by default the run's own `model/`. Another task's folder makes that
    task an intermediate one."""
    config: dict[str, Any] = {}
    """Keys of the transformers config, as `{classifier_pooling: mean}` of ModernBERT, which follows the number of
    examples by default if the encoder is small: see `tasks/fit/recipe.py`."""
    encoder: Literal["full", "lora", "frozen"] = "full"
    """What is trained: everything, low-rank adapters and the head, or a linear probe on features computed once.

    A probe wants more steps, which cost little, and a higher rate: its defaults are `FROZEN`. Its `weight_decay` is
    that of 1,000 labels (one a text, or one a labelled token) or fewer; with n of them it is 1,000/n as much, as the
    penalty of a logistic regression stands beside the sum of the losses."""
    lora: LoraConfig = LoraConfig()
    layerwise_lr_decay: float = Field(1.0, gt=0, le=1)
    """Each layer's learning rate is this times that of the layer above it; the head has `learning_rate`."""

    # -- the recipe
    learning_rate: Annotated[float, Field(gt=0)] | None = None  # type: ignore[assignment]
    """By default 3e-4, and less for full encoders wider than 384, as 3.8e-5 for 768: see `tasks/fit/recipe.py`."""
    num_train_epochs: Annotated[float, Field(gt=0)] | None = None
    """By default 3, and for small training sets as many more as make 400 steps, up to 10."""
    max_steps: Positive | None = None
    """Overrides num_train_epochs."""
    per_device_train_batch_size: Positive = 16
    per_device_eval_batch_size: Positive = 64
    warmup_steps: float = Field(0.1, ge=0)
    # As in `TrainingArguments`, where pretraining takes other values: over a few hundred steps these were better on
    # four of five sets, each time by less than the spread of the seeds (configs/RECIPES.md).
    weight_decay: float = Field(0.0, ge=0)
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    adam_epsilon: float = Field(1e-8, gt=0)
    max_length: Positive | None = None
    """Tokens per window; by default what the encoder can take, 512 at most."""
    stride: Annotated[int, Field(ge=0)] = 0
    """Tokens shared by neighbouring windows of a long text."""
    class_weight: Literal["balanced"] | dict[ClassName, Annotated[float, Field(ge=0)]] | None = None
    """classification: weights of the classes in the loss; balanced: in inverse proportion to their frequencies."""
    tagging_scheme: Literal["BIO", "BIOES"] = "BIO"
    """ner: the tags that the model learns; files in either, or in IOB1, are read."""
    label_all_tokens: bool = False
    """ner, tagging: label every token of a word rather than its first."""
    max_answer_length: Positive = 30
    """question_answering: tokens of the longest answer."""
    seeds: Annotated[list[Seed], Distinct] = Field([0, 1, 2], min_length=1)
    scratch_learning_rates: list[Annotated[float, Field(gt=0)]] = []
    """Where given, the same encoder from random weights is trained too, at the best of these on validation."""
    bag_of_words: bool = True
    """Whether the scores are compared with a linear model on words (TF-IDF; for tags what words look like): seconds."""
    train_fractions: list[Annotated[float, Field(gt=0, le=1)]] = []
    """Shares of the training set that are trained on too, for a learning curve."""
    sweep: Sweep = Sweep()

    # -- evaluation during training
    eval_strategy: Literal["no", "epoch", "steps"] | None = None
    """When validation is scored during training; no: at the end alone, and only where something follows from it. By
    default `epoch` with `load_best_model_at_end` or `early_stopping_patience`, else `no`."""
    eval_steps: Positive | None = None
    load_best_model_at_end: bool | None = None
    """Whether the weights of the best evaluation are kept rather than the last ones. By default where training stops
    early; after a schedule that was gone through, the last ones were as good or better (configs/RECIPES.md)."""
    metric_for_best_model: str | None = None
    """By default the task's own: accuracy, f1, …; higher is better."""
    early_stopping_patience: Positive | None = None
    """Stop after so many evaluations that were no better than the best."""
    save_steps: Positive | None = 500
    """Steps between checkpoints, from which an interrupted training goes on."""
    calibrate: bool = True
    """classification: fit a temperature on validation; `predict` divides logits by it."""

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_a_frozen_encoder(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("encoder") != "frozen":
            return data
        sweep = data.get("sweep", {})
        # A run's config.yaml has null for what its tasks leave open.
        data = {key: value for key, value in data.items() if value is not None or key not in FROZEN}
        return {**FROZEN, **data, "sweep": {**FROZEN["sweep"], **sweep} if isinstance(sweep, dict) else sweep}

    @model_validator(mode="after")
    def _consistent(self) -> TaskConfig:
        if self.eval_strategy == "steps" and self.eval_steps is None:
            raise ValueError("eval_strategy: steps needs eval_steps")
        for key in ("early_stopping_patience", "load_best_model_at_end"):
            if getattr(self, key) and self.eval_strategy == "no":
                raise ValueError(f"{key} needs evaluations: eval_strategy epoch or steps")
        if isinstance(self.label_column, list):
            if self.task != "multi_label_classification":
                raise ValueError("label_column: a list of columns goes with task: multi_label_classification")
            if not self.label_column or len(set(self.label_column)) < len(self.label_column):
                raise ValueError("label_column: name each column of 0 and 1 once")
        if self.encoder == "frozen" and self.optim == "muon":
            raise ValueError("encoder: frozen leaves muon no matrices of an encoder; optim: adamw serves heads")
        if self.layerwise_lr_decay != 1.0 and (self.optim == "muon" or self.encoder != "full"):
            raise ValueError("layerwise_lr_decay goes with encoder: full, and with any optim but muon")
        return self

    @property
    def evaluates(self) -> Literal["no", "epoch", "steps"]:
        """`eval_strategy`, or what follows from the other keys."""
        if self.eval_strategy is not None:
            return self.eval_strategy
        return "epoch" if self.keeps_best or self.early_stopping_patience is not None else "no"

    @property
    def keeps_best(self) -> bool:
        """Whether a training ends with the weights of its best evaluation."""
        if self.load_best_model_at_end is None:
            return self.early_stopping_patience is not None
        return self.load_best_model_at_end

    @property
    def origin(self) -> EncoderOrigin | None:
        """The checkpoint that `model` names."""
        return EncoderOrigin(path=self.model) if isinstance(self.model, str) else self.model
