"""A stock transformers masked language model from a preset, an architecture's name, or a checkpoint."""

from __future__ import annotations

import difflib
import math
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from mlm_pretrain.config import ModelConfig
from mlm_pretrain.config.presets import read_preset
from mlm_pretrain.console import telemetry
from mlm_pretrain.errors import UserError, first_line, nearest
from mlm_pretrain.models.ids import vocabulary_size
from mlm_pretrain.models.initialisation.tiling import tile
from mlm_pretrain.models.loading import Checkpoint
from mlm_pretrain.models.new import new_model
from mlm_pretrain.run import RunDirectory

CONSENT = "model.trust_remote_code=true"
"""How a user lets code of a checkpoint run that pretraining starts from, or has made."""

POSITIONS_BEHIND_PADDING = {
    "camembert",
    "data2vec-text",
    "ibert",
    "longformer",
    "luke",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
}
"""Architectures whose first position is `pad_token_id + 1`, so that as many fewer tokens fit."""


def build_model(
    settings: ModelConfig,
    tokenizer: PreTrainedTokenizerBase,
    sequence_length: int,
    seed: int = 0,
    announce: bool = False,
) -> PreTrainedModel:
    """A masked language model whose vocabulary is the tokenizer's.

    Args:
        sequence_length: tokens a row; the model's positions reach at least so far.
        seed: of the random weights, where there are any.
        announce: say it if a checkpoint has no masked-LM head, and gets a new one.

    Raises:
        UserError: an unknown preset, architecture or config key; a checkpoint that is missing, damaged, has no
            masked-LM weights, or belongs to another vocabulary or shorter rows; one that doesn't fit into the model
            that it is to fill.
    """
    torch.manual_seed(seed)
    if settings.path is not None:
        model = _load(settings, tokenizer, announce)
        _check_positions(settings, model, sequence_length)
        return model
    config = make_model_config(settings, tokenizer, sequence_length)
    small = _load(settings, tokenizer, announce) if settings.init_from else None
    if small is not None:
        config.vocab_size = small.config.vocab_size  # a checkpoint may have more rows than tokens
    try:
        # The weights are random in fp32 whatever dtype a preset's origin was published in.
        model = new_model(AutoModelForMaskedLM, config, settings.trust_remote_code)
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise UserError(f"model.config: {config.model_type}: {error}") from None
    if small is not None:
        tile(small, model)
    return model


def model_keys(settings: ModelConfig) -> tuple[str, dict[str, Any]]:
    """The architecture of a model that is not loaded from a checkpoint, and the keys of its config that are given.

    Raises:
        UserError: an unknown preset or architecture, or a config key that is nearly one of the architecture's.
    """
    given = {**(read_preset(settings.preset) if settings.preset else {}), **settings.config}
    model_type = settings.model_type or given.pop("model_type", None)
    given.pop("model_type", None)
    if model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        known = nearest(str(model_type), MODEL_FOR_MASKED_LM_MAPPING_NAMES)
        raise UserError(f"model.model_type: transformers has no masked-LM class for '{model_type}'{known}")
    known_keys = _known_keys(AutoConfig.for_model(model_type))
    for key in given.keys() - known_keys:
        if difflib.get_close_matches(key, known_keys, cutoff=0.8):
            raise UserError(f"model.config.{key}: {model_type} has no such key{nearest(key, known_keys)}")
    return model_type, given


def _known_keys(defaults: PreTrainedConfig) -> set[str]:
    return set(defaults.to_dict()) | {"global_attn_every_n_layers"}


def make_model_config(
    settings: ModelConfig, tokenizer: PreTrainedTokenizerBase, sequence_length: int
) -> PreTrainedConfig:
    """The transformers config of a model that is not loaded from a checkpoint."""
    model_type, given = model_keys(settings)
    defaults = AutoConfig.for_model(model_type)
    known_keys = _known_keys(defaults)
    for key in given.keys() - known_keys:
        # Some architectures read keys that their config doesn't declare (DeBERTa-v2's position_buckets).
        telemetry.warn(f"model.config.{key}: not a declared key of {model_type}; handed on as it is")
    positions = sequence_length + first_position(model_type, tokenizer.pad_token_id)
    if "max_position_embeddings" in known_keys:
        asked = settings.config.get("max_position_embeddings", given.get("max_position_embeddings"))
        default = int(asked or defaults.max_position_embeddings or 0)
        if settings.config.get("max_position_embeddings") and default < positions:
            raise UserError(
                f"model.config.max_position_embeddings: {default} is less than the {positions} positions that "
                f"stream.sequence_length {sequence_length} needs"
            )
        given["max_position_embeddings"] = max(default, positions)
    special = {
        "pad_token_id": tokenizer.pad_token_id,
        "cls_token_id": tokenizer.cls_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
    }
    given |= {key: value for key, value in special.items() if key in known_keys}
    # sdpa takes the masks of packed rows; transformers itself falls back where a model has none.
    attention = {"attn_implementation": settings.attn_implementation} if settings.attn_implementation else {}
    try:
        return AutoConfig.for_model(model_type, **{**given, "vocab_size": vocabulary_size(tokenizer), **attention})
    except Exception as error:  # transformers validates configs with errors of several classes
        raise UserError(f"model.config: {model_type}: {first_line(error)}") from None


def first_position(model_type: str, pad_token_id: int | None) -> int:
    """What an architecture calls the position of the first token."""
    if model_type == "mpnet":  # its padding index is 1 whatever the config says
        return 2
    return (pad_token_id or 0) + 1 if model_type in POSITIONS_BEHIND_PADDING else 0


def made_by(run: RunDirectory, settings: ModelConfig) -> Checkpoint:
    """The encoder that a run has made, whose code may run if the run's config says so."""
    return Checkpoint(str(run.model), None, settings.trust_remote_code, CONSENT)


def checkpoint_of(settings: ModelConfig) -> Checkpoint | None:
    """The checkpoint of `path`, or of `init_from`."""
    path = settings.path or settings.init_from
    if path is None:
        return None
    return Checkpoint(path, settings.revision, settings.trust_remote_code, CONSENT)


def _load(settings: ModelConfig, tokenizer: PreTrainedTokenizerBase, announce: bool) -> PreTrainedModel:
    place, checkpoint = _place(settings), checkpoint_of(settings)
    assert checkpoint is not None
    attention = {"attn_implementation": settings.attn_implementation} if settings.attn_implementation else {}
    try:
        config = checkpoint.config(**(settings.config if settings.path else {}))
        model, report = checkpoint.weights(AutoModelForMaskedLM, config, **attention)
    except UserError as error:
        raise UserError(f"{place.partition(':')[0]}: {error}") from None
    missing = sorted(report["missing_keys"])
    encoder = [name for name in missing if name.startswith(f"{model.base_model_prefix}.")]
    if encoder:
        raise UserError(f"{place}: the checkpoint lacks encoder weights ({encoder[0]} and {len(encoder) - 1} more)")
    head = [name for name in missing if name.endswith("weight")]
    if head and announce:
        size = model.config.vocab_size
        telemetry.warn(
            f"{place}: the checkpoint has no masked-LM head: {head[0]} and {len(missing) - 1} more are new and random; "
            f"the loss begins at that of guessing, ln {size:,} = {math.log(size):.1f}, or above, and falls as it learns"
        )
    _check_vocabulary(settings, checkpoint, model, tokenizer)
    return model


def _place(settings: ModelConfig) -> str:
    return f"model.path: {settings.path}" if settings.path else f"model.init_from: {settings.init_from}"


def _check_positions(settings: ModelConfig, model: PreTrainedModel, sequence_length: int) -> None:
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is not None:
        positions -= first_position(model.config.model_type, model.config.pad_token_id)
        if positions < sequence_length:
            raise UserError(
                f"stream.sequence_length: {sequence_length} is more than the {positions} of {settings.path}"
            )


def _check_vocabulary(
    settings: ModelConfig, checkpoint: Checkpoint, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Make sure that an id means to the tokenizer what it meant to the checkpoint; grow the model for added tokens."""
    remedy = "leave tokenizer out to use the checkpoint's own, or train from scratch"
    rows, needed = model.get_input_embeddings().weight.shape[0], vocabulary_size(tokenizer)
    try:
        own = checkpoint.tokenizer()
    except UserError:  # a checkpoint without a tokenizer can only be compared by size
        own = None
    # Where a folder has no tokenizer, transformers may make one of special tokens alone.
    if own is not None and len(own) > len(own.all_special_ids):
        ours = tokenizer.get_vocab()
        differing = [token for token, id_ in own.get_vocab().items() if ours.get(token) != id_]
        if differing:
            raise UserError(
                f"tokenizer: its vocabulary is not that of {_place(settings)} ({len(differing):,} tokens "
                f"differ, '{differing[0]}' is one); {remedy}"
            )
    elif needed > rows:
        raise UserError(
            f"tokenizer: its highest id is {needed - 1:,}, but {_place(settings)} has {rows:,} embeddings; {remedy}"
        )
    if needed > rows:
        model.resize_token_embeddings(needed)
