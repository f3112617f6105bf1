"""Token types reach the models that have them, and no others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import processors
from transformers import AutoModel, PreTrainedTokenizerFast, pipeline

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.models.encoder import load_config, load_model, load_tokenizer
from mlm_pretrain.tasks.kinds.classification import Classification
from mlm_pretrain.tasks.serve.embed import embed
from tests.models.checkpoints import ARCHITECTURES, tiny_checkpoint

WITH_TYPES = {"bert", "electra"}


def giving_types(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """As `PreTrainedTokenizerFast` was for years unless told otherwise."""
    made = PreTrainedTokenizerFast.from_pretrained(tokenizer.name_or_path)
    made.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, made.convert_tokens_to_ids(name)) for name in ("[CLS]", "[SEP]")],
    )
    return made


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_pairs_and_texts_of_any_architecture(
    model_type: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    tokenizer.save_pretrained(tmp_path / "plain")
    tokenizer = giving_types(PreTrainedTokenizerFast.from_pretrained(tmp_path / "plain"))
    tiny_checkpoint(tmp_path / "encoder", model_type, tokenizer)
    config = load_config(tmp_path / "encoder", ["no", "yes"], "single_label_classification")
    loaded = load_tokenizer(tmp_path / "encoder", config)
    assert ("token_type_ids" in loaded.model_input_names) == (model_type in WITH_TYPES)
    task = TaskConfig(task="classification", name="pairs", text_pair_column="other")
    adapter = Classification(["no", "yes"], loaded, 32, 0, task)
    examples = [
        adapter.make_example({"text": "an array", "other": f"its {word}", "label": "yes"}, task, "here")
        for word in ("shape", "size")
    ]
    features = adapter.encode(examples)
    model = load_model(adapter.auto_class, tmp_path / "encoder", config).eval()
    with torch.no_grad():
        logits = adapter.logits(model, adapter.collate(features))
    if model_type in WITH_TYPES:
        assert 1 in features[0]["token_type_ids"]
        one_type = {
            **adapter.collate(features),
            "token_type_ids": torch.zeros_like(adapter.collate(features)["input_ids"]),
        }
        with torch.no_grad():
            assert not torch.allclose(adapter.logits(model, one_type), logits)
    # What is exported works with plain transformers.
    model.save_pretrained(tmp_path / "out")
    loaded.save_pretrained(tmp_path / "out")
    said = pipeline("text-classification", model=str(tmp_path / "out"))({"text": "an array", "text_pair": "its shape"})
    score = said["score"] if isinstance(said, dict) else said[0]["score"]
    assert score == pytest.approx(float(logits[0].softmax(-1).max()), abs=1e-5)
    (tmp_path / "texts.txt").write_text("an array\n\nits shape\n")
    assert embed(tmp_path / "encoder", tmp_path / "texts.txt", tmp_path / "v.npy")["texts"] == 3
    assert AutoModel.from_pretrained(tmp_path / "out").config.model_type == model_type
