"""Fine-tuning's own attention: the same gradients, and nothing left of it outside the steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.models import product_attention
from mlm_pretrain.tasks import attention as module
from mlm_pretrain.tasks.attention import TrainingAttention
from mlm_pretrain.tasks.finetune import finetune
from mlm_pretrain.tasks.registered import TASKS
from tests.tasks.conftest import make_tokenizer, separable_texts
from tests.tasks.test_finetune import texts  # noqa: F401  (a fixture)

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


def model_of(name: str, tokenizer: PreTrainedTokenizerFast, **keys: Any) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **TINY, vocab_size=len(tokenizer), pad_token_id=0, num_labels=2, **keys)
    return AutoModelForSequenceClassification.from_config(config).eval()


@pytest.mark.parametrize("name", ["bert", "roberta", "electra", "modernbert"])
def test_a_step_has_the_gradients_of_the_models_own_attention(name: str) -> None:
    tokenizer = make_tokenizer("bpe")
    ids = {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3, "local_attention": 8}
    model = model_of(name, tokenizer, **(ids if name == "modernbert" else {}))
    adapter = TASKS["classification"](["bad", "good"], tokenizer, 64)
    features = adapter.encode([{"text": "the " * 40, "label": "bad"}, *separable_texts(6, seed=0)])
    batch = adapter.collate(features)
    attention = TrainingAttention(model, adapter, features)
    seen: list[str] = []
    model.register_forward_pre_hook(lambda module, _: seen.append(module.config._attn_implementation))

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        total, count, _ = adapter.loss(model, batch)
        (total / count).backward()
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    own = gradients()
    with attention.of_step(batch):
        other = gradients()
    assert seen == ["sdpa", product_attention.NAME]
    assert model.config._attn_implementation == "sdpa"
    for mine, theirs in zip(other, own, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_long_rows_and_other_attentions_keep_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = make_tokenizer("bpe")
    adapter = TASKS["classification"](["bad", "good"], tokenizer, 64)
    features = adapter.encode(separable_texts(4, seed=0))
    batch = adapter.collate(features)
    for name, keys, longest in (("bert", {}, 3), ("deberta-v2", {}, 256)):
        monkeypatch.setattr(module, "LONGEST_PRODUCT", longest)
        model = model_of(name, tokenizer, **keys)
        own = model.config._attn_implementation
        with TrainingAttention(model, adapter, features).of_step(batch):
            assert model.config._attn_implementation == own


def test_an_exported_model_has_its_own(texts: TaskConfig, encoder: Path, tmp_path: Path) -> None:  # noqa: F811
    finetune(texts.model_copy(update={"seeds": [0], "max_steps": 2}), encoder, tmp_path / "out")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert loaded.config._attn_implementation == "sdpa"
    assert product_attention.NAME not in (tmp_path / "out" / "config.json").read_text(encoding="utf-8")
