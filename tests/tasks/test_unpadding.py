"""Fine-tuning without padding: the same gradients, and nothing left of it outside the steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.models.attention import documents as document_attention
from mlm_pretrain.tasks.adapter import Feature, TaskAdapter
from mlm_pretrain.tasks.fit.finetune import finetune
from mlm_pretrain.tasks.fit.unpadding import Unpadding
from mlm_pretrain.tasks.kinds.registered import TASKS
from tests.tasks.conftest import make_tokenizer, separable_texts
from tests.tasks.test_finetune import texts  # noqa: F401  (a fixture)

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


def model_of(name: str, tokenizer: PreTrainedTokenizerFast, task: str, **keys: Any) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **TINY, vocab_size=len(tokenizer), pad_token_id=0, num_labels=2, **keys)
    return TASKS[task].auto_class.from_config(config).eval()


def adapter_of(task: str, tokenizer: PreTrainedTokenizerFast) -> tuple[TaskAdapter, list[Feature]]:
    """The adapter of a task, and rows of which the first is far longer than the others."""
    examples = [{"text": "the " * 40, "label": "bad"}, *separable_texts(6, seed=0)]
    if task == "ner":
        examples = [
            {"tokens": (words := example["text"].split()), "tags": ["good", "bad", *["good"] * (len(words) - 2)]}
            for example in examples
        ]
    adapter = TASKS[task](["bad", "good"], tokenizer, 64)
    return adapter, adapter.encode(examples)


@pytest.mark.parametrize("task", ["classification", "ner"])
@pytest.mark.parametrize("name", ["bert", "roberta", "electra", "modernbert"])
def test_a_step_has_the_gradients_of_the_padded_batch(name: str, task: str) -> None:
    """Of eighty tokens in all, where the encoder numbers 64 positions at most."""
    tokenizer = make_tokenizer("bpe")
    ids = {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3, "local_attention": 8}
    model = model_of(name, tokenizer, task, max_position_embeddings=64, **(ids if name == "modernbert" else {}))
    adapter, features = adapter_of(task, tokenizer)
    batch = adapter.collate(features)
    unpadding = Unpadding(model, adapter, features)
    assert unpadding.works
    seen: list[int] = []
    model.get_input_embeddings().register_forward_hook(lambda _module, inputs, _: seen.append(inputs[0].numel()))

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        total, count, _ = adapter.loss(model, batch)
        (total / count).backward()
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    own = gradients()
    with unpadding.in_step():
        other = gradients()
    again = gradients()
    tokens = int(batch["attention_mask"].sum())
    assert seen == [batch["input_ids"].numel(), tokens, batch["input_ids"].numel()] and tokens > 64
    assert model.config._attn_implementation == "sdpa"
    for mine, theirs, later in zip(other, own, again, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(later, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["deberta-v2", "albert", "mobilebert"])
def test_a_model_that_takes_no_packed_rows_stays_as_it_is(name: str) -> None:
    """It has no such attention; its pooler sees first vectors alone; its embeddings look at the neighbours."""
    tokenizer = make_tokenizer("bpe")
    adapter, features = adapter_of("classification", tokenizer)
    batch = adapter.collate(features)
    sizes = {"embedding_size": 32, "true_hidden_size": 32, "intra_bottleneck_size": 32} if name == "mobilebert" else {}
    model = model_of(name, tokenizer, "classification", initializer_range=0.5, **sizes)
    own, attention = adapter.logits(model, batch), model.config._attn_implementation
    unpadding = Unpadding(model, adapter, features)
    assert not unpadding.works
    with unpadding.in_step():
        torch.testing.assert_close(adapter.logits(model, batch), own, rtol=0, atol=0)
    assert model.config._attn_implementation == attention
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


def test_an_exported_model_has_its_own(texts: TaskConfig, encoder: Path, tmp_path: Path) -> None:  # noqa: F811
    finetune(texts.model_copy(update={"seeds": [0], "max_steps": 2}), encoder, tmp_path / "out")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert loaded.config._attn_implementation == "sdpa"
    assert document_attention.NAME not in (tmp_path / "out" / "config.json").read_text(encoding="utf-8")
