"""What a run is, so that it can be taken up again as the same run or refused by name."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from mlm_pretrain.config import Config, dotted
from mlm_pretrain.console import telemetry
from mlm_pretrain.errors import UserError
from mlm_pretrain.stream.shuffle import ORDER

# What may change between the parts of a run: it shapes neither the batches nor the optimizer.
FREE_KEYS = {
    "text.validation_max_bytes",
    "stream.dataloader_num_workers",
    # What it has decided is among the other keys.
    "training.recipe",
    "training.per_device_train_batch_size",
    "training.per_device_eval_batch_size",
    "training.logging_steps",
    "training.eval_steps",
    "training.save_steps",
    "training.save_total_limit",
    "training.on_bad_loss",
    "training.max_loss",
    "training.report_to",
    "training.gradient_checkpointing",
}
# What a run keeps from its beginning, whatever the config says now.
VOCABULARY = "the tokenizer"
SHARDS = "the prepared shards"
STREAM_ORDER = "the order of the stream"
KEPT = {"training.bf16", "training.fp16", "training.torch_compile"}
# What checkpoints of older versions don't say, and nothing depends on after a run's first step.
UNSAID = {"model.init_embeddings"}


@dataclass
class Progress:
    """How far a run is."""

    step: int = 0
    tokens: int = 0
    """Real tokens seen, padding not counted."""
    seconds: float = 0.0
    """Wall-clock time of training, over all parts of the run."""
    initialisation: dict[str, Any] = field(default_factory=dict)
    """How the weights began, for the records: what a part of `INITIALISATIONS` did."""
    skipped_steps: int = 0
    """Steps that were left out because their loss was bad; `step` counts them."""
    stream: dict[str, Any] | None = None
    """The state of each lane of the stream behind the last batch, by its number; as of the last save."""
    counts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By source: epoch; documents, bytes and tokens taken; drops by reason. As of the last save."""


def identity(config: Config, vocabulary: str, corpus: dict[str, Any], shards: str | None = None) -> dict[str, Any]:
    """What may not change while a run goes on, by dotted key.

    Args:
        vocabulary: the tokenizer's fingerprint.
        corpus: the sources' fingerprints by name.
        shards: the fingerprint of the prepared shards, where the run trains on such.
    """
    shaping = {"text", "tokenizer", "stream", "objective", "model", "training"}
    sections = dotted(config.model_dump(mode="json", include=shaping))
    return {
        **{key: value for key, value in sections.items() if not _is_free(key)},
        **dotted({"corpus": corpus}),
        "run.seed": config.run.seed,
        # Where they are may change.
        "stream.prepared": bool(config.stream.prepared),
        STREAM_ORDER: ORDER,
        VOCABULARY: vocabulary,
        SHARDS: shards,
    }


def _is_free(key: str) -> bool:
    """Whether a key may change; where files lie may, since the corpus is known by its fingerprint."""
    moved = re.fullmatch(r"text\.sources\.\d+\.path(\.\d+)?", key) is not None
    return moved or any(key == free or key.startswith(f"{free}.") for free in FREE_KEYS)


def refuse_changes(checkpoint: object, old: dict[str, Any], new: dict[str, Any]) -> None:
    """
    Raises:
        UserError: the run is not the one that the checkpoint is of; names the first key that differs. Another budget
            is allowed, with a warning.
    """
    # First: such a version may have described the same corpus otherwise.
    if old.get(STREAM_ORDER) != new.get(STREAM_ORDER):
        raise UserError(
            f"{checkpoint}: this run was begun with another version of mlm-pretrain, which reads text in another "
            "order; train on with that one, or choose another run.name (what the run has made can be used all the same)"
        )
    for key in sorted(set(old) | set(new)):
        if old.get(key) == new.get(key) or (key in UNSAID and key not in old):
            continue
        if key.startswith("training.budget."):
            telemetry.warn(f"{key}: was {old.get(key)}, is {new.get(key)} now; the schedule follows the new budget")
            continue
        if key in KEPT:
            telemetry.warn(f"{key}: is {new.get(key)} now; the run keeps {old.get(key)}, which it was begun with")
            continue
        what = "the corpus has changed: " if key.startswith("corpus.") else ""
        raise UserError(
            f"{checkpoint}: {what}{key} was {old.get(key)!r} when this run began and is {new.get(key)!r} now; "
            "set it back to go on, or choose another run.name"
        )
