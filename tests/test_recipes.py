"""What nobody has given follows the budget and the model, says so, and stays as the run was begun."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mlm_pretrain import cli, stages
from mlm_pretrain.config import Config, recipes
from mlm_pretrain.config.recipes import BY_SIZE, BY_TOKENS, MASKED, RATE, ROWS, Devices
from mlm_pretrain.config.shown import marked_yaml
from mlm_pretrain.config_file import load_config, make_config
from mlm_pretrain.plan import describe, plan
from mlm_pretrain.run import RunDirectory
from tests.conftest import tiny_config

counts = st.floats(1e3, 1e14).map(int)


def config_of(budget: dict[str, Any], length: int = 128, **sections: dict[str, Any]) -> Config:
    training = {"budget": budget, **sections.pop("training", {})}
    return make_config({"training": training, "stream": {"sequence_length": length}, **sections})


@given(counts, counts, st.sampled_from([64, 128, 512]))
@settings(deadline=None, max_examples=50)
def test_more_tokens_never_have_fewer_rows_and_a_row_of_every_lane_fits(few: int, many: int, length: int) -> None:
    few, many = sorted((few, many))
    smaller, larger = (config_of({"tokens": tokens}, length).training.global_batch_size for tokens in (few, many))
    assert isinstance(smaller, int)
    assert isinstance(larger, int)
    assert 8 <= smaller <= larger
    assert larger * length <= 1.5 * BY_TOKENS[-1].batch_tokens


@given(st.integers(1, 100), st.integers(8, 8192), st.integers(1, 100), st.integers(8, 8192))
@settings(deadline=None, max_examples=50)
def test_a_larger_model_never_has_a_higher_rate(layers: int, width: int, more: int, wider: int) -> None:
    sizes = [(layers, width), (layers + more, width + wider)]
    small, large = (
        config_of(
            {"tokens": 10**7},
            model={"model_type": "bert", "config": {"num_hidden_layers": depth, "hidden_size": hidden}},
        ).training.learning_rate
        for depth, hidden in sizes
    )
    assert BY_SIZE[-1].learning_rate <= large <= small <= BY_SIZE[0].learning_rate


def test_each_row_of_the_tables_is_what_its_own_budget_gets() -> None:
    for row in BY_TOKENS:
        config = config_of({"tokens": int(row.tokens)}, training={"recipe": "auto"})
        assert config.training.global_batch_size == pytest.approx(row.batch_tokens / 128, rel=0.2)
        assert config.objective.mlm_probability == row.mlm_probability


def test_what_is_given_stays_and_the_masks_are_left_alone_unless_asked_for() -> None:
    own = {"learning_rate": 7e-4, "global_batch_size": 24, "recipe": "auto"}
    config = config_of({"tokens": 10**9}, training=own, objective={"mlm_probability": 0.2})
    assert (config.training.learning_rate, config.training.global_batch_size) == (7e-4, 24)
    assert config.objective.mlm_probability == 0.2
    assert recipes.recipe_of(config).values == {}
    assert config_of({"tokens": 10**6}).objective.mlm_probability == 0.15
    assert config_of({"tokens": 10**6}, training={"recipe": "auto"}).objective.mlm_probability == 0.4


def test_a_budget_in_steps_keeps_its_rows() -> None:
    assert config_of({"steps": 10}).training.global_batch_size == 256
    assert config_of({"steps": 10**6}).training.global_batch_size == 256


def test_a_checkpoint_that_is_trained_on_has_a_gentler_rate_and_its_own_masks() -> None:
    continued = config_of({"tokens": 10**7}, training={"recipe": "auto"}, model={"path": "somebody/bert"})
    assert continued.training.learning_rate < config_of({"tokens": 10**7}).training.learning_rate
    assert continued.objective.mlm_probability == 0.15


def test_minutes_count_as_the_tokens_of_a_nominal_machine() -> None:
    open_ = config_of({"minutes": 90}, training={"recipe": "auto"})
    for devices in (Devices(0, 2), Devices(0, 64), Devices(1, 16), Devices(8, 128)):
        recipe = recipes.recipe_of(open_, devices)
        same = config_of({"tokens": int(recipe.tokens)}, training={"recipe": "auto"})
        assert recipe.values == {key: recipes.value_of(same, key) for key in (RATE, ROWS, MASKED)}
    few, many = (recipes.recipe_of(open_, Devices(gpus, 1)).tokens for gpus in (1, 8))
    assert many == pytest.approx(8 * few)


def test_a_resolved_config_is_read_as_itself_with_another_budget_too() -> None:
    config = config_of({"tokens": 10**6}, training={"recipe": "auto"})
    again = make_config(config.model_dump())
    assert again == config
    other = make_config({**config.model_dump(), "training": {**config.training.model_dump(), "budget": {"steps": 3}}})
    assert other.training.global_batch_size == config.training.global_batch_size


@pytest.mark.parametrize("text", ["short", "two\nlines", f"{'word ' * 40}end:", "# none", "é\u2028x", "a: b # c"])
def test_what_config_show_prints_is_read_as_the_same_config(text: str) -> None:
    publish = {"description": text, "tags": ["a"], "citation": {"title": text}}
    config = config_of({"tokens": 10**6}, publish=publish, model={"config": {"hidden_size": 64}})
    for ascii_only in (False, True):
        shown = marked_yaml(config, ascii_only)
        assert make_config(yaml.safe_load(shown)) == config


def test_config_show_says_where_a_value_is_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("training: {budget: {tokens: 1000000}, weight_decay: 0.1}", encoding="utf-8")
    assert cli.main(["config", "show", str(path), "run.seed=7", f"run.output_dir={tmp_path}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for line in ("  seed: 7  # given", "  weight_decay: 0.1  # given", "  budget:  # given", "  max_grad_norm: 1.0"):
        assert line in lines
    assert any(line.startswith("  learning_rate:") and line.endswith("  # recipe") for line in lines)
    assert "  preset: mini" in lines
    assert any(line.startswith("# recipe: ") and "for 1.0 M tokens" in line for line in lines)


@pytest.fixture(scope="module")
def begun(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config that leaves the recipe open, whose run has been pretrained."""
    folder = tmp_path_factory.mktemp("begun")
    raw = tiny_config(corpus, folder).model_dump(mode="json")
    for key in ("learning_rate", "global_batch_size"):
        del raw["training"][key]
    raw["training"]["budget"] = {"tokens": 5000}
    path = folder / "open.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    stages.pretrain(load_config(path))
    return path


def test_a_run_says_and_records_what_it_took(begun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = load_config(begun)
    run = RunDirectory.of(config)
    rate, rows = config.training.learning_rate, config.training.global_batch_size
    recorded = run.read_results()["recipe"]
    assert recorded["values"] == {RATE: rate, ROWS: rows}
    assert recorded["tokens"] == 5000
    written = yaml.safe_load(run.config.read_text(encoding="utf-8"))["training"]
    assert (written["learning_rate"], written["global_batch_size"]) == (rate, rows)
    assert "learning_rate, global_batch_size, for 0.005 M tokens" in run.card.read_text(encoding="utf-8")
    assert f"learning_rate {rate} (recipe), global_batch_size {rows} (recipe)" in describe(plan(config))
    stages.pretrain(config)
    assert "pretrain: up to date, skipped" in capsys.readouterr().err


def test_a_begun_run_keeps_its_recipe_under_another_budget(begun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = load_config(begun)
    large = ["training.budget.tokens=1e12"]
    assert load_config(begun, large).training.global_batch_size == config.training.global_batch_size
    # Also where the config is made in memory, and the budget is in steps, whose default is another.
    raw = yaml.safe_load(begun.read_text(encoding="utf-8"))
    raw["training"]["budget"] = {"steps": RunDirectory.of(config).read_results()["pretraining"]["steps"] + 1}
    longer = make_config(raw)
    assert longer.training.global_batch_size != config.training.global_batch_size
    stages.pretrain(longer)
    said = capsys.readouterr().err
    assert "going on from" in said
    assert f"global_batch_size {config.training.global_batch_size} (as begun)" in said


def test_without_checkpoints_another_budget_has_another_recipe(begun: Path, tmp_path: Path) -> None:
    elsewhere = [f"run.output_dir={tmp_path}", "training.budget.minutes=30"]
    config = load_config(begun, elsewhere)
    RunDirectory.of(config).root.mkdir()
    # As another machine has written it, which makes other tokens of the same minutes.
    written = config.model_dump(mode="json")
    written["training"] |= {"learning_rate": 0.0123, "global_batch_size": 77}
    RunDirectory.of(config).config.write_text(yaml.safe_dump(written), encoding="utf-8")
    kept = load_config(begun, elsewhere).training
    assert (kept.learning_rate, kept.global_batch_size) == (0.0123, 77)
    assert load_config(begun, [*elsewhere, "training.global_batch_size=9"]).training.global_batch_size == 9
    for other in ("training.budget.minutes=31", "model.config.hidden_size=64"):
        assert load_config(begun, [*elsewhere, other]).training.global_batch_size != 77
