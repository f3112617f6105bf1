"""Isolation, the head on masked positions, and what models are built from: on several architectures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mlm_pretrain.config import ModelConfig, ObjectiveConfig
from mlm_pretrain.config.presets import preset_names
from mlm_pretrain.errors import UserError
from mlm_pretrain.models.attention.packed import model_inputs, supports_packing
from mlm_pretrain.models.build import build_model, make_model_config
from mlm_pretrain.models.masked_head import MaskedLogits
from mlm_pretrain.objectives.base import Rows
from mlm_pretrain.objectives.mlm import MaskedLM
from mlm_pretrain.objectives.random import RowRandom
from mlm_pretrain.stream.pack import Row, Segments, collate, pack

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "modernbert": {**TINY, "local_attention": 8},
    "bert": TINY,
    "roberta": TINY,
    "electra": {**TINY, "embedding_size": 32},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48},
    "albert": {**TINY, "embedding_size": 16},
    "eurobert": {**TINY, "num_key_value_heads": 1},
    "deberta-v2": {**TINY, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8},
}
PACKED = ("modernbert", "bert", "roberta", "electra", "eurobert")


def tiny(
    name: str, tokenizer: PreTrainedTokenizerFast, attention: str | None = None, length: int = 40
) -> PreTrainedModel:
    settings = ModelConfig(model_type=name, config=ARCHITECTURES[name], attn_implementation=attention)
    return build_model(settings, tokenizer, length).eval()


def rows_of(documents: list[list[int]], tokenizer: PreTrainedTokenizerFast, length: int, packing: bool = True) -> Rows:
    """Documents of these tokens in rows of a length, and at last a row of padding."""
    sizes = [len(ids) for ids in documents]
    ones = np.ones(len(documents), dtype=np.int32)
    segments = Segments(np.concatenate(documents), np.concatenate([[0], np.cumsum(sizes)]), ones, ones)
    block = pack(segments, length, packing)
    rows = [*(Row(block, number, 0) for number in range(len(block))), None]
    return collate(rows, length, int(tokenizer.pad_token_id), range(len(rows)), 0)


def masked_batch(tokenizer: PreTrainedTokenizerFast, packing: bool = True, **objective: Any) -> dict[str, torch.Tensor]:
    generator = np.random.default_rng(0)
    documents = [
        [tokenizer.cls_token_id, *generator.integers(5, len(tokenizer), size=size).tolist(), tokenizer.sep_token_id]
        for size in (12, 20, 7, 30, 9)
    ]
    rows = rows_of(documents, tokenizer, 40, packing)
    masked = MaskedLM(ObjectiveConfig(**objective), tokenizer, 40).corrupt(rows, RowRandom(0))
    return {name: torch.from_numpy(array) for name, array in masked.items()}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", PACKED)
def test_a_documents_logits_do_not_depend_on_its_neighbours(
    name: str, attention: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = tiny(name, tokenizer, attention)
    assert model.config._attn_implementation == attention
    assert supports_packing(model)
    batch = masked_batch(tokenizer)
    with torch.inference_mode():
        packed = model(**model_inputs(model, batch, packing=True)).logits
        for row in range(len(packed)):
            for number in range(1, int(batch["segment_ids"][row].max()) + 1):
                place = batch["segment_ids"][row] == number
                alone = model(input_ids=batch["input_ids"][row][place][None]).logits[0]
                torch.testing.assert_close(packed[row][place], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_row_of_padding_adds_nothing(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    """Such rows stand where a lane's text has ended."""
    model = tiny(name, tokenizer)
    packing = supports_packing(model)
    batch = masked_batch(tokenizer, packing)
    objective = MaskedLM(ObjectiveConfig(), tokenizer, 40)
    forward = MaskedLogits(model, packing)

    def gradients(size: int) -> list[torch.Tensor]:
        model.zero_grad()
        loss, _, _ = objective.loss(forward, {name: tensor[:size] for name, tensor in batch.items()})
        loss.backward()
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    rows = len(batch["input_ids"])
    for whole, without in zip(gradients(rows), gradients(rows - 1), strict=True):
        torch.testing.assert_close(whole, without, rtol=1e-4, atol=1e-5)


def test_a_model_that_can_not_isolate_documents_is_not_given_packed_rows(tokenizer: PreTrainedTokenizerFast) -> None:
    assert not supports_packing(tiny("deberta-v2", tokenizer))


@pytest.mark.parametrize("name", ["roberta", "mpnet", "roberta-prelayernorm"])
def test_rows_of_full_length_have_positions(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    settings = ModelConfig(model_type=name, config={**TINY, "max_position_embeddings": 43})
    model = build_model(settings, tokenizer, 41).eval()
    packing = supports_packing(model)
    row = rows_of([list(range(5, 46))], tokenizer, 41)
    batch = {key: torch.from_numpy(getattr(row, key))[:1] for key in ("input_ids", "segment_ids", "position_ids")}
    assert model(**model_inputs(model, batch, packing)).logits.shape == (1, 41, len(tokenizer))


@pytest.mark.parametrize("mask_count", ["bernoulli", "exact"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_head_on_masked_positions_gives_the_loss_and_gradients_of_the_full_head(
    name: str, mask_count: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = tiny(name, tokenizer)
    batch = masked_batch(tokenizer, mask_count=mask_count)
    packing = name in PACKED
    objective = MaskedLM(ObjectiveConfig(mask_count=mask_count), tokenizer, 40)

    full = model(**model_inputs(model, batch, packing)).logits.float()
    expected = torch.nn.functional.cross_entropy(full.flatten(0, 1), batch["labels"].flatten(), reduction="sum")
    expected.backward()
    gradients = {key: value.grad.clone() for key, value in model.named_parameters() if value.grad is not None}

    model.zero_grad()
    forward = MaskedLogits(model, packing)
    loss, count, _ = objective.loss(forward, batch)
    loss.backward()
    forward.close()
    assert int(count) == int((batch["labels"] != -100).sum()) > 0
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    for key, value in model.named_parameters():
        if value.grad is not None:
            torch.testing.assert_close(value.grad, gradients[key], rtol=1e-3, atol=1e-5, msg=key)
    assert model(**model_inputs(model, batch, packing)).logits.shape == full.shape  # the hook is gone


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_configs_of_stock_models(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    config = make_model_config(ModelConfig(preset=name), tokenizer, 512)
    assert config.vocab_size == len(tokenizer)
    assert config.pad_token_id == tokenizer.pad_token_id
    assert config.max_position_embeddings >= 512 + (tokenizer.pad_token_id + 1 if name == "roberta-base" else 0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"preset": "tiny"}, "there is no preset 'tiny'"),
        ({"model_type": "modernbrt"}, "did you mean 'modernbert'?"),
        ({"model_type": "gpt2"}, "no masked-LM class"),
        ({"model_type": "bert", "config": {"hiden_size": 3}}, "did you mean 'hidden_size'?"),
        ({"model_type": "bert", "config": {"hidden_size": 30, "num_attention_heads": 4}}, "model.config"),
        ({"model_type": "bert", "config": {"max_position_embeddings": 16}}, "max_position_embeddings: 16 is less"),
        ({"path": "/no/such/checkpoint"}, "model.path: /no/such/checkpoint: there is no such folder"),
    ],
)
def test_a_model_that_can_not_be_built_is_one_line(
    settings: dict[str, Any], said: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(UserError) as raised:
        build_model(ModelConfig(**settings), tokenizer, 64)
    assert said in str(raised.value)


def test_continuing_a_checkpoint(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    model = tiny("bert", tokenizer)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = build_model(ModelConfig(path=str(tmp_path)), tokenizer, 40, seed=5)
    for (name, old), new in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        torch.testing.assert_close(old, new, rtol=0, atol=0, msg=name)

    from mlm_pretrain.text.tokenizing.tokenizer import load_tokenizer

    grown = load_tokenizer(str(tmp_path), add_tokens=["neologism", "portmanteau"])
    assert build_model(ModelConfig(path=str(tmp_path)), grown, 40).config.vocab_size == len(tokenizer) + 2

    with pytest.raises(UserError, match="is more than the"):
        build_model(ModelConfig(path=str(tmp_path)), tokenizer, 1024)


def test_another_vocabulary_than_the_checkpoints_is_refused(
    tokenizer: PreTrainedTokenizerFast, documents: list[str], tmp_path: Path
) -> None:
    from mlm_pretrain.config import TokenizerConfig
    from mlm_pretrain.text.tokenizing.tokenizer import train_tokenizer

    tiny("bert", tokenizer).save_pretrained(tmp_path)
    other = train_tokenizer(TokenizerConfig(vocab_size=650), documents)
    assert len(other) > len(tokenizer)
    with pytest.raises(UserError, match="its highest id is 649"):
        build_model(ModelConfig(path=str(tmp_path)), other, 40)
    tokenizer.save_pretrained(tmp_path)
    other = train_tokenizer(TokenizerConfig(vocab_size=600, algorithm="wordpiece"), documents)
    with pytest.raises(UserError, match=r"not that of model\.path"):
        build_model(ModelConfig(path=str(tmp_path)), other, 40)


def test_a_damaged_checkpoint_is_one_line(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tiny("bert", tokenizer).save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="can't be loaded"):
        build_model(ModelConfig(path=str(tmp_path)), tokenizer, 40)


@pytest.mark.parametrize("name", ["bert", "electra", "distilbert", "modernbert"])
def test_a_new_head_is_said_when_it_is_trained(
    name: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sentence encoders, and the discriminators of ELECTRA, have none for masked words."""
    torch.manual_seed(0)
    whole = tiny(name, tokenizer)
    whole.save_pretrained(tmp_path / "whole")
    whole.base_model.save_pretrained(tmp_path / "bare")
    for place in ("whole", "bare"):
        tokenizer.save_pretrained(tmp_path / place)
    build_model(ModelConfig(path=str(tmp_path / "whole")), tokenizer, 40, announce=True)
    build_model(ModelConfig(path=str(tmp_path / "bare")), tokenizer, 40)  # a resumed run has its head
    assert capsys.readouterr().err.count("masked-LM head") == 0
    build_model(ModelConfig(path=str(tmp_path / "bare")), tokenizer, 40, announce=True)
    said = capsys.readouterr().err
    assert said.count("the checkpoint has no masked-LM head") == 1
    assert "the loss begins at that of guessing, ln 600 = 6.4, or above" in said
