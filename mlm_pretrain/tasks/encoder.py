"""Loading any transformers encoder under a task head: the checks, the float32 weights, the quiet console."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import find_adapter_config_file
from transformers.utils import logging as transformers_logging

from mlm_pretrain.errors import UserError, nearest
from mlm_pretrain.io.digests import check_folder
from mlm_pretrain.models.build import POSITIONS_BEHIND_PADDING


def load_config(
    path: str | Path,
    labels: Sequence[str] | None = None,
    problem_type: str | None = None,
    revision: str | None = None,
    keys: Mapping[str, Any] | None = None,
) -> PretrainedConfig:
    """The config of a checkpoint, with the label names and the kind of a task where given.

    Args:
        keys: further keys of the transformers config, over the checkpoint's own.

    Raises:
        UserError: there is no transformers checkpoint, it is not what was written, or the config has no such key.
    """
    check_folder(path)
    names: dict[str, Any] = {}
    if labels is not None:
        names = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
        names["problem_type"] = problem_type
    try:
        with quiet():
            config = AutoConfig.from_pretrained(path, trust_remote_code=False, revision=revision, **names)
        for key, value in (keys or {}).items():
            if not hasattr(config, key):
                raise UserError(
                    f"tasks.config: a {config.model_type} config has no '{key}'{nearest(key, vars(config))}"
                )
            setattr(config, key, value)
        return config
    except (OSError, ValueError) as error:
        raise _no_checkpoint(path, error) from None


def load_tokenizer(path: str | Path, revision: str | None = None) -> PreTrainedTokenizerBase:
    """
    Raises:
        UserError: there is no tokenizer, or it can't pad.
    """
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, revision=revision)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no tokenizer that transformers can load ({_first_line(error)})") from None
    if tokenizer.pad_token_id is None:
        raise UserError(f"{path}: the tokenizer has no padding token; an encoder's tokenizer is needed")
    return tokenizer


def load_model(
    auto_class: Any, path: str | Path, config: PretrainedConfig, revision: str | None = None
) -> PreTrainedModel:
    """A checkpoint's weights under the head of `auto_class`, in float32; what the checkpoint lacks is drawn anew.

    So is a head for other labels than those of `config`, also where it has as many. A folder or repository of low-rank
    adapters gives its encoder with them merged.

    Raises:
        UserError: no weights in safetensors, a damaged file, or none of the weights belongs to this architecture.
    """
    if find_adapter_config_file(str(path), revision=revision) is not None:
        from mlm_pretrain.tasks.lora import merged

        return merged(auto_class, str(path), config, revision)
    try:
        with quiet():
            model, report = auto_class.from_pretrained(
                path,
                config=config,
                revision=revision,
                dtype=torch.float32,
                trust_remote_code=False,
                use_safetensors=True,
                # A checkpoint that already has a head for other labels gets a new one.
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except (OSError, ValueError) as error:
        raise _no_checkpoint(path, error) from None
    except SafetensorError as error:
        raise UserError(f"{path}: damaged weights ({_first_line(error)}); fetch or write them again") from None
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
    if load_config(path, revision=revision).id2label != config.id2label:
        _draw_outputs(model, auto_class, {*report["missing_keys"], *(key[0] for key in report["mismatched_keys"])})
    return model


@torch.no_grad()
def _draw_outputs(model: PreTrainedModel, auto_class: Any, drawn: Collection[str]) -> None:
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
        fresh = new_model(auto_class, model.config)
        for name in loaded:
            model.get_submodule(name).load_state_dict(fresh.get_submodule(name).state_dict())


def new_model(auto_class: Any, config: PretrainedConfig) -> PreTrainedModel:
    """The same architecture with random weights, in float32."""
    with quiet():
        return auto_class.from_config(config, dtype=torch.float32, trust_remote_code=False)


def window_length(
    config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None, stride: int = 0
) -> int:
    """Tokens per window, special tokens included: `max_length`, or what the encoder can take, 512 at most.

    Raises:
        UserError: `max_length` is more than the encoder can take, or leaves no room for `stride` and new tokens.
    """
    positions = getattr(config, "max_position_embeddings", None)
    if positions and positions > 0 and config.model_type in POSITIONS_BEHIND_PADDING:
        positions -= (config.pad_token_id or 0) + 1
    limits = [limit for limit in (positions, tokenizer.model_max_length) if limit and limit > 0]
    limit = min(limits) if limits else 512
    length = min(limit, 512) if max_length is None else max_length
    if length > limit:
        raise UserError(f"max_length: {length} tokens are more than the {limit} that the encoder takes")
    room = length - tokenizer.num_special_tokens_to_add()
    if room <= stride:
        raise UserError(f"stride: {stride} leaves no room for new tokens in windows of max_length {length}")
    return length


def check_vocabulary(path: str | Path, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """
    Raises:
        UserError: the tokenizer has ids that the encoder doesn't know.
    """
    if len(tokenizer) > config.vocab_size:
        raise UserError(
            f"{path}: the tokenizer has {len(tokenizer)} tokens, the model {config.vocab_size}; "
            "they don't belong together"
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' bars and its reports of newly drawn heads off the console: they are wanted here."""
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def _no_checkpoint(path: str | Path, error: Exception) -> UserError:
    if Path(path).is_dir():
        return UserError(f"{path}: no transformers checkpoint there ({_first_line(error)})")
    return UserError(f"{path}: neither a folder with a checkpoint nor a Hub repository within reach")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
