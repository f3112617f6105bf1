"""How an encoder's hidden states become one vector a text: as the checkpoint's own sentence-transformers files say."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors.torch import save_file
from tokenizers import normalizers
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from mlm_pretrain.errors import UserError
from mlm_pretrain.models.loading import Checkpoint

Pooling = Literal["mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]

# In the order in which sentence-transformers joins several.
OLD_NAMES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
ACTIVATIONS = {**dict.fromkeys(("Tanh", "ReLU", "GELU", "SiLU", "Sigmoid"), "activation"), "Identity": "linear"}
"""By name, the module of `torch.nn.modules` that has it."""
PREFIX = "torch.nn.modules."


@dataclass(frozen=True)
class Dense:
    """A linear layer over the pooled vector."""

    linear: nn.Linear
    activation: str
    """As `torch.nn` names it."""

    def __call__(self, vectors: Tensor) -> Tensor:
        module: nn.Module = getattr(nn, self.activation)()
        result: Tensor = module(self.linear.to(vectors.device)(vectors))
        return result

    def settings(self) -> dict[str, Any]:
        """As sentence-transformers writes them."""
        return {
            "in_features": self.linear.in_features,
            "out_features": self.linear.out_features,
            "bias": self.linear.bias is not None,
            "activation_function": f"{PREFIX}{ACTIVATIONS[self.activation]}.{self.activation}",
        }


class Normalize:
    """Vectors of length 1."""

    def __call__(self, vectors: Tensor) -> Tensor:
        return nn.functional.normalize(vectors, dim=1)

    def settings(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class Recipe:
    """From hidden states to vectors."""

    pooling: tuple[str, ...] = ("mean",)
    """Several are joined."""
    layers: tuple[Dense | Normalize, ...] = ()
    """What follows."""
    max_length: int | None = None
    lower_case: bool = False
    prompts: dict[str, str] = field(default_factory=dict)
    """What is put before a text, by name."""
    prompt_name: str | None = None
    transformer: Checkpoint | None = None
    """Where the encoder is, if sentence-transformers files say all this."""

    @property
    def is_normalised(self) -> bool:
        return bool(self.layers) and isinstance(self.layers[-1], Normalize)

    @property
    def prompt(self) -> str:
        return self.prompts[self.prompt_name] if self.prompt_name is not None else ""

    def over(self, pooling: str | None, normalize: bool | None, prompt_name: str | None) -> Recipe:
        """With what the user says in place of what the checkpoint does.

        Raises:
            UserError: there is no prompt of that name.
        """
        layers = self.layers
        if normalize is not None and normalize != self.is_normalised:
            layers = (*layers, Normalize()) if normalize else layers[:-1]
        if prompt_name is not None and prompt_name not in self.prompts:
            there = ", ".join(sorted(self.prompts)) or "none"
            raise UserError(f"prompt_name: the checkpoint has no prompt '{prompt_name}'; it has {there}")
        return replace(
            self,
            pooling=(pooling,) if pooling is not None else self.pooling,
            layers=layers,
            prompt_name=prompt_name if prompt_name is not None else self.prompt_name,
        )

    def size(self, hidden_size: int) -> int:
        """Of the vectors.

        Raises:
            UserError: a layer takes vectors of another size.
        """
        size = hidden_size * len(self.pooling)
        for layer in self.layers:
            if isinstance(layer, Dense):
                if layer.linear.in_features != size:
                    raise UserError(
                        f"pooling: {' and '.join(self.pooling)} gives {size} numbers, and the checkpoint's Dense layer "
                        f"takes {layer.linear.in_features}; leave pooling out"
                    )
                size = layer.linear.out_features
        return size

    def vectors(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """[rows, tokens, hidden] → [rows, size], float32; rows are padded on the right."""
        vectors = torch.cat([POOLINGS[name](hidden, mask.unsqueeze(-1).to(hidden.dtype)) for name in self.pooling], 1)
        for layer in self.layers:
            vectors = layer(vectors)
        return vectors

    def save(self, folder: Path, hidden_size: int, max_length: int) -> None:
        """Write the files beside model and tokenizer, in the form that sentence-transformers reads since version 2."""
        modules: list[tuple[str, str, dict[str, Any]]] = [("Transformer", "", {})]
        pooling = {key: name in self.pooling for key, name in OLD_NAMES.items()}
        modules.append(("Pooling", "1_Pooling", {"word_embedding_dimension": hidden_size, **pooling}))
        for number, layer in enumerate(self.layers, start=2):
            kind = type(layer).__name__
            modules.append((kind, f"{number}_{kind}", layer.settings()))
        names = [
            {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for number, (kind, path, _) in enumerate(modules)
        ]
        own = {"max_seq_length": max_length, "do_lower_case": self.lower_case}
        files: dict[str, Any] = {"modules.json": names, "sentence_bert_config.json": own}
        if self.prompts:
            said = {"prompts": self.prompts, "default_prompt_name": self.prompt_name}
            files["config_sentence_transformers.json"] = said
        files |= {f"{path}/config.json": settings for _, path, settings in modules if path}
        for name, content in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        for layer, (_, path, _) in zip(self.layers, modules[2:], strict=True):
            if isinstance(layer, Dense):
                tensors = {f"linear.{name}": tensor for name, tensor in layer.linear.cpu().state_dict().items()}
                save_file(tensors, folder / path / "model.safetensors")

    def __str__(self) -> str:
        dense = [f"a layer of {each.linear.out_features}" for each in self.layers if isinstance(each, Dense)]
        parts = [f"pooling {' and '.join(self.pooling)}", *dense]
        parts += ["normalised" if self.is_normalised else "not normalised"]
        parts += ["lower case"] * self.lower_case + [f"prompt {self.prompt!r}"] * bool(self.prompt)
        return ", ".join(parts)


def _weighted(hidden: Tensor, mask: Tensor) -> Tensor:
    weights = mask * torch.arange(1, hidden.shape[1] + 1, device=hidden.device, dtype=hidden.dtype).view(1, -1, 1)
    return (hidden * weights).sum(1) / weights.sum(1)


def _last(hidden: Tensor, mask: Tensor) -> Tensor:
    ends = mask.sum(1).long() - 1
    return hidden[torch.arange(len(hidden), device=hidden.device), ends[:, 0]]


POOLINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": lambda hidden, mask: (hidden * mask).sum(1) / mask.sum(1),
    "cls": lambda hidden, mask: hidden[:, 0],
    "max": lambda hidden, mask: hidden.masked_fill(mask == 0, float("-inf")).amax(1),
    "mean_sqrt_len_tokens": lambda hidden, mask: (hidden * mask).sum(1) / mask.sum(1).sqrt(),
    "weightedmean": _weighted,
    "lasttoken": _last,
}
assert set(POOLINGS) == set(get_args(Pooling))


def lower(tokenizer: PreTrainedTokenizerBase) -> None:
    """Make a tokenizer read texts in lower case, as sentence-transformers does it."""
    if tokenizer.is_fast:
        backend = tokenizer.backend_tokenizer
        after = [backend.normalizer] if backend.normalizer else []
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *after])


def follow(config: PretrainedConfig, recipe: Recipe) -> str | None:
    """Make a config pool for a head of texts as a checkpoint's own vectors are pooled, if its architecture can.

    Returns:
        What to say if it can't; None if there is nothing to say.
    """
    wanted = " and ".join(recipe.pooling)
    if getattr(config, "classifier_pooling", None) is not None and wanted in ("cls", "mean"):
        config.classifier_pooling = wanted
        return None
    if wanted == "cls":
        return None
    return (
        f"its sentence vectors are pooled by {wanted}, while the head of a {config.model_type} classifier reads the "
        "first token, from which a probe learns less; encoder: full or lora learns to use it, `embed` gives its vectors"
    )
