"""Layer-wise learning rates on the architectures that users bring."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.runtime.optim import make_optimizer, set_learning_rate
from mlm_pretrain.tasks.fit.layers import decay_rates

DECAY = 0.5
LAYERS = {
    "bert": "bert.encoder.layer",
    "roberta": "roberta.encoder.layer",
    "distilbert": "distilbert.transformer.layer",
    "electra": "electra.encoder.layer",
    "deberta-v2": "deberta.encoder.layer",
    "modernbert": "model.layers",
    "albert": "albert.encoder.albert_layer_groups",
}


def tiny(model_type: str) -> PreTrainedModel:
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "vocab_size": 50,
        "max_position_embeddings": 32,
    }
    more = {
        "distilbert": {"dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 16},
        "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "norm_rel_ebd": "layer_norm"},
        "electra": {"embedding_size": 8},
        "albert": {"embedding_size": 8},
        "modernbert": {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2},
    }
    if model_type == "distilbert":
        sizes = {key: sizes[key] for key in ("vocab_size", "max_position_embeddings")}
    config = AutoConfig.for_model(model_type, **sizes, **more.get(model_type, {}))
    return AutoModelForSequenceClassification.from_config(config)


@pytest.mark.parametrize("optim", ["adamw", "stable_adamw"])
@pytest.mark.parametrize("model_type", LAYERS)
def test_rates_fall_from_the_head_to_the_embeddings(model_type: str, optim: str) -> None:
    model = tiny(model_type)
    settings = TaskConfig(task="classification", name="x", optim=optim, weight_decay=0.1, learning_rate=1e-2)
    optimizer = make_optimizer(model, settings)
    before = {parameter: group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    decay_rates(optimizer, model, DECAY)

    placed = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert len(placed) == len(set(placed)) and set(placed) == set(model.parameters())
    after = {parameter: group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    assert after == before and set(after.values()) == {0.1, 0.0}

    set_learning_rate(optimizer, 1e-2)
    rates = {parameter: group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    stack, depth = LAYERS[model_type], 1 if model_type == "albert" else 3
    for name, parameter in model.named_parameters():
        if name.startswith(f"{stack}."):
            layer = int(name.removeprefix(f"{stack}.").split(".")[0])
            steps = depth - layer
        elif "embedding" in name:
            steps = depth + 1
        elif name.startswith(f"{model.base_model_prefix}.") and "pooler" not in name:
            steps = 1
        else:
            steps = 0
        assert rates[parameter] == pytest.approx(1e-2 * DECAY**steps), name
    tokens = model.get_input_embeddings().weight
    assert rates[tokens] == min(rates.values()) == pytest.approx(1e-2 * DECAY ** (depth + 1))
    assert rates[list(model.classifier.parameters())[-1]] == 1e-2


def test_a_step_follows_the_rates() -> None:
    """With Adam's first step every weight moves by its learning rate."""
    torch.manual_seed(0)
    model = tiny("bert").eval()
    settings = TaskConfig(task="classification", name="x", learning_rate=3e-4, weight_decay=0.0, adam_epsilon=1e-12)
    optimizer = make_optimizer(model, settings)
    decay_rates(optimizer, model, DECAY)
    set_learning_rate(optimizer, 1e-2)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    model(input_ids=torch.tensor([[3, 4, 5]])).logits.square().sum().backward()
    optimizer.step()
    moved = {name: (parameter - before[name]).abs().max().item() for name, parameter in model.named_parameters()}
    assert moved["classifier.weight"] == pytest.approx(1e-2, rel=1e-2)
    assert moved["bert.encoder.layer.2.output.dense.weight"] == pytest.approx(5e-3, rel=1e-2)
    assert moved["bert.encoder.layer.0.output.dense.weight"] == pytest.approx(1.25e-3, rel=1e-2)
    assert moved["bert.embeddings.word_embeddings.weight"] == pytest.approx(6.25e-4, rel=1e-2)
