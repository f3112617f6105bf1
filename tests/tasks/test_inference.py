"""The forward passes: whatever the batches and the products are made with, each row has its own logits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

from mlm_pretrain.tasks.inference import linear
from mlm_pretrain.tasks.inference.logits import by_length, logits_of
from mlm_pretrain.tasks.kinds.registered import TASKS
from tests.tasks.conftest import separable_texts, tiny_masked_lm


@given(
    st.lists(st.integers(1, 40), max_size=60),
    st.integers(1, 9),
    st.none() | st.integers(1, 100),
)
def test_batches_by_length(lengths: list[int], batch_size: int, max_tokens: int | None) -> None:
    features = [{"input_ids": [5] * length} for length in lengths]
    batches = list(by_length(features, batch_size, max_tokens))
    assert sorted(number for batch in batches for number in batch) == list(range(len(lengths)))
    longest = [max(lengths[number] for number in batch) for batch in batches]
    assert longest == sorted(longest, reverse=True)
    room = min(batch_size * max(lengths, default=0), max_tokens or 10**9)
    for batch, most in zip(batches, longest, strict=True):
        assert len(batch) == 1 or len(batch) * most <= room
    assert not batches or max_tokens or len(batches[0]) >= min(batch_size, len(lengths))


@pytest.mark.parametrize("model_type", ["bert", "modernbert"])
def test_logits_are_those_of_each_text_alone(bpe: PreTrainedTokenizerFast, model_type: str, tmp_path: Path) -> None:
    tiny_masked_lm(model_type, len(bpe)).save_pretrained(tmp_path)
    kind = TASKS["classification"]
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    adapter = kind(["a", "b"], bpe, 64)
    texts = [row["text"] * (1 + number % 4) for number, row in enumerate(separable_texts(50, seed=2))]
    features = adapter.encode([{"text": text} for text in texts])
    for batch_size in (1, 4, 64):
        for text, row in zip(texts, logits_of(adapter, model, features, batch_size), strict=True):
            with torch.inference_mode():
                alone = model(**bpe(text, truncation=True, max_length=64, return_tensors="pt")).logits[0]
            torch.testing.assert_close(torch.from_numpy(row), alone, rtol=1e-4, atol=1e-5)
    rounded = logits_of(adapter, model, features, 4, bf16=True)
    exact = logits_of(adapter, model, features, 4)
    assert all(0 < abs(ours - theirs).max() < 0.05 for ours, theirs in zip(rounded, exact, strict=True))


def test_fast_linear_layers_compute_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "onednn_is_faster", lambda: True)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3, bias=False))
    used = []
    product = linear._product
    monkeypatch.setattr(linear, "_product", lambda *arguments: used.append(1) or product(*arguments))
    wide = torch.randn(4, 5, 12)
    for rows in (wide[0, 0, :6], wide[..., :6], wide[..., ::2], wide[:, 0, 6:], wide[:0, 0, :6]):
        with torch.inference_mode():
            expected = model(rows)
            with linear.fast_linear(model):
                torch.testing.assert_close(model(rows), expected, rtol=1e-5, atol=1e-6)
    assert len(used) == 8  # not for no rows at all
    with linear.fast_linear(model):  # neither where gradients are wanted, nor in autocast
        model(wide[0, :, :6]).sum().backward()
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            assert model(wide[0, :, :6]).dtype == torch.bfloat16
    assert model[0].weight.grad is not None and len(used) == 8
    with pytest.raises(RuntimeError), linear.fast_linear(model), torch.inference_mode():
        model(wide)
    assert "forward" not in vars(model[0]) and "forward" not in vars(model[2])
