"""One line for every mistake; equal configs for equal files."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mlm_pretrain.config import parse_size
from mlm_pretrain.config_file import load_config, make_config
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
        ("stream: {shuffle_window: 3XB}", "stream.shuffle_window: '3XB' is not a size"),
        ("tokenizer: {add_tokens: [x]}", "tokenizer: add_tokens extends an existing tokenizer"),
        ("tasks: [{task: ner, name: a}, {task: ner, name: a}]", "two tasks are named 'a'"),
        ("run: {name: ../x}", "run.name"),
        ("training: {bf16: true, fp16: true}", "bf16 and fp16 are both set"),
        ("", "the file is empty"),
        ("- a", "a config is a mapping of sections"),
        ("a: [", "not valid YAML"),
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
