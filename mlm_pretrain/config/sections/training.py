"""The sections about pretraining: the objective, the model, the budget and the optimizer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from mlm_pretrain.config.base import Count, Fraction, Positive, Section


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
    init_embeddings: str = "auto"
    """How a new model's embeddings of tokens begin. cooccurrence: from how often tokens are near each other in the
    first of the run's text, and layers begin by passing them on; random: as the architecture draws them. auto:
    cooccurrence for a new model, and random with `path` or `init_from`."""
    revision: str | None = None
    """Of the Hub repository in `path` or `init_from`."""
    config: dict[str, Any] = {}
    """Keys of the transformers config, over the preset's or the architecture's defaults."""
    attn_implementation: str | None = None
    trust_remote_code: bool = False
    """Whether code that the checkpoint brings may run. Counts in a config that is named or on the command line, not in
    a run's folder."""

    @model_validator(mode="before")
    @classmethod
    def _one_origin(cls, data: Any) -> Any:
        if isinstance(data, dict):
            given = [key for key in ("preset", "model_type", "path") if data.get(key) is not None]
            if empty := [key for key in given if data[key] == ""]:
                raise ValueError(f"{empty[0]} is empty; give its name, or leave it out")
            if len(given) > 1:
                raise ValueError(f"give one of preset, model_type, path; {' and '.join(given)} are given")
            if "path" in given and data.get("init_from") is not None:
                raise ValueError("init_from fills a new model: give preset or model_type with it, not path")
        return data

    @model_validator(mode="after")
    def _preset_by_default(self) -> ModelConfig:
        if not (self.preset or self.model_type or self.path):
            self.__dict__["preset"] = "mini"  # and still nobody has given it
        return self

    @model_validator(mode="after")
    def _keeps_what_it_starts_from(self) -> ModelConfig:
        origin = "path" if self.path else "init_from" if self.init_from else None
        if origin and self.init_embeddings not in ("auto", "random"):
            raise ValueError(
                f"init_embeddings: {self.init_embeddings} would overwrite the embeddings of {origin}; leave it out"
            )
        return self


class Budget(Section):
    """What the pretraining may spend: exactly one of the three."""

    steps: Positive | None = None
    tokens: Count | None = None
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
    recipe: Literal["auto"] | None = None
    """`learning_rate` and `global_batch_size` that nobody has given follow the budget and the size of the model, see
    `config/recipes.py`; auto: `objective.mlm_probability` too."""
    global_batch_size: Positive | Stages = 256
    """Rows per optimizer step, over all processes and accumulation; `{0: 8, 500: 32}`: 32 from step 500 on. By default
    256 under a budget in steps, else as the recipe has it."""
    sequence_length_warmup: Stages | None = None
    """`{0: 128, 2000: 512}`: until step 2,000 rows are cut into pieces of 128 tokens, between which nothing is seen (Li
    et al., arXiv 2108.06084). A step has as many tokens as ever; each length divides the next, up to
    `stream.sequence_length`."""
    per_device_train_batch_size: Positive | None = None
    """Rows per forward pass; by default so many as are fastest, tried before the first step."""
    torch_compile: bool | Literal["auto"] = "auto"
    """auto: if one compiled layer, or an earlier run on this machine, has shown that it is paid back five times."""
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
