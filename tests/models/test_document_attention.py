"""The attention implementations that are registered here give what the model's own gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForMaskedLM, PreTrainedTokenizerFast

from mlm_pretrain.config import ObjectiveConfig
from mlm_pretrain.models.attention import documents as document_attention
from mlm_pretrain.models.attention import packed as packed_attention
from mlm_pretrain.models.attention import product as product_attention
from mlm_pretrain.models.attention.documents import NAME, Documents, Groups
from mlm_pretrain.models.attention.packed import document_starts, use_document_attention
from mlm_pretrain.models.masked_head import MaskedLogits, with_places
from mlm_pretrain.objectives.mlm import MaskedLM
from mlm_pretrain.objectives.random import RowRandom
from tests.models.test_models import PACKED, rows_of, tiny

LENGTH = 64
CPU = torch.device("cpu")


def batch_of(tokenizer: PreTrainedTokenizerFast, sizes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    random = np.random.default_rng(0)
    documents = [random.integers(5, len(tokenizer), size=size).tolist() for size in sizes]
    masked = MaskedLM(ObjectiveConfig(), tokenizer, LENGTH).corrupt(rows_of(documents, tokenizer, LENGTH), RowRandom(0))
    return with_places({name: torch.from_numpy(array) for name, array in masked.items()})


@pytest.mark.parametrize("attention", [NAME, product_attention.NAME])
@pytest.mark.parametrize("name", PACKED)
def test_loss_and_gradients_are_those_of_the_models_own_attention(
    name: str, attention: str, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_attention, "LONGEST_MASKED_ROW", 8)
    monkeypatch.setattr(document_attention, "LONGEST_PRODUCT", 16)  # longer ones take the fused kernel
    model = tiny(name, tokenizer, length=LENGTH)
    own = model.config._attn_implementation
    batch = batch_of(tokenizer, (64, 20, 19, 1, 23, 30, 2, 3, 14, 7, 7, 7))
    objective = MaskedLM(ObjectiveConfig(), tokenizer, LENGTH)
    forward = MaskedLogits(model, packing=True)

    def step() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        model.zero_grad()
        loss, count, _ = objective.loss(forward, batch)
        (loss / count).backward()
        return loss, {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}

    assert packed_attention.supports_packing(model)
    loss, gradients = step()
    if attention == NAME:
        assert use_document_attention(model, CPU, LENGTH, half=False)
    else:
        assert packed_attention.candidate_attentions(model, CPU) == [own, attention]
        model.set_attn_implementation(attention)
    assert own != model.config._attn_implementation == attention
    again, others = step()
    torch.testing.assert_close(again, loss, rtol=1e-5, atol=0)
    assert gradients.keys() == others.keys()
    for key, gradient in gradients.items():
        torch.testing.assert_close(others[key], gradient, rtol=1e-4, atol=1e-6, msg=key)


def test_short_rows_keep_their_mask(tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny("bert", tokenizer)
    assert not use_document_attention(model, CPU, 512, half=True)
    assert model.config._attn_implementation == "sdpa"


def test_a_model_that_does_not_hand_documents_on_keeps_its_mask(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("bert", tokenizer, length=LENGTH)
    forward = model.bert.encoder.layer[1].forward
    monkeypatch.setattr(model.bert.encoder.layer[1], "forward", lambda *a, documents=None, **k: forward(*a, **k))
    assert not use_document_attention(model, CPU, 1024, half=False)
    assert model.config._attn_implementation == "sdpa"


def test_an_exported_model_is_a_plain_one(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    model = tiny("modernbert", tokenizer, length=LENGTH)
    ids = torch.arange(5, 25)[None]
    with torch.inference_mode():
        expected = model(input_ids=ids).logits
        assert use_document_attention(model, CPU, 1024, half=False)
        model.save_pretrained(tmp_path)
        loaded = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
        assert loaded.config._attn_implementation == "sdpa"
        torch.testing.assert_close(loaded(input_ids=ids).logits, expected)
    assert NAME not in (tmp_path / "config.json").read_text(encoding="utf-8")


@given(st.lists(st.integers(1, 300), min_size=1, max_size=30))
def test_every_token_has_one_slot_and_little_is_empty(lengths: list[int]) -> None:
    groups = Groups(torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32))
    tokens = sum(lengths)
    assert groups.slots[groups.slot_of].tolist() == list(range(tokens))
    assert groups.slot_of.unique().numel() == tokens
    assert len(groups.slots) <= 1.25 * tokens
    assert sorted(length for _, part in groups.parts for length in part.tolist()) == sorted(lengths)


def test_documents_begin_where_segments_and_rows_do() -> None:
    segments = torch.tensor([[1, 1, 2, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
    assert document_starts(segments).tolist() == [0, 2, 3, 4, 8, 12]
    assert Documents(document_starts(segments), 4).groups.parts
