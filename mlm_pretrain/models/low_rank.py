"""Low-rank adapters in a folder of their own, read and merged into the encoder that they name, by PEFT."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from safetensors import SafetensorError
from transformers import PreTrainedModel

from mlm_pretrain.errors import UserError, first_line
from mlm_pretrain.models.loading import ADAPTER_CONFIG, Checkpoint

MERGED = ("LORA", "ADALORA", "LOHA", "LOKR", "IA3")
"""Kinds of adapters that become part of the encoder; others name further things to load, each in its own way."""


def merged(place: Checkpoint, load: Callable[[Checkpoint], PreTrainedModel]) -> PreTrainedModel:
    """A folder or Hub repository of adapters as a plain model: its encoder, which has to be where
    `adapter_config.json` names it, with the adapters merged.

    Args:
        load: loads the encoder, under the head that the adapters have.

    Raises:
        UserError: PEFT is missing, the encoder isn't there, or the adapters are pickled, damaged or another encoder's.
    """
    peft = peft_library()
    names = (ADAPTER_CONFIG, "adapter_model.safetensors")
    files = {name: place.file(name) for name in names}
    # PEFT itself would take pickled ones, from the Hub too: it is given a folder that has the others.
    (folder,) = {file.parent for file in files.values() if file} if all(files.values()) else {None}
    if folder is None:
        raise UserError(f"{place}: no adapter_model.safetensors; pickled adapters are never read: save them again")
    try:
        named = peft.PeftConfig.from_pretrained(folder)
        kind = getattr(named.peft_type, "value", named.peft_type)
        if kind not in MERGED or not named.base_model_name_or_path:
            raise ValueError(f"{kind} has nothing to merge into an encoder that it names")
        base = load(replace(place, path=named.base_model_name_or_path, revision=named.revision))
        with old_name_is_known():
            return peft.PeftModel.from_pretrained(base, folder).merge_and_unload()
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{place}: its adapters can't be loaded: {first_line(error)}") from None


def peft_library() -> Any:
    """
    Raises:
        UserError: PEFT isn't installed.
    """
    try:
        import peft
    except ImportError:
        raise UserError("encoder: lora needs PEFT: pip install 'mlm-pretrain[lora]'") from None
    return peft


@contextlib.contextmanager
def old_name_is_known() -> Iterator[None]:
    """Without the warning that PEFT causes."""
    with warnings.catch_warnings():
        # PEFT 0.21 asks transformers for gradient checkpointing under its old name.
        warnings.filterwarnings("ignore", category=FutureWarning, message=".*is_gradient_checkpointing")
        yield
