"""What is tried before the first step changes how fast a run is, and nothing else."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from mlm_pretrain import stages
from mlm_pretrain.config import Config, RunConfig
from mlm_pretrain.console.telemetry import MetricsLog
from mlm_pretrain.hardware.machine import measured_once
from mlm_pretrain.io.digests import file_digest
from mlm_pretrain.io.remembered import remember
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.training.loop import Pretraining
from mlm_pretrain.training.tuning.compiling import repeated_layers, try_layer
from mlm_pretrain.training.tuning.measured import KIND, Open, Tuning
from mlm_pretrain.training.tuning.probe import Probe
from mlm_pretrain.training.tuning.search import Tuner, candidate_rows
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
    assert capsys.readouterr().err.count("torch.compile: failed, the run continues without it") == 1


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


class Clock:
    """Moves when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Timed(Probe):
    """Passes of given durations through a model that is there for its size alone."""

    def __init__(self, times: Callable[[str, int], float], kind: str = "cpu", length: int = 128) -> None:
        self.clock, self.passes = Clock(), 0
        self.device, self.length = torch.device(kind), length
        self._times = times
        self.model = cast(PreTrainedModel, _Sized())

    def seconds(self, rows: int, length: int | None = None) -> float:
        took = self._times(self.model.config._attn_implementation, rows)
        self.clock.now += took
        self.passes += 1
        return took


class _Sized(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(1, 1)])
        self.config = SimpleNamespace(_attn_implementation="sdpa")

    def num_parameters(self) -> int:
        return 3_000_000

    def set_attn_implementation(self, name: str) -> None:
        self.config._attn_implementation = name


def tuned(probe: Timed, left: float, of: dict[str, Any], **asked: Any) -> Tuning:
    """What is chosen for a run that has so many seconds left."""
    defaults: dict[str, Any] = {
        "attentions": ["sdpa", "product"],
        "rows": 0,
        "share": 64,
        "may_compile": True,
        "passes": lambda rows: [(rows, probe.length)],
        "seconds_left": lambda a_row: left,
        "rows_left": None,
    }
    return Tuner(probe, Open(**{**defaults, **asked}), of, probe.clock).choose()


def a_row(attention: str, rows: int) -> float:
    """Seconds: a call costs something, and one kind of attention is slower."""
    return 0.004 + rows * (0.003 if attention == "sdpa" else 0.002)


@pytest.mark.parametrize("minutes", [0.1, 0.5, 1, 3, 10, 60])
@pytest.mark.parametrize("slow", [0.1, 1, 20])
def test_trying_takes_three_percent_at_most_and_the_second_run_tries_nothing(minutes: float, slow: float) -> None:
    of = {"minutes": minutes, "slow": slow}
    first = Timed(lambda attention, rows: slow * a_row(attention, rows))
    chosen = tuned(first, 60 * minutes, of, may_compile=False)
    # A first look is what nothing is known before: two rows.
    assert first.clock.now <= max(0.03 * 60 * minutes, 2.5 * slow * a_row("sdpa", 1))
    second = Timed(lambda attention, rows: slow * a_row(attention, rows))
    again = tuned(second, 60 * minutes, of, may_compile=False)
    assert second.passes == 0
    assert (again.attention, again.rows, again.known) == (chosen.attention, chosen.rows, first.passes > 0)


def test_the_fastest_that_fits_in_memory_is_taken() -> None:
    count = itertools.count()

    def out_of_memory(attention: str, rows: int) -> float:
        if rows > 16:
            raise torch.OutOfMemoryError
        return rows / 1000

    def rows(times: Callable[[str, int], float], left: float = 3600.0) -> int:
        probe = Timed(times, "cuda")
        return tuned(probe, left, {"of": str(next(count))}, attentions=["sdpa"], may_compile=False).rows

    assert rows(lambda attention, rows: (5 + rows) / 1000) == 64
    assert rows(lambda attention, rows: rows / 1000) == 64  # where it makes no difference, the fewest passes
    assert rows(lambda attention, rows: (rows + rows * (rows > 16)) / 1000) == 16
    assert rows(out_of_memory) == 16
    assert rows(out_of_memory, left=0.0) == 16  # also if there is no time to compare


def test_a_longer_run_tries_what_a_shorter_one_had_no_time_for() -> None:
    def times(attention: str, rows: int) -> float:
        return 5 * a_row(attention, rows)

    of = {"a": "longer run"}
    short, long = Timed(times), Timed(times)
    assert "rows" not in tuned(short, 20.0, of, may_compile=False).trials
    chosen = tuned(long, 3600.0, of, may_compile=False)
    assert "rows" in chosen.trials
    assert not tuned(Timed(times), 20.0, of, may_compile=False).trials


@pytest.mark.parametrize("left", [10.0, 60.0, 300.0])
def test_a_short_run_compiles_nothing(left: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.nn.Module.compile", lambda *_args, **_kwargs: pytest.fail("compiled"))
    chosen = tuned(Timed(a_row), left, {"left": left})
    assert not chosen.compiled and not {"compile", "compile one layer"} & chosen.trials.keys()


@pytest.mark.parametrize(("left", "expected"), [(60.0, False), (100_000.0, True)])
def test_what_compiling_took_before_has_to_be_paid_back_five_times(
    left: float, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = {"compiling": left}
    layers = {"seconds": 5.0, "plain": 0.10, "compiled": 0.08}
    remember(KIND, of, {"a_row": 0.005, "allowed": 1e9, "layers": layers})
    done: list[list[tuple[int, int]]] = []

    def compile_layers(_probe: Probe, passes: list[tuple[int, int]]) -> float:
        done.append(passes)
        return 5.0

    monkeypatch.setattr("mlm_pretrain.training.tuning.search.compile_layers", compile_layers)
    chosen = tuned(Timed(a_row), left, of)
    assert chosen.compiled is expected and bool(done) is expected


@pytest.mark.parametrize("damage", ["{", "[]", '{"of": 1}', "\0", "{}", "wrong kinds", "a folder"])
def test_what_is_damaged_in_the_cache_is_measured_again(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLM_PRETRAIN_CACHE", str(tmp_path))
    of = {"one": "shape"}
    chosen = tuned(Timed(a_row), 600.0, of, may_compile=False)
    (file,) = (tmp_path / "measured" / KIND).iterdir()
    kept = json.loads(file.read_text(encoding="utf-8"))
    if damage == "wrong kinds":
        file.write_text(json.dumps({**kept, "found": {"a_row": "fast", "rows": [1]}}), encoding="utf-8")
    elif damage == "a folder":
        file.unlink()
        file.mkdir()
    else:
        file.write_text(damage, encoding="utf-8")
    probe = Timed(a_row)
    again = tuned(probe, 600.0, of, may_compile=False)
    assert probe.passes > 0 and (again.attention, again.rows) == (chosen.attention, chosen.rows)


def test_a_run_that_cannot_write_its_cache_goes_through(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MLM_PRETRAIN_CACHE", str(tmp_path / "file" / "below"))
    free = {**tiny_config(corpus, tmp_path).model.model_dump(), "attn_implementation": None}
    run = trained(tiny_config(corpus, tmp_path, model=free, training={"bf16": "auto", "torch_compile": "auto"}))
    assert run.progress.step == 8
    assert "warning" not in capsys.readouterr().err


def test_the_choice_and_what_it_has_cost_are_kept_when_a_run_is_resumed(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLM_PRETRAIN_CACHE", str(tmp_path / "cache"))  # nothing of this shape has been measured
    free = {**tiny_config(corpus, tmp_path).model.model_dump(), "attn_implementation": None}
    # So many steps that there is time to try, however fast they are.
    budget = {"steps": 1_000_000, "tokens": None, "minutes": None}
    config = tiny_config(corpus, tmp_path, model=free, training={"budget": budget})
    stages.train_tokenizer(config)
    whole = Pretraining(config, RunDirectory.of(config))
    assert {"attention"} <= whole.tuning["trials"].keys()
    trial = whole.tuning["trials"]["attention"]
    assert trial["seconds"] <= whole.tuning["seconds"] and trial["after"] <= trial["before"]
    whole._agreed_batches = lambda: itertools.islice(Pretraining._agreed_batches(whole), 4)  # type: ignore[method-assign]
    whole.train()
    resumed = Pretraining(config, whole.run)
    assert resumed.progress.step == 4
    assert resumed.tuning == whole.tuning == resumed.figures()["tuning"]
    assert (resumed.numerics.attention, resumed.numerics.micro_batch) == (
        whole.numerics.attention,
        whole.numerics.micro_batch,
    )
    # Another run of this shape.
    other = config.model_copy(update={"run": RunConfig(name="second", output_dir=str(tmp_path))})
    stages.train_tokenizer(other)
    second = Pretraining(other, RunDirectory.of(other))
    assert second.tuning["measured_before"] and not second.tuning["trials"]
    assert second.numerics == whole.numerics


@pytest.mark.parametrize("kept", ["sdpa", "product"])
def test_the_attention_of_a_run_is_kept(kept: str, corpus: Path, tmp_path: Path) -> None:
    free = {**tiny_config(corpus, tmp_path).model.model_dump(), "attn_implementation": None}
    config = tiny_config(corpus, tmp_path, model=free)
    stages.train_tokenizer(config)
    state = Pretraining(config, RunDirectory.of(config))
    state.numerics.attention = kept
    state.train()
    for file in state.run.checkpoint(8).iterdir():
        file.unlink()
    resumed = Pretraining(config, state.run)
    assert resumed.numerics.attention == resumed.model.config._attn_implementation == kept


def test_attention_is_open_in_half_precision_too(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def choose(tuner: Tuner) -> Tuning:
        seen.append(tuner._open.attentions)
        return Tuning("sdpa", 8)

    monkeypatch.setattr(Tuner, "choose", choose)
    free = {**tiny_config(corpus, tmp_path).model.model_dump(), "attn_implementation": None}
    config = tiny_config(corpus, tmp_path, model=free, training={"bf16": True})
    stages.train_tokenizer(config)
    Pretraining(config, RunDirectory.of(config))
    assert seen == [["sdpa", "product"]]


def test_one_layer_is_compiled_alone_and_nothing_of_it_stays(corpus: Path, tmp_path: Path) -> None:
    torch._dynamo.reset()
    config = tiny_config(corpus, tmp_path)
    stages.train_tokenizer(config)
    state = Pretraining(config, RunDirectory.of(config))
    before = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    probe = Probe(state.model, state.objective, state.accelerator, torch.arange(10, 20).numpy(), 48, packing=True)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    found = try_layer(probe, (4, 48), seconds=1.0, backend="aot_eager")
    probe.close()
    assert found is not None and all(seconds > 0 for seconds in found)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs + 1
    assert all(layer._compiled_call_impl is None for layer in repeated_layers(state.model))
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.model.state_dict().items())
    assert all(parameter.grad is None for parameter in state.model.parameters())


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
