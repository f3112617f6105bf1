"""What only a CUDA device can show: `python -m pytest -m gpu`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from mlm_pretrain import stages
from mlm_pretrain.config import Config, ObjectiveConfig, TaskConfig
from mlm_pretrain.models.attention import packed as packed_attention
from mlm_pretrain.models.attention.documents import NAME, can_use_kernel
from mlm_pretrain.models.attention.packed import supports_packing, use_document_attention
from mlm_pretrain.models.masked_head import MaskedLogits
from mlm_pretrain.objectives.mlm import MaskedLM
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.runtime.loss import to_device
from mlm_pretrain.tasks.fit.finetune import finetune
from mlm_pretrain.tasks.inference.logits import logits_of
from mlm_pretrain.tasks.kinds.registered import TASKS
from mlm_pretrain.tasks.serve.embed import embed
from mlm_pretrain.tasks.serve.finished import FinishedModel
from mlm_pretrain.training.loop import Pretraining
from tests.conftest import tiny_config
from tests.models.test_document_attention import LENGTH, batch_of
from tests.models.test_models import PACKED, tiny

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
GPU = torch.device("cuda")


def losses_of(run: RunDirectory) -> list[float]:
    return [json.loads(line)["loss"] for line in run.metrics.read_text(encoding="utf-8").splitlines()]


def prepared_run(corpus: Path, folder: Path, **sections: Any) -> tuple[Config, RunDirectory]:
    config = tiny_config(corpus, folder, **sections)
    stages.train_tokenizer(config)
    return config, RunDirectory.of(config)


@pytest.mark.parametrize("precision", [{"bf16": True}, {"bf16": False, "fp16": True}, {"bf16": False}])
def test_pretraining_learns_resumes_and_exports(precision: dict[str, bool], corpus: Path, tmp_path: Path) -> None:
    config, run = prepared_run(corpus, tmp_path, training={**precision, "budget": {"steps": 20}, "save_steps": 10})
    whole = Pretraining(config, run)
    whole.train()
    losses = losses_of(run)
    assert losses[-1] < losses[0]
    # Taken up again behind step 10, the losses are the same.
    for file in run.checkpoint(20).iterdir():
        file.unlink()
    resumed = Pretraining(config, run)
    assert resumed.progress.step == 10
    resumed.train()
    assert losses_of(run) == pytest.approx(losses, rel=1e-2)
    resumed.export()
    assert stages.evaluate(config)["loss"] > 0


@pytest.mark.parametrize("name", PACKED)
def test_the_flash_kernel_has_the_loss_and_gradients_of_a_mask_in_float32(
    name: str, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_attention, "LONGEST_MASKED_ROW", 8)
    if not can_use_kernel(GPU, torch.bfloat16, 0.0):
        pytest.skip("this GPU or this PyTorch has no variable-length kernel")
    model = tiny(name, tokenizer, length=LENGTH).to(GPU)
    batch = to_device(batch_of(tokenizer, (64, 20, 19, 1, 23, 30, 2, 3, 14, 7, 7, 7)), GPU)
    objective = MaskedLM(ObjectiveConfig(), tokenizer, LENGTH)
    forward = MaskedLogits(model, packing=True)

    def step(half: bool) -> tuple[torch.Tensor, torch.Tensor]:
        model.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled=half):
            loss, count, _ = objective.loss(forward, batch)
        (loss / count).backward()
        return loss, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    assert supports_packing(model)
    loss, gradients = step(half=False)
    assert use_document_attention(model, GPU, LENGTH, half=True)
    assert model.config._attn_implementation == NAME
    again, others = step(half=True)
    torch.testing.assert_close(again, loss, rtol=5e-3, atol=0)
    assert (others - gradients).norm() < 3e-2 * gradients.norm()


def test_a_run_takes_the_flash_kernel_and_compiles_it(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_attention, "LONGEST_MASKED_ROW", 8)
    losses = {}
    free = {**tiny_config(corpus, tmp_path).model.model_dump(), "attn_implementation": None}
    for compiled in (False, True):
        training = {"bf16": True, "torch_compile": compiled, "per_device_train_batch_size": 4}
        config, run = prepared_run(corpus, tmp_path / str(compiled), model=free, training=training)
        training_run = Pretraining(config, run)
        assert training_run.numerics.compiled == compiled
        has_kernel = can_use_kernel(GPU, torch.bfloat16, 0.0)
        assert training_run.numerics.attention == (NAME if has_kernel else "sdpa")
        training_run.train()
        losses[compiled] = losses_of(run)
    assert losses[True] == pytest.approx(losses[False], rel=1e-2)


def test_micro_batches_have_room(corpus: Path, tmp_path: Path) -> None:
    """Of the sizes tried, those that memory has no room for are left out, and the run goes well."""
    model = {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "intermediate_size": 1024}
    sections = {
        "model": {"model_type": "modernbert", "config": model, "attn_implementation": "sdpa"},
        "training": {"global_batch_size": 512, "budget": {"steps": 2}, "bf16": True},
        "stream": {"sequence_length": 128},
    }
    config, run = prepared_run(corpus, tmp_path, **sections)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(GPU).total_memory
    torch.cuda.set_per_process_memory_fraction(2.5e9 / total)
    try:
        training = Pretraining(config, run)
        assert 0 < training.numerics.micro_batch < 512
        training.train()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert training.progress.step == 2


@pytest.mark.parametrize("encoder", ["full", "lora", "frozen"])
@pytest.mark.parametrize("task", ["classification", "ner"])
def test_a_task_is_learnt_and_predicts_as_on_the_cpu(
    task: str, encoder: str, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if encoder == "lora":
        pytest.importorskip("peft")
    config, run = prepared_run(corpus, tmp_path)
    stages.pretrain(config)
    words = [(["the", "river", "Berlin"], "good"), (["the", "train", "Mombasa"], "bad")] * 12
    rows = [
        {"text": " ".join(tokens), "label": label, "tokens": tokens, "ner_tags": ["O", "O", f"B-{label}"]}
        for tokens, label in words
    ]
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings = TaskConfig(
        task=task,
        name="toy",
        train=str(file),
        validation=str(file),
        encoder=encoder,
        learning_rate=1e-2,
        seeds=[0],
        num_train_epochs=8,
        per_device_train_batch_size=4,
    )
    figures = finetune(settings, run.model, tmp_path / "out")
    if encoder != "frozen":  # the states of so small an encoder tell little
        assert figures["pretrained"] > 0.9
    on_gpu = FinishedModel(tmp_path / "out")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    on_cpu = FinishedModel(tmp_path / "out")
    assert (on_gpu.model.device.type, on_cpu.model.device.type) == ("cuda", "cpu")
    features = on_cpu.adapter.encode(
        [TASKS[task].make_example(row, settings, "row", labelled=False) for row in rows[:2]]
    )
    for mine, theirs in zip(_logits(on_gpu, features), _logits(on_cpu, features), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-3)


def _logits(model: FinishedModel, features: Any) -> list[np.ndarray]:
    return logits_of(model.adapter, model.model, features, 2)


def test_embeddings_are_those_of_the_cpu(
    corpus: Path, tmp_path: Path, documents: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run = prepared_run(corpus, tmp_path)
    stages.pretrain(config)
    (tmp_path / "in.txt").write_text("\n".join(text.splitlines()[0] for text in documents[:50]), encoding="utf-8")
    embed(run.model, tmp_path / "in.txt", tmp_path / "gpu.npy")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    embed(run.model, tmp_path / "in.txt", tmp_path / "cpu.npy")
    np.testing.assert_allclose(np.load(tmp_path / "gpu.npy"), np.load(tmp_path / "cpu.npy"), rtol=1e-3, atol=1e-4)
