"""What is tried before the first step changes how fast a run is, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mlm_pretrain import stages
from mlm_pretrain.config import Config
from mlm_pretrain.io.digests import file_digest
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.telemetry import MetricsLog
from mlm_pretrain.training.loop import Pretraining
from mlm_pretrain.training.machine import measured_once
from mlm_pretrain.training.tuning import Probe, candidate_rows, fastest_attention, fastest_rows, repeated_layers
from mlm_pretrain.training.utilisation import NOT_BEFORE
from tests.conftest import tiny_config


def trained(config: Config) -> Pretraining:
    stages.train_tokenizer(config)
    run = Pretraining(config, RunDirectory.of(config))
    run.train()
    return run


def losses(config: Config) -> list[float]:
    return [record["loss"] for record in MetricsLog(RunDirectory.of(config).metrics).read() if "loss" in record]


def test_measuring_the_device_in_the_middle_of_a_run_draws_nothing_of_its_dropout(corpus: Path, tmp_path: Path) -> None:
    config = tiny_config(corpus, tmp_path)
    stages.train_tokenizer(config)
    run = Pretraining(config, RunDirectory.of(config))
    measured_once.cache_clear()
    before = torch.get_rng_state()
    share = run._utilisation.of(1000.0, NOT_BEFORE)
    assert share is not None and share > 0
    assert measured_once.cache_info().misses == 1
    assert torch.equal(torch.get_rng_state(), before)


def test_compiled_layers_train_as_plain_ones_do_and_are_compiled_once(corpus: Path, tmp_path: Path) -> None:
    # Steps of two rows, then passes of three and three and one: nothing was compiled for one. Rows are
    # in halves first.
    sizes = {
        "global_batch_size": {0: 2, 10: 7},
        "per_device_train_batch_size": 3,
        "sequence_length_warmup": {0: 24, 12: 48},
    }
    settings: dict[str, Any] = {"budget": {"steps": 20}, "save_steps": 10, **sizes}
    plain = tiny_config(corpus, tmp_path / "plain", training=settings)
    compiled = tiny_config(corpus, tmp_path / "compiled", training={**settings, "torch_compile": True})
    trained(plain)
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    whole = trained(compiled)
    assert whole.numerics.compiled
    # The first layer has no norm, and of the others each kind of attention is one of its own; all that for the
    # shapes that occur: (2, 24), (3, 24) and (3, 48).
    assert 4 < torch._dynamo.utils.counters["stats"]["unique_graphs"] - before <= 9
    assert losses(compiled) == pytest.approx(losses(plain), rel=1e-5)
    weights = file_digest(whole.run.checkpoint(20) / "model.safetensors")

    for file in whole.run.checkpoint(20).iterdir():
        file.unlink()
    resumed = Pretraining(compiled, whole.run)
    assert resumed.progress.step == 10 and resumed.numerics.compiled
    resumed.train()
    assert file_digest(whole.run.checkpoint(20) / "model.safetensors") == weights


def test_where_nothing_can_be_compiled_the_run_goes_on(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch._dynamo.reset()
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (str(tmp_path / "no-compiler"),))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    run = trained(tiny_config(corpus, tmp_path, training={"torch_compile": True}))
    assert not run.numerics.compiled and run.progress.step == 8
    assert capsys.readouterr().err.count("torch.compile: failed, the run goes on without it") == 1


@pytest.mark.parametrize(
    ("share", "length", "expected"),
    [
        (8, 48, [8]),
        (32, 128, [8, 16, 32]),
        (20, 512, [2, 4, 8, 16, 20]),
        (1000, 512, [2, 4, 8, 16, 32, 64, 128]),
        (4, 131_072, [1]),
    ],
)
def test_the_sizes_that_are_tried(share: int, length: int, expected: list[int]) -> None:
    assert candidate_rows(share, length) == expected


def test_the_fastest_size_that_fits_in_memory_is_taken() -> None:
    class Timed:
        model, length = nn.Linear(1, 1), 128

        def __init__(self, times: Callable[[int], float]) -> None:
            self.seconds = times

    def out_of_memory(rows: int) -> float:
        if rows > 16:
            raise torch.OutOfMemoryError
        return rows / 1000

    def taken(times: Callable[[int], float]) -> int:
        return fastest_rows(Timed(times), 64)  # type: ignore[arg-type]

    assert taken(lambda rows: (5 + rows) / 1000) == 64
    assert taken(lambda rows: rows / 1000) == 64  # where it makes no difference, the fewest passes
    assert taken(lambda rows: (rows + rows * (rows > 16)) / 1000) == 16
    assert taken(out_of_memory) == 16
    assert taken(lambda rows: 10.0 * rows) == 8  # a pass takes minutes: no more is tried


@pytest.mark.parametrize("faster", ["sdpa", "product"])
def test_the_faster_attention_is_taken_and_kept(
    faster: str, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seconds(probe: Probe, rows: int) -> float:
        return 1.0 if probe.model.config._attn_implementation == faster else 2.0

    free = {**tiny_config(corpus, tmp_path).model.model_dump(), "attn_implementation": None}
    config = tiny_config(corpus, tmp_path, model=free)
    stages.train_tokenizer(config)
    state = Pretraining(config, RunDirectory.of(config))
    probe = Probe(state.model, state.objective, state.accelerator, torch.arange(10, 20).numpy(), 48, packing=True)
    monkeypatch.setattr(Probe, "seconds", seconds)
    assert fastest_attention(probe, ["sdpa", "product"], 8) == state.model.config._attn_implementation == faster
    monkeypatch.undo()
    state.numerics.attention = faster
    state.train()
    for file in state.run.checkpoint(8).iterdir():
        file.unlink()
    resumed = Pretraining(config, state.run)
    assert resumed.numerics.attention == resumed.model.config._attn_implementation == faster


def test_attention_is_open_in_half_precision_too(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def taken(probe: Probe, candidates: list[str], share: int) -> str:
        seen.append(candidates)
        return "sdpa"

    monkeypatch.setattr("mlm_pretrain.training.numerics.fastest_attention", taken)
    free = {**tiny_config(corpus, tmp_path).model.model_dump(), "attn_implementation": None}
    config = tiny_config(corpus, tmp_path, model=free, training={"bf16": True})
    stages.train_tokenizer(config)
    Pretraining(config, RunDirectory.of(config))
    assert seen == [["sdpa", "product"]]


def test_probing_moves_no_weight(corpus: Path, tmp_path: Path) -> None:
    config = tiny_config(corpus, tmp_path)
    stages.train_tokenizer(config)
    state = Pretraining(config, RunDirectory.of(config))
    before = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    probe = Probe(state.model, state.objective, state.accelerator, torch.arange(10, 20).numpy(), 48, packing=True)
    assert probe.seconds(4) > 0
    probe.close()
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.model.state_dict().items())
    assert all(parameter.grad is None for parameter in state.model.parameters())


@pytest.mark.parametrize("name", ["bert", "modernbert", "distilbert", "deberta-v2", "albert"])
def test_the_layers_of_an_architecture_are_found(name: str) -> None:
    from transformers import AutoConfig, AutoModelForMaskedLM

    with torch.device("meta"):
        model = AutoModelForMaskedLM.from_config(AutoConfig.for_model(name))
    layers = repeated_layers(model)
    assert sum(p.numel() for layer in layers for p in layer.parameters()) > 0
    assert len(layers) == (1 if name == "albert" else model.config.num_hidden_layers)
