"""One line for every mistake; equal configs for equal files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from mlm_pretrain import cli
from mlm_pretrain.config import Config, TaskConfig, parse_size
from mlm_pretrain.config_file import _models_in, load_config, make_config
from mlm_pretrain.errors import UserError

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))
PIPELINES = [path for path in CONFIGS if "text" in yaml.safe_load(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.name)
def test_every_config_file_is_valid_and_resolves_to_itself(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(config.to_yaml(), encoding="utf-8")
    assert load_config(resolved) == config


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "training: {learnng_rate: 1}",
            "training.learnng_rate: unknown key 'learnng_rate'; did you mean 'learning_rate'?",
        ),
        ("trainig: {}", "trainig: unknown key 'trainig'; did you mean 'training'?"),
        ("training: {learning_rate: fast}", "training.learning_rate: Input should be a valid number"),
        ("training: {budget: {steps: 1, minutes: 1}}", "training.budget: give exactly one of steps, tokens, minutes"),
        ("objective: {mlm_probability: {start: 0.3, end: 0.1, step: 4}}", "did you mean 'steps'?"),
        ("training: {global_batch_size: {5: 8}}", "stages begin with that of step 0"),
        ("objective: {mlm_probability: 1.5}", "objective.mlm_probability"),
        ("objective: {masking: span, mask_count: exact}", "mask_count: exact goes with masking: token only"),
        ("text: {sources: [{path: x}]}", "text.sources.0.source: this key is needed and missing"),
        ("model: {preset: mini, path: x}", "model: give one of preset, model_type, path"),
        ("model: {model_type: ''}", "model: model_type is empty"),
        ("stream: {shuffle_window: 3XB}", "stream.shuffle_window: '3XB' is not a size"),
        ("tokenizer: {add_tokens: [x]}", "tokenizer: add_tokens extends an existing tokenizer"),
        ("tasks: [{task: ner, name: a}, {task: ner, name: a}]", "two tasks are named 'a'"),
        ("run: {name: ../x}", "run.name"),
        ("training: {bf16: true, fp16: true}", "bf16 and fp16 are both set"),
        ("", "the file is empty"),
        ("- a", "a config is a mapping of sections"),
        ("a: [", "not valid YAML"),
        ("run: {seed: 4294967296}", "run.seed: Input should be less than 4294967296"),
        ("tasks: [{task: ner, name: a, seeds: [7, 8, 7]}]", "tasks.0.seeds: 7 is given twice"),
        ("tasks: [{task: ner, name: a, seeds: [-1]}]", "tasks.0.seeds.0: Input should be greater than or equal to 0"),
        (
            "tasks: [{task: ner, name: a, warmup_steps: .inf}]",
            "warmup_steps: Input should be a finite number (given: inf)",
        ),
        ("model: {config: {dropout: [.nan]}}", "model.config: nan is given; a finite number is needed"),
        (f"training: {{save_steps: {2**64}}}", "training.save_steps: 18446744073709551616 is too large a number"),
        (f"training: {{budget: {{tokens: {'9' * 400}}}}}", "training.budget.tokens: 99999"),
        ("training: {budget: {tokens: [1, 2]}}", "training.budget.tokens: [1, 2] is not a number"),
        ("training: {budget: {tokens: 1e99}}", "training.budget.tokens: 1e+99 is not a finite number of at most"),
        (f"stream: {{shuffle_window: {'8' * 400}}}", "is more than any machine holds"),
        (f"run: {{name: {'r' * 101}}}", "run.name: String should have at most 100 characters"),
        (f"tasks: [{{task: ner, name: {'t' * 300}}}]", "tasks.0.name: String should have at most 100 characters"),
        ("tasks: [{task: ner, name: a/b}]", "tasks.0.name"),
        ('publish: {description: "a\\0b"}', "publish.description: 'a\\x00b' has a character that no text"),
        (
            "training: {bf16: true}\nrun: {seed: 1}\ntraining: {fp16: true}",
            ":3: not valid YAML: 'training' is given twice",
        ),
        ("run:\n  seed: 1\n  name: x\n  seed: 2", ":4: not valid YAML: 'seed' is given twice, first in line 2"),
        ("a: " + "[" * 5000, "it is nested too deeply"),
    ],
)
def test_a_mistake_is_one_line_that_names_file_and_key(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "mistake.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as raised:
        load_config(path)
    assert said in str(raised.value)
    assert "mistake.yaml" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_and_a_binary_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such config"):
        load_config(tmp_path / "absent.yaml")
    (tmp_path / "image.yaml").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(UserError, match="not UTF-8"):
        load_config(tmp_path / "image.yaml")


def test_overrides_reach_nested_keys_and_list_items(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("training: {budget: {steps: 5}}\ntasks: [{task: ner, name: a}]", encoding="utf-8")
    overrides = ["training.budget.minutes=2", "tasks.0.learning_rate=1e-4", "run.seed=3", "model.config.hidden_size=64"]
    config = load_config(path, overrides)
    assert config.training.budget.minutes == 2
    assert config.training.budget.steps is None
    assert config.tasks[0].learning_rate == 1e-4
    assert config.run.seed == 3
    assert config.model.config == {"hidden_size": 64}
    for wrong in ("training", "tasks.4.name=b", "run.seed.x=1"):
        with pytest.raises(UserError):
            load_config(path, [wrong])


def test_a_run_directory_serves_as_config_wherever_it_was_moved(tmp_path: Path) -> None:
    run = tmp_path / "moved"
    run.mkdir()
    (run / "config.yaml").write_text(make_config({"run": {"name": "born", "seed": 7}}).to_yaml(), encoding="utf-8")
    config = load_config(run)
    assert (config.run.output_dir, config.run.name, config.run.seed) == (str(tmp_path), "moved", 7)


@pytest.mark.parametrize(("text", "size"), [("64MB", 64 * 10**6), ("1GiB", 2**30), (123, 123), ("1.5 kb", 1500)])
def test_sizes(text: object, size: int) -> None:
    assert parse_size(text) == size


def _keys(section: type[BaseModel], before: str = "") -> list[str]:
    """Every dotted key of a config with one source and one task."""
    keys = []
    for name, field in section.model_fields.items():
        keys.append(f"{before}{name}")
        item = "0." if name in ("sources", "tasks") else ""
        keys += [key for inner in _models_in(field.annotation) for key in _keys(inner, f"{before}{name}.{item}")]
    return keys


ODD = [
    ".inf",
    "-.inf",
    ".nan",
    "1e400",
    "9" * 400,
    "-" + "9" * 5000,
    str(2**70),
    "-1",
    "[1, 2]",
    "[]",
    "[.nan]",
    "{a: 1}",
]
ODD += [
    "{.nan: 1}",
    "{start: .nan, end: 1, steps: 3}",
    "2026-11-27",
    "!!set {a}",
    "!!binary aGFsbG8=",
    "n" * 300,
]
ODD += ["'../x'", "'a/b'", '"\\0"', "[0, 0]", "0x" + "f" * 300, "*a", "? [a]\n: b", "null", "true", "''", "\x1b[31m"]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.sampled_from(sorted(set(_keys(Config)))), value=st.sampled_from(ODD))
def test_any_value_of_any_key_is_taken_or_refused_in_a_line(key: str, value: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text("text: {sources: [{source: files, path: x}]}\ntasks: [{task: ner, name: a}]", encoding="utf-8")
    try:
        config = load_config(path, [f"{key}={value}"])
    except UserError as error:
        assert len(str(error)) <= 1000 and str(error).isprintable()
    else:
        path.write_text(config.to_yaml(), encoding="utf-8")
        assert load_config(path) == config
        # What is left are words in quotes.
        assert not re.search(r"[^'\w-][.](inf|nan)", path.read_text(encoding="utf-8"))


def test_sections_made_in_python_have_the_same_bounds() -> None:
    for keys in ({"learning_rate": float("nan")}, {"seeds": [2**70]}, {"optim_args": {"eps": float("inf")}}):
        with pytest.raises(ValueError, match=r"finite|less than"):
            TaskConfig(task="ner", name="a", **keys)


@pytest.mark.parametrize(
    ("keys", "strategy"),
    [
        ({}, "no"),
        ({"early_stopping_patience": 2}, "epoch"),
        ({"load_best_model_at_end": True}, "epoch"),
        ({"load_best_model_at_end": False}, "no"),
        ({"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 5}, "steps"),
    ],
    ids=str,
)
def test_validation_is_scored_in_training_where_something_depends_on_it(keys: dict[str, Any], strategy: str) -> None:
    assert TaskConfig(task="ner", name="a", **keys).evaluates == strategy
    for key in keys.keys() - {"eval_strategy", "eval_steps"}:
        if keys[key]:
            with pytest.raises(ValueError, match=f"{key} needs evaluations"):
                TaskConfig(task="ner", name="a", **{**keys, "eval_strategy": "no"})


@pytest.mark.parametrize(
    "command",
    [
        ["pretrain", "{long}"],
        ["finetune", "{config}"],
        ["predict", "{long}", "{config}"],
        ["report", "{long}"],
        ["evaluate", "{long}", "--data", "{long}"],
    ],
    ids=lambda command: command[0],
)
def test_a_name_that_no_file_can_have_is_told_in_a_line(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "n" * 300
    config = tmp_path / "config.yaml"
    tasks = f"tasks: [{{task: classification, name: a, train: {long}.jsonl, model: {tmp_path}}}]"
    config.write_text(f"run: {{output_dir: {tmp_path}}}\n{tasks}", encoding="utf-8")
    assert cli.main([part.format(long=long, config=config) for part in command]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and "File name too long" in said
