"""How the weights of a new model begin, beyond what its architecture draws: a part is a function in `INITIALISATIONS`.

It changes a model in place, from a sample of the text that the model is about to be trained on. Its randomness is its
own: whatever it leaves alone has the weights that it has without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mlm_pretrain.config import ModelConfig
from mlm_pretrain.models.initialisation.cooccurrence import token_vectors
from mlm_pretrain.models.initialisation.pathways import pass_embeddings_on
from mlm_pretrain.registry import Registry

EMBEDDING_STD = 0.05
"""Of the values of an embedding that begins from statistics, whatever the architecture's `initializer_range`."""


@dataclass(frozen=True)
class TextSample:
    """Segments of training text, one after another. A segment is a document, or a part of one."""

    ids: np.ndarray
    """[tokens] int32, special tokens included."""
    lengths: np.ndarray
    """[segments] int32: tokens of each segment."""
    ordinary: np.ndarray
    """[ordinary tokens of the vocabulary] int64: the ids that are text."""

    @property
    def tokens(self) -> int:
        return len(self.ids)


Initialisation = Callable[[PreTrainedModel, PreTrainedTokenizerBase, TextSample, int], dict[str, Any]]
"""Changes a new model in place: model, tokenizer, sample, seed → what it did, plain JSON for the run's records."""

INITIALISATIONS = Registry[Initialisation]("initialisation", key="model.init_embeddings")

AUTO, RANDOM = "auto", "random"


def chosen_initialisation(settings: ModelConfig) -> str:
    """The name of the model's initialisation; `random` if its architecture's own is all."""
    if settings.init_embeddings != AUTO:
        return settings.init_embeddings
    return RANDOM if settings.path or settings.init_from else "cooccurrence"


@INITIALISATIONS.register(RANDOM)
def random(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sample: TextSample, seed: int) -> dict[str, Any]:
    """Leave the model as its architecture draws it."""
    return {}


@INITIALISATIONS.register("cooccurrence")
@torch.no_grad()
def cooccurrence(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sample: TextSample, seed: int
) -> dict[str, Any]:
    """Begin the embeddings of tokens with vectors of co-occurrence statistics (`cooccurrence.py` here; Levy & Goldberg,
    NIPS 2014), and the layers so that they pass these on (`pathways.py`).

    Related: fastText vectors before MLM (TSD 2025); that vectors from elsewhere have to be scaled to a narrow range
    (arXiv 2407.12514).

    All rows of ordinary tokens get the same norm; those of tokens that are rare in the sample have a random direction.
    Special tokens keep their rows, and padding that is zero stays so. An output embedding of its own gets the same
    rows if it is as wide.
    """
    weight = model.get_input_embeddings().weight
    size = weight.shape[1]
    text = np.zeros(len(weight), dtype=bool)
    text[sample.ordinary] = True
    ids = np.where(text[sample.ids], sample.ids, -1)
    segments = np.repeat(np.arange(len(sample.lengths), dtype=np.int32), sample.lengths)
    tokens, vectors = token_vectors(ids, segments, len(weight), size, seed)
    rows = np.random.default_rng([seed, 1]).standard_normal((len(weight), size), dtype=np.float32)
    rows[tokens] = np.where(np.any(vectors, axis=1, keepdims=True), vectors, rows[tokens])
    rows *= EMBEDDING_STD * np.sqrt(size) / np.linalg.norm(rows, axis=1, keepdims=True)
    places = torch.from_numpy(sample.ordinary).to(weight.device)
    new = torch.from_numpy(rows[sample.ordinary]).to(weight)
    weight[places] = new
    head = model.get_output_embeddings()
    if head is not None and head.weight is not weight and head.weight.shape == weight.shape:
        head.weight[places] = new
    return {"tokens_with_vectors": len(tokens), "layers_that_pass_on": pass_embeddings_on(model)}
