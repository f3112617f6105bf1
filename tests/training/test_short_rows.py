"""Rows in pieces first: the same tokens in the same order, and a document begins anew behind a cut."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from mlm_pretrain import stages
from mlm_pretrain.config import Config, ModelConfig, ObjectiveConfig
from mlm_pretrain.console.telemetry import MetricsLog
from mlm_pretrain.errors import UserError
from mlm_pretrain.io.digests import file_digest
from mlm_pretrain.models.build import build_model
from mlm_pretrain.models.masked_head import MaskedLogits, with_places
from mlm_pretrain.objectives.mlm import MaskedLM
from mlm_pretrain.objectives.random import RowRandom
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.stream.loader import GlobalBatch, rows_of
from mlm_pretrain.stream.pack import collate
from mlm_pretrain.training.loop import Pretraining
from mlm_pretrain.training.short_rows import cut_rows
from tests.conftest import tiny_config

LENGTH = 48


@pytest.fixture(scope="module", params=["bernoulli", "exact"])
def batch(
    request: pytest.FixtureRequest, documents: list[str], tokenizer: PreTrainedTokenizerFast
) -> dict[str, Tensor]:
    """Masked rows of real text, the last of which is padding alone."""
    rows = rows_of([(text, 0) for text in documents[:40]], tokenizer, LENGTH, packing=True)[:12]
    objective = MaskedLM(ObjectiveConfig(mlm_probability=0.3, mask_count=request.param), tokenizer, LENGTH)
    arrays = collate([*rows, None], LENGTH, int(tokenizer.pad_token_id), range(13), step=0)
    return {name: torch.from_numpy(array) for name, array in objective.corrupt(arrays, RowRandom(0)).items()}


@pytest.mark.parametrize("length", [12, 24, LENGTH])
def test_nothing_but_the_rows_ends_and_positions_changes(batch: dict[str, Tensor], length: int) -> None:
    cut, whole = with_places(cut_rows(batch, length)), with_places(batch)
    for name in ("input_ids", "labels", "segment_ids", "source_ids"):
        assert cut[name].shape == (13 * LENGTH // length, length)
        assert torch.equal(cut[name].flatten(), batch[name].flatten())
    for name in ("label_positions", "label_ids"):
        assert torch.equal(cut[name], whole[name])
    starts = set(cut["document_starts"].tolist())
    assert starts >= {*whole["document_starts"].tolist(), *range(0, 13 * LENGTH, length)}
    for segments, positions in zip(cut["segment_ids"], cut["position_ids"], strict=True):
        for segment in segments[segments > 0].unique():
            of_segment = positions[segments == segment]
            assert torch.equal(of_segment, torch.arange(len(of_segment)))


def test_the_model_sees_a_piece_of_a_document_as_a_document(
    batch: dict[str, Tensor], tokenizer: PreTrainedTokenizerFast
) -> None:
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    settings = ModelConfig(model_type="modernbert", config={**sizes, "intermediate_size": 24})
    model = build_model(settings, tokenizer, LENGTH).eval()
    cut = cut_rows(batch, 16)
    pieces = with_places(cut)
    forward = MaskedLogits(model, packing=True)
    with torch.inference_mode():
        logits = forward(pieces)[pieces["label_ids"] != -100]
        forward.close()
        alone = []
        for ids, labels, segments in zip(cut["input_ids"], cut["labels"], cut["segment_ids"], strict=True):
            for segment in segments[segments > 0].unique():  # ascending, as they stand in the row
                chosen = segments == segment
                alone.append(model(input_ids=ids[chosen][None]).logits[0][labels[chosen] != -100])
    torch.testing.assert_close(logits, torch.cat(alone), rtol=1e-3, atol=1e-5)


class Seen:
    """What a run's model and its caller get to see."""

    def __init__(self, config: Config) -> None:
        stages.train_tokenizer(config)
        run = Pretraining(config, RunDirectory.of(config))
        self.shapes: list[tuple[int, ...]] = []
        self.batches: list[dict[str, np.ndarray]] = []
        hook = run.model.get_input_embeddings().register_forward_pre_hook(
            lambda _module, inputs: self.shapes.append(tuple(inputs[0].shape))
        )
        run.train(self.note)
        hook.remove()
        self.tokens = run.progress.tokens
        self.losses = [record["loss"] for record in MetricsLog(run.run.metrics).read() if "loss" in record]

    def note(self, step: int, batch: GlobalBatch) -> None:
        self.batches.append({name: tensor.numpy().copy() for name, tensor in batch.tensors.items()})


def test_a_warmup_changes_neither_the_stream_nor_the_size_of_a_step(corpus: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"budget": {"steps": 4}, "global_batch_size": 4, "per_device_train_batch_size": 4}
    settings |= {"logging_steps": 1, "torch_compile": False}
    warmup = {"sequence_length_warmup": {0: 12, 1: 24, 3: LENGTH}}
    plain = Seen(tiny_config(corpus, tmp_path / "plain", training=settings))
    warm = Seen(tiny_config(corpus, tmp_path / "warm", training={**settings, **warmup}))
    parts = Seen(
        tiny_config(corpus, tmp_path / "parts", training={**settings, **warmup, "per_device_train_batch_size": 1})
    )
    assert warm.shapes[-4:] == [(16, 12), (8, 24), (8, 24), (4, 48)]
    assert parts.shapes[-16::4] == [(4, 12), (2, 24), (2, 24), (1, 48)]
    assert plain.tokens == warm.tokens
    for one, other in zip(plain.batches, warm.batches, strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in one)
    assert warm.losses != plain.losses
    assert parts.losses == pytest.approx(warm.losses, rel=1e-5)


def test_a_run_killed_on_short_rows_ends_with_the_same_bits_and_no_other_warmup_takes_it_up(
    corpus: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"budget": {"steps": 6}, "sequence_length_warmup": {0: 12, 4: 24, 5: LENGTH}}
    settings |= {"save_steps": 3}
    config = tiny_config(corpus, tmp_path, training=settings)
    stages.train_tokenizer(config)
    run = RunDirectory.of(config)
    Pretraining(config, run).train()
    weights = file_digest(run.checkpoint(6) / "model.safetensors")
    shutil.rmtree(run.checkpoint(6))
    other = tiny_config(corpus, tmp_path, training={**settings, "sequence_length_warmup": {0: 12, 5: LENGTH}})
    with pytest.raises(UserError, match=r"sequence_length_warmup.* when this run began"):
        Pretraining(other, run)
    resumed = Pretraining(config, run)
    assert resumed.progress.step == 3
    resumed.train()
    assert file_digest(run.checkpoint(6) / "model.safetensors") == weights


def test_models_that_take_no_packed_rows_are_refused(corpus: Path, tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    config = tiny_config(corpus, tmp_path, training={"sequence_length_warmup": {0: 12, 5: LENGTH}})
    config = config.model_copy(update={"model": ModelConfig(model_type="deberta-v2", config=sizes)})
    stages.train_tokenizer(config)
    with pytest.raises(UserError, match="deberta-v2 takes no packed rows"):
        Pretraining(config, RunDirectory.of(config))


@pytest.mark.parametrize("warmup", [{0: 12}, {0: 10, 5: 48}, {0: 16, 2: 24, 5: 48}, {0: 96}, {0: 12, 4: 96}])
def test_lengths_that_make_no_warmup_are_refused(warmup: dict[int, int], corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"sequence_length_warmup: .*the last must be stream\.sequence_length, 48"):
        tiny_config(corpus, tmp_path, training={"sequence_length_warmup": warmup})
