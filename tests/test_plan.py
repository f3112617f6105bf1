"""Plans follow from counts, rates and the run's own records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import BertConfig

from mlm_pretrain import stages
from mlm_pretrain.config import Config
from mlm_pretrain.config.presets import preset_names
from mlm_pretrain.errors import UserError
from mlm_pretrain.hardware.machine import GPUS
from mlm_pretrain.io.whole import write_json
from mlm_pretrain.plan import ASSUMED_UTILISATION, compare, describe, describe_comparison, plan
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.text.extent import ASSUMED_BYTES_PER_TOKEN
from tests.conftest import tiny_config

GPU = "a100-80gb"


def planned(corpus: Path, folder: Path, **training: Any) -> Config:
    return tiny_config(corpus, folder, training={"bf16": "auto", **training})


@pytest.fixture(scope="module")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    config = tiny_config(corpus, tmp_path_factory.mktemp("trained"))
    stages.pretrain(config)
    return config


def test_speed_is_rate_times_utilisation_over_flops(corpus: Path, tmp_path: Path) -> None:
    made = plan(planned(corpus, tmp_path), GPU)
    assert made.utilisation == ASSUMED_UTILISATION
    assert made.tokens_per_second == pytest.approx(GPUS[GPU][0] * ASSUMED_UTILISATION / made.flops.training)
    assert sum(made.shares.values()) == pytest.approx(1)
    assert made.shares["encoder"] / made.shares["head"] == pytest.approx(made.flops.encoder / made.flops.head)
    assert plan(planned(corpus, tmp_path), GPU, gpus=8).tokens_per_second == pytest.approx(8 * made.tokens_per_second)


def test_optimizer_and_recomputation_take_their_time(corpus: Path, tmp_path: Path) -> None:
    plain, muon, checkpointed = (
        plan(planned(corpus, tmp_path, **settings), GPU)
        for settings in ({}, {"optim": "muon"}, {"gradient_checkpointing": True})
    )
    assert muon.tokens_per_second == pytest.approx(plain.tokens_per_second * (1 - muon.shares["optimizer"]))
    assert 0 < muon.memory["optimizer"] < plain.memory["optimizer"]
    again = checkpointed.shares["recomputed"]
    assert checkpointed.tokens_per_second == pytest.approx(plain.tokens_per_second * (1 - again))
    assert checkpointed.memory["activations"] < plain.memory["activations"]


def test_a_budget_in_one_unit_is_the_same_in_the_others(corpus: Path, tmp_path: Path) -> None:
    first = plan(planned(corpus, tmp_path, budget={"steps": 1000}), GPU)
    assert first.tokens == 1000 * 8 * 48
    for budget in ({"tokens": first.tokens}, {"minutes": first.seconds / 60}):
        other = plan(planned(corpus, tmp_path, budget=budget), GPU)
        assert (other.steps, other.tokens, other.seconds) == pytest.approx((first.steps, first.tokens, first.seconds))


def test_epochs_are_of_the_files(corpus: Path, tmp_path: Path) -> None:
    made = plan(planned(corpus, tmp_path), GPU)
    (source,) = made.sources
    size = sum(file.stat().st_size for file in corpus.iterdir()) * 0.9
    assert source.bytes == pytest.approx(size)
    assert source.epochs == pytest.approx(made.tokens * ASSUMED_BYTES_PER_TOKEN / size)
    raw = planned(corpus, tmp_path).model_dump()
    unread = Config.model_validate({**raw, "text": {"sources": [{"source": "hub", "path": "a/b"}]}})
    (source,) = plan(unread, GPU).sources
    assert (source.bytes, source.epochs) == (None, None)


def test_memory_is_that_of_a_device(corpus: Path, tmp_path: Path) -> None:
    one, four = (plan(planned(corpus, tmp_path), GPU, gpus=gpus) for gpus in (1, 4))
    assert one.memory["weights"] == 4 * one.parameters.total == one.memory["gradients"]
    # AdamW: two moments and a step count a tensor.
    assert one.memory["optimizer"] == pytest.approx(8 * one.parameters.total, rel=0.01)
    assert (one.micro_batch, four.micro_batch) == (8, 2)
    assert four.memory["logits"] == one.memory["logits"] / 4


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_planned_from_nothing(name: str, corpus: Path, tmp_path: Path) -> None:
    config = Config.model_validate({**planned(corpus, tmp_path).model_dump(), "model": {"preset": name}})
    made = plan(config, GPU)
    assert made.vocabulary == 600
    assert made.vocabulary_origin == "tokenizer.vocab_size"
    assert not RunDirectory.of(config).root.exists()
    said = describe(made)
    assert "data sheet, not measured" in said
    assert "assumed, not measured" in said
    assert json.loads(json.dumps(made.figures()))["flops"]["training"] == made.flops.training


def test_of_a_checkpoint_the_config_is_enough(corpus: Path, tmp_path: Path) -> None:
    BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=700).save_pretrained(
        tmp_path / "a"
    )
    raw = planned(corpus, tmp_path).model_dump()
    made = plan(Config.model_validate({**raw, "model": {"path": str(tmp_path / "a")}}), GPU)
    assert (made.model, made.vocabulary) == ("bert", 700)
    with pytest.raises(UserError, match="there is no such folder"):
        plan(Config.model_validate({**raw, "model": {"path": str(tmp_path / "b")}}), GPU)


@pytest.mark.parametrize(
    ("gpu", "training", "said"),
    [
        ("h100-sxn", {}, "did you mean 'h100-sxm'?"),
        ("t4", {}, r"set training\.fp16=true"),
        ("l4", {"bf16": False}, r"set training\.bf16=true"),
    ],
)
def test_a_gpu_without_figures_is_one_line(
    gpu: str, training: dict[str, Any], said: str, corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said):
        plan(planned(corpus, tmp_path, **training), gpu)
    assert plan(planned(corpus, tmp_path, bf16=False, fp16=True), "t4").machine.precision == "fp16"


def test_a_run_goes_by_what_it_has_reached(trained: Config, tmp_path: Path) -> None:
    run = RunDirectory.of(trained)
    happened = run.read_results()["pretraining"]
    made = plan(trained)
    assert made.machine.origin == "measured now"
    assert made.machine.precision == happened["precision"] == "no"
    assert set(made.machine.rates) == {"float32", "bfloat16"}
    assert made.tokens_per_second == pytest.approx(happened["tokens_per_second"])
    assert made.tokens == pytest.approx(happened["tokens"])
    assert made.utilisation_origin == "this run's own, over 8 steps"
    assert made.vocabulary_origin == "the run's tokenizer"
    assert made.bytes_per_token_origin == "of what this run has read"
    # Elsewhere, what was reached here says nothing.
    raw = trained.model_dump()
    elsewhere = Config.model_validate({**raw, "training": {**raw["training"], "bf16": True}})
    assert plan(elsewhere, GPU).utilisation == ASSUMED_UTILISATION


def test_a_run_that_has_begun_goes_by_its_records(corpus: Path, tmp_path: Path) -> None:
    config = tiny_config(corpus, tmp_path)
    stages.pretrain(config)
    run = RunDirectory.of(config)
    results = run.read_results()
    del results["pretraining"]
    write_json(run.results, results)
    last = json.loads(run.metrics.read_text(encoding="utf-8").splitlines()[-1])
    made = plan(config)
    assert made.tokens_per_second == pytest.approx(last["tokens"] / last["seconds"])
    assert made.utilisation_origin == "this run's own, over 8 steps"


def test_plan_beside_what_happened(trained: Config) -> None:
    results = RunDirectory.of(trained).read_results()
    results["pretraining"]["mfu"] = 0.25
    made = plan(trained, own_utilisation=False)
    rows = compare(made, results)
    assert [what for what, _, _ in rows] == ["parameters", "steps", "tokens", "seconds", "tokens_per_second", "mfu"]
    assert rows[0][1] == rows[0][2]
    assert ("mfu", ASSUMED_UTILISATION, 0.25) in rows
    assert "happened" in describe_comparison(rows)
    assert compare(made, {}) == []
