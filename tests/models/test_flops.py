"""What is counted without weights equals the formulas, and what a model with weights really keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from mlm_pretrain.config import ModelConfig, OptimizerSection
from mlm_pretrain.config.presets import preset_names
from mlm_pretrain.errors import UserError
from mlm_pretrain.models.attention import product as product_attention
from mlm_pretrain.models.build import build_model, make_model_config
from mlm_pretrain.models.flops import (
    count_flops,
    count_parameters,
    meta_model,
    optimizer_step,
    saved_bytes,
    weightless,
)
from mlm_pretrain.runtime.optim import make_optimizer

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "modernbert": {**TINY, "local_attention": 8},
    "bert": TINY,
    "roberta": TINY,
    "electra": {**TINY, "embedding_size": 32},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48},
    "albert": {**TINY, "embedding_size": 16},
    "deberta-v2": {**TINY, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8},
    "megatron-bert": TINY,
}
LENGTH, LABELS = 40, 6


def settings_of(name: str) -> ModelConfig:
    return ModelConfig(model_type=name, config=ARCHITECTURES[name])


@pytest.mark.parametrize("name", ["bert", "modernbert"])
def test_the_count_is_the_formula(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    """6 a matrix parameter (arXiv 2001.08361), attention over whole rows, the head at its share of the positions."""
    model = meta_model(make_model_config(settings_of(name), tokenizer, LENGTH))
    inside = {id(module) for module in model.base_model.modules()}
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    encoder = sum(layer.weight.numel() for layer in linear if id(layer) in inside)
    head = sum(layer.weight.numel() for layer in linear if id(layer) not in inside)
    attention = 4 * LENGTH * TINY["hidden_size"] * TINY["num_hidden_layers"]
    flops = count_flops(model, LENGTH, LABELS)
    assert flops.encoder_forward == 2 * encoder + attention
    assert flops.encoder_backward == 2 * flops.encoder_forward
    assert flops.head_forward == pytest.approx(2 * head * LABELS / LENGTH)
    assert flops.head_backward == pytest.approx(2 * flops.head_forward)
    assert flops.training == pytest.approx(6 * encoder + 3 * attention + 6 * head * LABELS / LENGTH)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures_are_counted_as_they_are_trained(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    model = meta_model(make_model_config(settings_of(name), tokenizer, LENGTH))
    assert all(parameter.is_meta for parameter in model.parameters())
    few, many = (count_flops(model, LENGTH, labels) for labels in (LABELS, 2 * LABELS))
    assert 0 < few.encoder_forward < few.encoder_backward
    assert few.encoder == many.encoder
    assert many.head == pytest.approx(2 * few.head)
    assert count_parameters(model).total == build_model(settings_of(name), tokenizer, LENGTH).num_parameters()


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_counted(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    model = meta_model(make_model_config(ModelConfig(preset=name), tokenizer, 64))
    parameters = count_parameters(model)
    # 6 a parameter is the rule of thumb; attention and the head come on top.
    assert 1 < count_flops(model, 64, 9).training / (6 * parameters.encoder) < 1.5


def test_what_can_not_be_counted_is_one_line(tokenizer: PreTrainedTokenizerFast) -> None:
    config = make_model_config(ModelConfig(model_type="xlm", config={"emb_dim": 32, "n_layers": 1}), tokenizer, LENGTH)
    with pytest.raises(UserError, match="xlm can't be counted without its weights"):
        count_flops(meta_model(config), LENGTH, LABELS)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", ["bert", "modernbert"])
def test_saved_bytes_are_those_that_a_real_forward_pass_saves(
    name: str, dtype: torch.dtype, attention: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    with weightless(meta_model(make_model_config(settings_of(name), tokenizer, LENGTH), attention)) as stand_in:
        counted = saved_bytes(stand_in, 3, LENGTH, dtype)
    settings = settings_of(name).model_copy(update={"attn_implementation": attention})
    model = build_model(settings, tokenizer, LENGTH).train()
    own = {parameter.data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    autocast = torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16)
    with autocast, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model.base_model(input_ids=torch.full((3, LENGTH), 7))
    assert counted == sum(storage.nbytes() for storage in kept.values()) > 0
    del output


def test_checkpointing_keeps_less(tokenizer: PreTrainedTokenizerFast) -> None:
    config = make_model_config(settings_of("modernbert"), tokenizer, LENGTH)
    kept = []
    for checkpointing in (False, True):
        with weightless(meta_model(config)) as stand_in:
            kept.append(saved_bytes(stand_in, 3, LENGTH, torch.float32, checkpointing))
    assert 0 < kept[1] < kept[0] / 3


@pytest.mark.parametrize("optim", ["adamw", "muon"])
def test_an_optimizers_state_is_as_large_as_it_really_gets(optim: str, tokenizer: PreTrainedTokenizerFast) -> None:
    settings = OptimizerSection(optim=optim)
    with weightless(meta_model(make_model_config(settings_of("bert"), tokenizer, LENGTH))) as stand_in:
        counted, flops = optimizer_step(make_optimizer(stand_in, settings), stand_in)
    model = build_model(settings_of("bert"), tokenizer, LENGTH)
    optimizer = make_optimizer(model, settings)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    tensors = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    assert counted == sum(tensor.nbytes for tensor in tensors)
    assert (flops > 0) == (optim == "muon")


def test_counting_leaves_a_live_model_as_it_is(tokenizer: PreTrainedTokenizerFast) -> None:
    model = build_model(ModelConfig(model_type="bert", config=TINY), tokenizer, 40)
    model.set_attn_implementation(product_attention.NAME)
    count_flops(meta_model(model.config), 40, 6)
    assert model.config._attn_implementation == product_attention.NAME
