"""Layers that pass embeddings on: which weights they are, and that a model predicts by its embeddings at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from mlm_pretrain.config import ModelConfig
from mlm_pretrain.models.build import build_model
from mlm_pretrain.models.initialisation.pathways import HEAD, PASSED, pass_embeddings_on
from tests.models.test_initialisation import assert_differs_by_an_identity
from tests.models.test_models import ARCHITECTURES, tiny

CHANGED = {
    "modernbert": (["attn.Wqkv", "attn.Wo"], ["head.dense"]),
    "bert": (["attention.self.value", "attention.output.dense"], ["cls.predictions.transform.dense"]),
    "roberta": (["attention.self.value", "attention.output.dense"], ["lm_head.dense"]),
    "electra": (["attention.self.value", "attention.output.dense"], ["generator_predictions.dense"]),
    "distilbert": (["attention.v_lin", "attention.out_lin"], ["vocab_transform"]),
    "albert": (["attention.value", "attention.dense"], []),  # its head is narrower than its layers
    "eurobert": ([], []),  # heads share their values, and the head has no layer of its own
    "deberta-v2": (["attention.self.value_proj", "attention.output.dense"], ["cls.predictions.transform.dense"]),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_values_outputs_and_the_head_get_an_identity(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    model, before = tiny(name, tokenizer), tiny(name, tokenizer).state_dict()
    in_layers, in_head = CHANGED[name]
    layers = pass_embeddings_on(model)
    assert layers == (0 if not in_layers else 1 if name == "albert" else 2)
    added = {
        place: assert_differs_by_an_identity(new, before[place])
        for place, new in model.state_dict().items()
        if not torch.equal(new, before[place])
    }
    assert len(added) == 2 * layers + len(in_head)
    for place, value in added.items():
        layer = place.removesuffix(".weight")
        if any(layer.endswith(end) for end in in_layers):
            assert value == pytest.approx(1.0)  # of so few layers
        else:
            assert layer in in_head and value == pytest.approx(HEAD)


def test_deep_models_pass_on_as_much_in_all(tokenizer: PreTrainedTokenizerFast) -> None:
    config = {**ARCHITECTURES["modernbert"], "num_hidden_layers": 16}
    settings = ModelConfig(model_type="modernbert", config=config)
    model, before = (build_model(settings, tokenizer, 40) for _ in range(2))
    assert pass_embeddings_on(model) == 16
    products = 0.0
    for new, old in zip(model.model.layers, before.model.layers, strict=True):
        values = assert_differs_by_an_identity(new.attn.Wqkv.weight.detach(), old.attn.Wqkv.weight.detach())
        products += values * assert_differs_by_an_identity(new.attn.Wo.weight.detach(), old.attn.Wo.weight.detach())
    assert products == pytest.approx(PASSED)


@pytest.mark.parametrize("name", ["modernbert", "bert", "roberta", "distilbert", "deberta-v2"])
def test_a_new_model_predicts_words_like_those_around(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    """Tokens of two kinds, each around a direction of its own: the kind of the context is that of the likeliest."""
    model = tiny(name, tokenizer)
    weight = model.get_input_embeddings().weight.detach()
    random = np.random.default_rng(0)
    kinds = torch.from_numpy(random.permutation(np.arange(len(weight)) % 2))
    directions = torch.from_numpy(random.standard_normal((2, weight.shape[1]), dtype=np.float32))
    noise = torch.from_numpy(random.standard_normal(weight.shape, dtype=np.float32))
    weight.copy_(0.05 * (directions[kinds] + noise))

    def share_of_kind() -> float:
        """Of the ten likeliest tokens at a mask, those of the context's kind."""
        shares = []
        for kind in (0, 1):
            context = random.permutation(np.flatnonzero((kinds == kind).numpy()))[:9]
            ids = torch.from_numpy(np.insert(context, 4, tokenizer.mask_token_id))[None]
            with torch.inference_mode():
                best = model(input_ids=ids).logits[0, 4].topk(10).indices
            shares.append(float((kinds[best] == kind).float().mean()))
        return sum(shares) / 2

    assert share_of_kind() < 0.8
    pass_embeddings_on(model)
    assert share_of_kind() > 0.9
