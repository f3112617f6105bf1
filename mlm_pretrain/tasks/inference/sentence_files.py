"""Reading the sentence-transformers files of a checkpoint: how its vectors are meant to be made."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from mlm_pretrain.errors import UserError, first_line
from mlm_pretrain.io.paths import inside
from mlm_pretrain.models.loading import Checkpoint
from mlm_pretrain.tasks.inference.sentence_vectors import (
    ACTIVATIONS,
    OLD_NAMES,
    POOLINGS,
    PREFIX,
    Dense,
    Normalize,
    Recipe,
)

TRANSFORMER_CONFIGS = ("sentence_bert_config.json", "sentence_roberta_config.json", "sentence_distilbert_config.json")


def read_recipe(checkpoint: Checkpoint) -> Recipe | None:
    """What a checkpoint's `modules.json`, and the files that it names, say; None if there is none.

    Raises:
        UserError: something that isn't known here, is missing, or pickled.
    """
    if checkpoint.file("modules.json") is None:
        return None
    modules = _read(checkpoint, "modules.json", list)
    if not all(isinstance(module, dict) for module in modules):
        raise _malformed(checkpoint, "modules.json")
    recipe, kinds = Recipe(), []
    for module in modules:
        kind, path = str(module.get("type")), str(module.get("path") or "")
        name = kind.rpartition(".")[2] if kind.startswith("sentence_transformers.") else kind
        kinds.append(name)
        if name == "Transformer" and len(kinds) == 1:
            recipe = _with_transformer(recipe, checkpoint, path)
        elif name == "Pooling" and len(kinds) == 2:
            recipe = _with_pooling(recipe, checkpoint, path)
        elif name == "Dense" and len(kinds) > 2:
            recipe = replace(recipe, layers=(*recipe.layers, _dense(checkpoint, path)))
        elif name == "Normalize" and len(kinds) > 2:
            recipe = replace(recipe, layers=(*recipe.layers, Normalize()))
        elif name != "Dropout" or len(kinds) < 3:
            raise _unknown(checkpoint, f"module {kind}")
    if len(kinds) < 2:
        raise _unknown(checkpoint, f"a {kinds[0] if kinds else 'folder'} without Pooling")
    return recipe


def _with_transformer(recipe: Recipe, checkpoint: Checkpoint, path: str) -> Recipe:
    inner = checkpoint
    if path:
        if checkpoint.folder is None:
            raise UserError(f"{checkpoint}: its encoder is in {path}/; give it as a folder (`hf download` makes one)")
        folder = inside(checkpoint.folder, path, named_in=checkpoint.folder / "modules.json", links=True)
        inner = replace(checkpoint, path=str(folder))
    own = (_read(inner, name) for name in TRANSFORMER_CONFIGS if inner.file(name) is not None)
    settings: dict[str, Any] = next(own, {})
    if settings.get("transformer_task", "feature-extraction") != "feature-extraction":
        raise _unknown(checkpoint, f"transformer_task {settings['transformer_task']}")
    longest = settings.get("max_seq_length")
    if longest is not None and not (isinstance(longest, int | float) and longest >= 1):
        raise _unknown(checkpoint, f"max_seq_length {longest!r}")
    prompts, default = _prompts(checkpoint)
    return replace(
        recipe,
        transformer=inner,
        max_length=None if longest is None else int(longest),
        lower_case=bool(settings.get("do_lower_case")),
        prompts=prompts,
        prompt_name=default,
    )


def _prompts(checkpoint: Checkpoint) -> tuple[dict[str, str], str | None]:
    """By name, what is put before texts; and the name of the one that is, unless another is asked for."""
    file = "config_sentence_transformers.json"
    if checkpoint.file(file) is None:
        return {}, None
    settings = _read(checkpoint, file)
    prompts, default = settings.get("prompts") or {}, settings.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise _malformed(checkpoint, file)
    prompts = {name: text for name, text in prompts.items() if text is not None}
    if default is not None and default not in prompts:
        raise _unknown(checkpoint, f"default_prompt_name {default!r}, of which there is no prompt,")
    return prompts, default


def _with_pooling(recipe: Recipe, checkpoint: Checkpoint, path: str) -> Recipe:
    settings = _read(checkpoint, f"{path}/config.json")
    named = settings.get("pooling_mode") or [name for key, name in OLD_NAMES.items() if settings.get(key)] or "mean"
    pooling = tuple(named) if isinstance(named, list) else (named,)
    for name in pooling:
        if name not in POOLINGS:
            raise _unknown(checkpoint, f"pooling {name}")
    if recipe.prompts and not settings.get("include_prompt", True):
        raise _unknown(checkpoint, "include_prompt: false")
    return replace(recipe, pooling=pooling)


def _dense(checkpoint: Checkpoint, path: str) -> Dense:
    settings = _read(checkpoint, f"{path}/config.json")
    activation = str(settings.get("activation_function", f"{PREFIX}activation.Tanh"))
    name = activation.rpartition(".")[2]
    if name not in ACTIVATIONS or not activation.startswith(PREFIX):
        raise _unknown(checkpoint, f"activation_function {activation}")
    inputs = settings.get("module_input_name", "sentence_embedding")
    outputs = settings.get("module_output_name") or inputs
    if settings.get("use_residual") or (inputs, outputs) != ("sentence_embedding", "sentence_embedding"):
        raise _unknown(checkpoint, f"Dense layer {path}")
    file = checkpoint.file(f"{path}/model.safetensors")
    if file is None:
        pickled = f"{path}/pytorch_model.bin"
        if checkpoint.file(pickled) is None:
            raise _missing(checkpoint, f"{path}/model.safetensors")
        raise checkpoint.pickled([pickled])
    try:
        tensors = load_file(file)
        linear = nn.Linear(settings["in_features"], settings["out_features"], bias=settings.get("bias", True))
        linear.load_state_dict({key.removeprefix("linear."): tensor.float() for key, tensor in tensors.items()})
    except (SafetensorError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(
            f"{checkpoint}: {path}/model.safetensors is not the layer that its config.json names "
            f"({first_line(error)}); fetch or write it again"
        ) from None
    return Dense(linear.requires_grad_(False), name)


def _read(checkpoint: Checkpoint, name: str, kind: type[dict[str, Any] | list[Any]] = dict) -> Any:
    """What a JSON file holds, an object unless `kind` is a list."""
    file = checkpoint.file(name)
    if file is None:
        raise _missing(checkpoint, name)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{checkpoint}: {name}: no JSON ({error}); fetch or write it again") from None
    if not isinstance(content, kind):
        raise _malformed(checkpoint, name)
    return content


def _missing(checkpoint: Checkpoint, name: str) -> UserError:
    return UserError(f"{checkpoint}: {name}, which modules.json names, is missing; fetch or write it again")


def _malformed(checkpoint: Checkpoint, name: str) -> UserError:
    return UserError(f"{checkpoint}: {name}: not as sentence-transformers writes it; fetch or write it again")


def _unknown(checkpoint: Checkpoint, what: str) -> UserError:
    return UserError(
        f"{checkpoint}: modules.json: {what} isn't known here; make these vectors with sentence-transformers itself, "
        "or remove modules.json and give the pooling yourself"
    )
