"""How a run's new model begins: whatever the processes, once, and by any part that is registered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from mlm_pretrain import stages
from mlm_pretrain.config import Config
from mlm_pretrain.errors import UserError
from mlm_pretrain.models.initialisation.registered import INITIALISATIONS, TextSample
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.runtime.checkpoint import newest_checkpoint, read_state
from mlm_pretrain.stream.pack import Segmenter
from mlm_pretrain.stream.sample import sample_text
from mlm_pretrain.text.mixture import is_held_out
from mlm_pretrain.training.initialise import MOST_TOKENS, sample_tokens
from mlm_pretrain.training.loop import pretrain
from tests.conftest import tiny_config
from tests.stream.test_order import batches
from tests.training.launching import launched, ready, with_budget

STILL = {"learning_rate": 1e-30, "weight_decay": 0.0, "budget": {"steps": 2}}
"""The weights after these steps are those before."""


def sampled(config: Config, tokenizer: PreTrainedTokenizerFast, tokens: int) -> TextSample:
    return sample_text(config, tokenizer, packing=True, tokens=tokens, description="sample")


def results(run: RunDirectory) -> dict[str, Any]:
    return json.loads(run.results.read_text(encoding="utf-8"))["pretraining"]["initialisation"]


def test_a_sample_is_the_first_rows_of_the_run(config: Config, tokenizer: PreTrainedTokenizerFast) -> None:
    sample = sampled(config, tokenizer, 1000)
    assert 1000 <= sample.tokens < 1000 + config.stream.sequence_length
    assert sample.lengths.sum() == sample.tokens
    batch = next(batches(config.model_copy(update={"training": _rows(config, 64)}), tokenizer))
    # What is masked apart.
    masked, labels = batch.tensors["input_ids"].numpy(), batch.tensors["labels"].numpy()
    rows = np.where(labels == -100, masked, labels)[batch.tensors["segment_ids"].numpy() > 0]
    assert np.array_equal(rows[: sample.tokens], sample.ids)


def _rows(config: Config, rows: int) -> Any:
    return config.training.model_copy(update={"global_batch_size": rows})


def test_a_sample_without_bounds_is_the_whole_text_once(
    config: Config, tokenizer: PreTrainedTokenizerFast, documents: list[str]
) -> None:
    training = [text for text in documents if not is_held_out(text, config.text.validation_fraction)]
    whole = Segmenter(tokenizer, config.stream.sequence_length)(training)
    sample = sampled(config, tokenizer, 10_000_000)
    # A lane whose first epoch ends with its window may be a chunk into its second.
    assert len(whole.ids) <= sample.tokens < 1.1 * len(whole.ids)
    assert np.all(np.bincount(sample.ids, minlength=600) >= np.bincount(whole.ids, minlength=600))


def test_prepared_rows_give_a_sample_too(config: Config, tokenizer: PreTrainedTokenizerFast) -> None:
    stages.train_tokenizer(config)
    prepared = config.model_copy(update={"stream": config.stream.model_copy(update={"prepared": True})})
    stages.prepare(prepared)
    assert 0 < sampled(prepared, tokenizer, 500).tokens < 600


def test_samples_follow_the_budget_and_are_bounded(corpus: Path, tmp_path: Path) -> None:
    def tokens(**training: Any) -> int:
        return sample_tokens(tiny_config(corpus, tmp_path, training=training))

    assert tokens(budget={"steps": 1}) < tokens(budget={"steps": 10}) < MOST_TOKENS
    assert tokens(budget={"tokens": 8 * 48}) == tokens(budget={"steps": 1}, global_batch_size=8)
    assert tokens(budget={"tokens": 10**10}) == tokens(budget={"minutes": 1e6}) == MOST_TOKENS


def test_two_processes_begin_with_the_weights_of_one(corpus: Path, tmp_path: Path) -> None:
    alone = RunDirectory.of(config := ready(corpus, tmp_path / "one", "cooccurrence", **STILL))
    pretrain(config, alone)
    both = RunDirectory.of(ready(corpus, tmp_path / "two", "cooccurrence", **STILL))
    with launched("torchrun", both) as launcher:
        said, _ = launcher.communicate(timeout=120)
    assert launcher.returncode == 0, said
    assert said.count("embeddings begin from") == 1
    assert read_state(_newest(both))["numerics"]["processes"] == 2
    assert torch.equal(embeddings(both), embeddings(alone))


def embeddings(run: RunDirectory) -> torch.Tensor:
    return load_file(run.model / "model.safetensors")["model.embeddings.tok_embeddings.weight"]


def _newest(run: RunDirectory) -> Path:
    newest = newest_checkpoint(run.checkpoints)
    assert newest is not None
    return newest


def test_a_resumed_run_counts_nothing_and_remembers(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ready(corpus, tmp_path, "cooccurrence", budget={"steps": 4})
    run = RunDirectory.of(config)
    stages.pretrain(config)
    assert "embeddings begin from the cooccurrence of" in capsys.readouterr().err
    first = results(run)
    assert first["method"] == "cooccurrence"
    assert first["tokens_with_vectors"] > 100
    assert first["sample_tokens"] > 1000
    stages.pretrain(with_budget(config, 8))
    assert "embeddings begin" not in capsys.readouterr().err
    assert results(run) == first


def test_a_part_of_ones_own_is_found_by_its_name(corpus: Path, tmp_path: Path) -> None:
    @INITIALISATIONS.register("by id")
    def by_id(
        model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sample: TextSample, seed: int
    ) -> dict[str, Any]:
        """Each embedding is the number of its token over 1,000."""
        weight = model.get_input_embeddings().weight
        with torch.no_grad():
            weight.copy_((torch.arange(len(weight)) / 1000)[:, None])
        return {"of": sample.tokens, "seed": seed}

    try:
        config = ready(corpus, tmp_path, **STILL)
        config = config.model_copy(update={"model": config.model.model_copy(update={"init_embeddings": "by id"})})
        stages.pretrain(config)
    finally:
        del INITIALISATIONS._entries["by id"]
    run = RunDirectory.of(config)
    facts = results(run)
    assert (facts["method"], facts["of"], facts["seed"]) == ("by id", facts["sample_tokens"], 0)
    weight = embeddings(run)
    torch.testing.assert_close(weight[:, 0], torch.arange(len(weight)) / 1000)


def test_a_name_that_is_nowhere_is_refused_at_once(corpus: Path, tmp_path: Path) -> None:
    config = tiny_config(corpus, tmp_path, model={"init_embeddings": "coocurrence"})
    with pytest.raises(UserError, match=r"model.init_embeddings: no initialisation is named 'coocurrence'.*cooccurr"):
        stages.pretrain(config)
    assert not RunDirectory.of(config).tokenizer.exists()
