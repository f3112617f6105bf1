"""Models with random weights, and transformers without a word of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from mlm_pretrain.errors import UserError


def new_model(
    auto_class: Any, config: PreTrainedConfig, trust_remote_code: bool = False, **keys: Any
) -> PreTrainedModel:
    """A model of a config with random weights, in float32 whatever dtype the config names.

    Raises:
        ValueError, TypeError: the config makes no model.
        UserError: its attention is code of the Hub that may not run.
    """
    refuse_kernel(config._attn_implementation, trust_remote_code)
    with quiet():
        return auto_class.from_config(config, dtype=torch.float32, trust_remote_code=trust_remote_code, **keys)


def refuse_kernel(attention: object, trusted: bool) -> None:
    """Attention by a name as `someone/kernel` is fetched from the Hub, and run.

    Raises:
        UserError: it is named so, and isn't trusted.
    """
    if "/" in str(attention) and not trusted:
        raise UserError(
            f"model.attn_implementation: '{attention}' is code of the Hub, which would run on this machine; read it, "
            "and if you trust it say so here: model.trust_remote_code=true"
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
