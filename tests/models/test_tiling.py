"""Larger models from smaller ones: nothing is left at random, heads and fused parts stay whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedModel

from mlm_pretrain import stages
from mlm_pretrain.config import ModelConfig, TokenizerConfig
from mlm_pretrain.config_file import make_config
from mlm_pretrain.errors import UserError
from mlm_pretrain.models.build import build_model
from mlm_pretrain.models.initialisation.tiling import tile
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.text.tokenizing.tokenizer import load_tokenizer, train_tokenizer
from mlm_pretrain.training.loop import pretrain
from tests.conftest import tiny_config

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 60,
    "pad_token_id": 1,
    "max_position_embeddings": 24,
}
LARGE = {"hidden_size": 48, "num_hidden_layers": 5, "num_attention_heads": 3, "intermediate_size": 80}
ARCHITECTURES = ("bert", "modernbert", "roberta", "deberta-v2", "distilbert", "albert")


def make(name: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A model all of whose weights are noise, norms and biases too."""
    settings = {**SMALL, **changes}
    if name == "modernbert":
        settings["local_attention"] = 8
    if name == "distilbert":
        settings["hidden_dim"] = settings["intermediate_size"]
    if name == "albert":
        settings["embedding_size"] = 16
    torch.manual_seed(seed)
    config = AutoConfig.for_model(name, **settings)
    model = AutoModelForMaskedLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1)
    return model


def logits(model: PreTrainedModel) -> torch.Tensor:
    tokens = torch.arange(5, 21)[None]
    with torch.inference_mode():
        return model(input_ids=tokens).logits


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_model_of_the_same_shape_gives_the_same_logits(name: str) -> None:
    small, same = make(name), make(name, seed=1)
    assert not torch.equal(logits(small), logits(same))
    tile(small, same)
    assert torch.equal(logits(small), logits(same))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_no_weight_of_the_larger_model_is_left_at_random(name: str) -> None:
    small, large = make(name), make(name, seed=1, **LARGE)
    tile(small, large)
    numbers = torch.cat([tensor.flatten() for tensor in small.state_dict().values()])
    for key, tensor in large.state_dict().items():
        assert torch.isin(tensor, numbers).all(), key
    assert torch.isfinite(logits(large)).all()
    assert large.state_dict().keys() == make(name, **LARGE).state_dict().keys()


def test_layers_are_taken_by_depth_and_indices_wrap() -> None:
    small, large = make("bert", num_hidden_layers=3), make("bert", **LARGE)
    tile(small, large)
    for layer, source in enumerate([0, 1, 1, 2, 2]):  # round(3 i / 5)
        dense = [model.bert.encoder.layer[at].intermediate.dense for model, at in ((small, source), (large, layer))]
        rows, columns = torch.arange(80) % 48, torch.arange(48) % 32
        assert torch.equal(dense[1].weight, dense[0].weight[rows][:, columns])
        assert torch.equal(dense[1].bias, dense[0].bias[rows])
    assert torch.equal(large.cls.predictions.bias, small.cls.predictions.bias)
    assert large.cls.predictions.decoder.weight is large.bert.embeddings.word_embeddings.weight


def test_the_last_layer_stays_within_the_smaller_model() -> None:
    small, large = make("bert", num_hidden_layers=1), make("bert", **LARGE)  # round(4 / 5) is 1
    tile(small, large)
    assert torch.isfinite(logits(large)).all()


def test_parts_of_a_fused_projection_and_heads_stay_whole() -> None:
    small, large = make("modernbert"), make("modernbert", seed=1, **LARGE)
    tile(small, large)
    old, new = small.model.layers[0], large.model.layers[0]
    columns = torch.arange(48) % 32
    old_heads = old.attn.Wqkv.weight[:, columns].view(3, 2, 16, 48)
    assert torch.equal(new.attn.Wqkv.weight.view(3, 3, 16, 48), old_heads[:, [0, 1, 0]])
    assert torch.equal(
        new.mlp.Wi.weight.view(2, 80, 48), old.mlp.Wi.weight[:, columns].view(2, 48, 48)[:, torch.arange(80) % 48]
    )
    # The first layer has no norm before its attention: the second of the larger model takes the next one's.
    assert torch.equal(large.model.layers[1].attn_norm.weight, small.model.layers[1].attn_norm.weight[columns])


@pytest.mark.parametrize(("name", "first"), [("bert", 0), ("roberta", 2)])
def test_further_positions_repeat_those_of_tokens(name: str, first: int) -> None:
    small, large = make(name), make(name, seed=1, max_position_embeddings=60)
    tile(small, large)
    old, new = (model.base_model.embeddings.position_embeddings.weight for model in (small, large))
    assert torch.equal(new[:24], old)
    assert torch.equal(new[24 : 48 - first], old[first:])


@pytest.mark.parametrize(
    ("small", "large", "said"),
    [
        (("bert", {}), ("roberta", {}), "a bert can't fill a roberta"),
        (("bert", {}), ("bert", {"vocab_size": 61}), "60 embeddings of tokens, the model 61"),
        (("bert", {}), ("bert", {"num_attention_heads": 4}), "heads are 16 wide, the model's 8"),
        (("bert", {}), ("bert", {"num_hidden_layers": 1}), "it has 2 layers, the model only 1"),
        (("bert", {}), ("bert", {"intermediate_size": 40}), r"is \(48, 32\) there and \(40, 32\) here"),
        (("modernbert", {}), ("modernbert", {"mlp_bias": True}), "only one of the two models has .*mlp.W[io].bias"),
    ],
)
def test_models_that_do_not_fit_are_one_line(
    small: tuple[str, dict[str, Any]], large: tuple[str, dict[str, Any]], said: str
) -> None:
    with pytest.raises(UserError, match=f"^model.init_from: .*{said}"):
        tile(make(small[0], **small[1]), make(large[0], **large[1]))


def test_a_larger_model_begins_with_a_smaller_run(corpus: Path, tmp_path: Path) -> None:
    """Its tokenizer is the smaller one's; resumed, it goes on with its own weights."""
    config = tiny_config(corpus, tmp_path)
    stages.train_tokenizer(config)
    run = RunDirectory.of(config)
    pretrain(config, run)

    sizes = {"hidden_size": 48, "num_attention_heads": 3, "num_hidden_layers": 3, "intermediate_size": 64}
    model = {"init_from": str(run.model), "config": {**sizes, "local_attention": 16}}
    larger = tiny_config(corpus, tmp_path / "larger", model=model, tokenizer={"vocab_size": 500})
    stages.train_tokenizer(larger)
    tokenizer = load_tokenizer(str(RunDirectory.of(larger).tokenizer))
    assert len(tokenizer) == 600
    begun = build_model(larger.model, tokenizer, 48)
    small = build_model(ModelConfig(path=str(run.model)), tokenizer, 48)
    expected = small.model.embeddings.tok_embeddings.weight[:, torch.arange(48) % 32]
    assert torch.equal(begun.model.embeddings.tok_embeddings.weight, expected)
    pretrain(larger, RunDirectory.of(larger))

    with pytest.raises(UserError, match=r"not that of model\.init_from"):
        build_model(larger.model, train_tokenizer(TokenizerConfig(vocab_size=400), ["a few words", "more"] * 9), 48)
    with pytest.raises(UserError, match="init_from fills a new model"):
        make_config({"model": {"path": "a", "init_from": "b"}})
