"""Plain words of YAML are the words that were written, wherever the config takes words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from mlm_pretrain.config import Config
from mlm_pretrain.config.yaml_text import read_yaml, write_yaml
from mlm_pretrain.config_file import load_config, make_config
from mlm_pretrain.errors import UserError

WORDS = [
    "no",
    "Off",
    "y",
    "null",
    "~",
    "1e3",
    "0x1F",
    "012",
    "1_000",
    "12:30:45",
    "2023-02-31",
    "2023-02-03",
    ".5",
    ".nan",
]


def load(tmp_path: Path, text: str, *overrides: str) -> Config:
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, overrides)


@pytest.mark.parametrize("word", WORDS)
def test_a_word_that_yaml_reads_otherwise_is_text_where_text_is_wanted(tmp_path: Path, word: str) -> None:
    text = f"""
publish: {{language: [{word}, nn], tags: [{word}], citation: {{title: x}}}}
tasks: [{{task: classification, name: t, class_weight: {{{word}: 2, other: 1}}}}]
tokenizer: {{path: p, add_tokens: [{word}]}}
"""
    config = load(tmp_path, text)
    assert config.publish.language == [word, "nn"]
    assert config.publish.tags == [word]
    assert config.tasks[0].class_weight == {word: 2, "other": 1}
    assert config.tokenizer.add_tokens == [word]
    (tmp_path / "resolved.yaml").write_text(config.to_yaml(), encoding="utf-8")
    assert load_config(tmp_path / "resolved.yaml") == config


@pytest.mark.parametrize("word", [word for word in WORDS if word not in ("null", "~")])
def test_so_it_is_with_single_keys_and_overrides(tmp_path: Path, word: str) -> None:
    config = load(tmp_path, f"tasks: [{{task: ner, name: t, label_column: {word}}}]", f"publish.language={word}")
    assert (config.tasks[0].label_column, config.publish.language) == (word, word)


def test_what_is_a_number_a_switch_or_nothing_stays_so(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        """
run: {name: 2024, seed: 5}
training: {bf16: no, learning_rate: 1e-4, max_loss: null, budget: {tokens: 1e6}, global_batch_size: {0: 8, 50: 16}}
stream: {prepared: yes, shuffle_window: 1000}
model: {config: {layer_norm_eps: 1e-5, tie_word_embeddings: off, 3: [1, null]}}
publish: {language: null, citation: {year: 2019, note: 1.0}}
tasks: [{task: ner, name: no, eval_strategy: no, revision: , class_weight: }]
""",
    )
    assert (config.run.name, config.run.seed) == ("2024", 5)
    assert (config.training.bf16, config.training.learning_rate, config.training.max_loss) == (False, 1e-4, None)
    assert config.training.budget.tokens == 10**6
    assert config.training.global_batch_size == {0: 8, 50: 16}
    assert (config.stream.prepared, config.stream.shuffle_window) == (True, 1000)
    assert config.model.config == {"layer_norm_eps": 1e-5, "tie_word_embeddings": False, "3": [1, None]}
    assert (config.publish.language, config.publish.citation) == (None, {"year": 2019, "note": "1.0"})
    task = config.tasks[0]
    assert (task.name, task.eval_strategy, task.revision, task.class_weight) == ("no", "no", None, None)


def test_words_where_a_number_is_wanted_are_still_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"training.learning_rate: .*number"):
        load(tmp_path, "training: {learning_rate: 2023-02-03}")
    with pytest.raises(UserError, match=r"run.name"):
        load(tmp_path, "run: {name: null}")


PLAIN: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
)


@given(PLAIN)
@example({"column": "1e3", "0E0": "+1e-5", "\x85": "\u2028"})
def test_without_a_schema_what_is_written_is_read(data: Any) -> None:
    assert read_yaml(write_yaml(data), Any) == data


def test_configs_from_python_are_what_they_are() -> None:
    assert make_config({"publish": {"language": "no"}}).publish.language == "no"


MERGED = """
plain: &plain {source: files, path: a.txt, weight: 1}
nested:
  inner: &inner {<<: *plain, weight: 2}
last: {<<: *inner, weight: 3}
"""


def test_what_is_merged_in_may_be_overridden() -> None:
    assert read_yaml(MERGED, Any) == yaml.safe_load(MERGED)
    with pytest.raises(yaml.YAMLError, match="'weight' is given twice"):
        read_yaml(MERGED.replace("weight: 2", "weight: 2, weight: 4"), Any)


def _bomb(lists: bool) -> str:
    lines = ["a0: &a0 " + ("[x]" if lists else "{k: x}")]
    for level in range(1, 12):
        names = ", ".join([f"*a{level - 1}"] * 10)
        lines.append(f"a{level}: &a{level} " + (f"[{names}]" if lists else f"{{<<: [{names}], k{level}: x}}"))
    return "\n".join(lines)


@pytest.mark.parametrize("text", [_bomb(lists=True), _bomb(lists=False), "a: &a [*a]", "a: &a {b: [*a]}"])
def test_aliases_that_stand_for_billions_or_for_themselves_are_one_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match=r"c\.yaml:\d+: not valid YAML: with its aliases"):
        load(tmp_path, text)
    with pytest.raises(UserError, match=r"run\.name"):
        load(tmp_path, "run: {seed: 1}", "run.name=&a [*a]")
