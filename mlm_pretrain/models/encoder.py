"""Loading any transformers encoder under a task head: the checks, the float32 weights, the quiet console."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from mlm_pretrain.errors import UserError, nearest
from mlm_pretrain.models.build import POSITIONS_BEHIND_PADDING
from mlm_pretrain.models.ids import leave_out_token_types, vocabulary_size
from mlm_pretrain.models.loading import ADAPTER_CONFIG, Checkpoint, Place
from mlm_pretrain.models.low_rank import merged
from mlm_pretrain.models.new import new_model


def load_config(
    place: Place,
    labels: Sequence[str] | None = None,
    problem_type: str | None = None,
    keys: Mapping[str, Any] | None = None,
) -> PretrainedConfig:
    """The config of a checkpoint, with the label names and the kind of a task where given.

    Args:
        keys: further keys of the transformers config, over the checkpoint's own.

    Raises:
        UserError: there is no transformers checkpoint, it is not what was written, or the config has no such key.
    """
    names: dict[str, Any] = {}
    if labels is not None:
        names = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
        names["problem_type"] = problem_type
    config = Checkpoint.of(place).config(**names)
    for key, value in (keys or {}).items():
        if not hasattr(config, key):
            raise UserError(f"tasks.config: a {config.model_type} config has no '{key}'{nearest(key, vars(config))}")
        setattr(config, key, value)
    return config


def load_tokenizer(place: Place, config: PretrainedConfig | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint.

    Args:
        config: of the model that gets its ids; token types that this one hasn't are left out.

    Raises:
        UserError: there is no tokenizer, it can't pad, or it has ids that the model doesn't know.
    """
    tokenizer = Checkpoint.of(place).tokenizer()
    if tokenizer.pad_token_id is None:
        raise UserError(f"{place}: the tokenizer has no padding token; an encoder's tokenizer is needed")
    if config is not None:
        check_vocabulary(place, config, tokenizer)
        leave_out_token_types(tokenizer, config)
    return tokenizer


def load_model(auto_class: Any, place: Place, config: PretrainedConfig) -> PreTrainedModel:
    """A checkpoint's weights under the head of `auto_class`, in float32; what the checkpoint lacks is drawn anew.

    So is a head for other labels than those of `config`, also where it has as many. A folder or repository of low-rank
    adapters gives its encoder with them merged.

    Raises:
        UserError: no weights in safetensors, a damaged file, or none of the weights belongs to this architecture.
    """
    path = Checkpoint.of(place)
    if path.file(ADAPTER_CONFIG) is not None:
        return merged(path, lambda base: load_model(auto_class, base, config))
    # A checkpoint that already has a head for other labels gets a new one.
    model, report = path.weights(auto_class, config, ignore_mismatched_sizes=True)
    # Checkpoints of a bare encoder have no prefix, so count by what the model still lacks.
    prefix = "" if model.base_model is model else f"{model.base_model_prefix}."
    inner = {f"{prefix}{name}" for name, _ in model.base_model.named_parameters()}
    lacking = {*report["missing_keys"], *(key[0] for key in report["mismatched_keys"])} & inner
    if len(lacking) == len(inner):
        raise UserError(
            f"{path}: none of its weights belongs to a {type(model).__name__}; is this a {config.model_type} encoder?"
        )
    torn = sorted(name for name in lacking if "pooler" not in name)
    if torn:
        raise UserError(f"{path}: {len(torn)} of the encoder's weights are missing, {torn[0]} the first")
    if path.config().id2label != config.id2label:
        drawn = {*report["missing_keys"], *(key[0] for key in report["mismatched_keys"])}
        _draw_outputs(model, auto_class, drawn, path.trust_remote_code)
    return model


@torch.no_grad()
def _draw_outputs(model: PreTrainedModel, auto_class: Any, drawn: Collection[str], trusted: bool) -> None:
    """Draw the layers that give the labels' logits anew, but for those that were drawn in loading."""
    encoder = set(model.base_model.modules())
    loaded = [
        name
        for name, module in model.named_modules()
        if module not in encoder
        and getattr(module, "out_features", None) == model.config.num_labels
        and f"{name}.weight" not in drawn
    ]
    if loaded:
        # A model's own initialisation knows which layer this is, and how large its weights are to be.
        fresh = new_model(auto_class, model.config, trusted)
        for name in loaded:
            model.get_submodule(name).load_state_dict(fresh.get_submodule(name).state_dict())


def window_length(
    config: PretrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None = None,
    stride: int = 0,
    most: int | None = 512,
) -> int:
    """Tokens per window, special tokens included: `max_length`, or what the encoder can take, `most` at most.

    Raises:
        UserError: `max_length` is more than the encoder can take, or leaves no room for `stride` and new tokens.
    """
    positions = getattr(config, "max_position_embeddings", None)
    if positions and positions > 0 and config.model_type in POSITIONS_BEHIND_PADDING:
        positions -= (config.pad_token_id or 0) + 1
    limits = [limit for limit in (positions, tokenizer.model_max_length) if limit and limit > 0]
    limit = min(limits) if limits else 512
    length = min(limit, most or limit) if max_length is None else max_length
    if length > limit:
        raise UserError(f"max_length: {length} tokens are more than the {limit} that the encoder takes")
    room = length - tokenizer.num_special_tokens_to_add()
    if room <= stride:
        raise UserError(f"stride: {stride} leaves no room for new tokens in windows of max_length {length}")
    return length


def check_vocabulary(path: Place, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """
    Raises:
        UserError: the tokenizer has ids that the encoder doesn't know, or this one reads no tokens.
    """
    if not hasattr(config, "vocab_size"):
        raise UserError(f"{path}: a {config.model_type} model has no vocabulary; an encoder of text is needed")
    if vocabulary_size(tokenizer) > config.vocab_size:
        raise UserError(
            f"{path}: the tokenizer has ids up to {vocabulary_size(tokenizer) - 1}, the model {config.vocab_size} "
            "embeddings; they don't belong together"
        )
