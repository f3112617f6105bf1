"""What would fail after pretraining fails before it: names, files, columns and labels of tasks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlm_pretrain import cli, stages
from mlm_pretrain.config import Config
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.stages.early import look_at_tasks
from mlm_pretrain.tasks.data import materials
from tests.conftest import contents, tiny_config


@pytest.fixture
def task(tmp_path: Path) -> dict[str, Any]:
    rows = [
        {"text": f"{'rain' if number % 2 else 'sun'} {number}", "label": ["wet", "dry"][number % 2]}
        for number in range(20)
    ]
    path = tmp_path / "weather.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {
        "task": "classification",
        "name": "weather",
        "train": str(path),
        "max_steps": 2,
        "seeds": [0],
        "bf16": False,
    }


def refused(config: Config, folder: Path, capsys: pytest.CaptureFixture[str], *verb: str) -> str:
    path = folder / "config.yaml"
    path.write_text(config.to_yaml(), encoding="utf-8")
    capsys.readouterr()
    assert cli.main([*(verb or ("run",)), str(path)]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    assert not RunDirectory.of(config).tokenizer.exists()
    return said[0]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"task": "clasification"}, "no task is named 'clasification'; did you mean 'classification'"),
        ({"train": "/no/such.jsonl"}, "/no/such.jsonl: no such file"),
        ({"validation": "/no/such.jsonl"}, "/no/such.jsonl: no such file"),
        ({"test": "/no/such.csv"}, "/no/such.csv: no such file"),
        ({"train": None}, "task 'weather': no data"),
        ({"path": "/no/set", "train": None}, "task 'weather': can't load the dataset /no/set"),
        ({"text_column": "body"}, "no column 'body' (text_column)"),
        ({"text_pair_column": "pair"}, "no column 'pair' (text_pair_column)"),
        ({"label_column": "lable"}, "did you mean 'label'"),
        ({"task": "regression"}, "label is 'wet'; a number is needed"),
        ({"task": "ner"}, "no column 'tokens'"),
        ({"class_weight": {"wett": 2.0}}, "no class is named 'wett'; did you mean 'wet'"),
        ({"metric_for_best_model": "f1"}, "metric_for_best_model: no 'f1'"),
        ({"optim": "adam"}, "task 'weather': optim: no optimizer is named 'adam'; did you mean 'adamw'"),
        ({"lr_scheduler_type": "liner"}, "no schedule is named 'liner'; did you mean 'linear'"),
        ({"lr_scheduler_kwargs": {"decay": 0.5}}, "task 'weather': lr_scheduler_kwargs: linear"),
        ({"source": "installed_docs", "train": None, "task": "tagging"}, "none for tagging"),
        ({"model": "/no/encoder"}, "/no/encoder"),
    ],
)
def test_a_task_that_would_fail_fails_before_any_work(
    change: dict[str, Any],
    problem: str,
    task: dict[str, Any],
    corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fine = {**task, "name": "fine"}
    config = tiny_config(corpus, tmp_path, tasks=[fine, {**task, **change}])
    assert problem in refused(config, tmp_path, capsys)


def test_bad_rows_are_found_before_too(
    task: dict[str, Any], corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Path(task["train"]).open("a", encoding="utf-8") as file:
        file.write('{"text": "fog", "label": null}\n{"text": null, "label": "wet"}\n')
    said = refused(tiny_config(corpus, tmp_path, tasks=[task]), tmp_path, capsys)
    assert "2 of 22 examples can't be used: no label 1 (weather.jsonl:21), no text 1 (weather.jsonl:22)" in said


@pytest.mark.parametrize("verb", ["run", "pretrain"])
@pytest.mark.parametrize(
    ("section", "change", "problem"),
    [
        ("training", {"optim": "mun"}, "training.optim: no optimizer is named 'mun'; did you mean 'muon'"),
        ("training", {"lr_scheduler_type": "cosinus"}, "did you mean 'cosine'"),
        ("training", {"lr_scheduler_kwargs": {"dekay": 1.0}}, "training.lr_scheduler_kwargs: warmup_stable_decay"),
        ("objective", {"name": "mlmm"}, "did you mean 'mlm'"),
        ("model", {"model_type": "modern-bert"}, "no masked-LM class for 'modern-bert'"),
        ("model", {"model_type": None, "preset": "minni"}, "there is no preset 'minni'; did you mean 'mini'"),
        ("model", {"config": {"hiden_size": 32}}, "has no such key; did you mean 'hidden_size'"),
    ],
)
def test_names_of_pretraining_are_known_before_the_tokenizer_is_trained(
    verb: str,
    section: str,
    change: dict[str, Any],
    problem: str,
    corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert problem in refused(tiny_config(corpus, tmp_path, **{section: change}), tmp_path, capsys, verb)


def test_a_second_task_is_looked_at_before_the_first_is_trained(
    task: dict[str, Any], corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(corpus, tmp_path)
    stages.pretrain(config)
    raw = config.model_dump()
    raw["tasks"] = [task, {**task, "name": "second", "train": "/no/such.jsonl"}]
    path = tmp_path / "config.yaml"
    path.write_text(Config.model_validate(raw).to_yaml(), encoding="utf-8")
    assert cli.main(["finetune", str(path)]) == 2
    assert "error: /no/such.jsonl: no such file" in capsys.readouterr().err
    assert not RunDirectory.of(config).task("weather").exists()
    assert cli.main(["finetune", str(path), "--task", "weather"]) == 0


def test_of_a_very_large_set_the_beginning_is_looked_at(
    task: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(materials, "MOST", 8)
    config = tiny_config(tmp_path, tmp_path, tasks=[{**task, "class_weight": {"fog": 1.0}}])
    assert materials.look_at(config.tasks[0]) is None  # the class may be in what follows
    assert "the first 8 rows of each split can be used" in capsys.readouterr().err
    with Path(task["train"]).open("a", encoding="utf-8") as file:
        file.write('{"text": "fog"}\n')
    assert materials.look_at(config.tasks[0]) is None


def test_what_is_said_of_the_data_before_is_said_once(
    task: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Path(task["train"]).open("a", encoding="utf-8") as file:
        file.write('{"text": "fog", "label": null}\n')
    config = tiny_config(tmp_path, tmp_path, tasks=[{**task, "on_bad_examples": "drop"}])
    (chosen,) = config.tasks
    summary, dropped = "weather.jsonl: 21 records", "1 of 21 examples can't be used"
    for _ in range(2):  # each command looks for itself
        look_at_tasks(config, [chosen])
        look_at_tasks(config, [chosen])
        materials.read_materials(chosen, 0.0)
        said = capsys.readouterr().err
        assert said.count(summary) == 1 and said.count(dropped) == 1
    materials.read_materials(chosen, 0.0)
    said = capsys.readouterr().err
    assert said.count(summary) == 1 and said.count(dropped) == 1


def test_all_that_is_wrong_is_told_at_once(
    task: dict[str, Any], config: Config, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "config.yaml"
    raw = config.model_dump(mode="json", exclude_unset=True)
    raw["tasks"] = [{**task, "text_column": "body"}, {**task, "name": "other", "optim": "adanw"}]
    raw["training"]["lr_scheduler_type"] = "lineer"
    raw["evaluation"] = {"fill_mask": ["no mask"]}
    raw["text"]["sources"] += [{"source": "files", "path": "/no/such.txt"}]
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    for verb in ("check", "run"):
        capsys.readouterr()
        assert cli.main([verb, str(path)]) == 2
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(said) == 5, said
        for part in ("/no/such.txt", "fill_mask", "did you mean 'linear'", "did you mean 'adamw'", "no column 'body'"):
            assert sum(part in line for line in said) == 1, (part, said)
    assert not RunDirectory.of(config).tokenizer.exists()


def test_check_says_which_stages_have_to_run(finished_run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is written."""
    before = contents(finished_run.root)

    def states(*keys: str) -> dict[str, str]:
        capsys.readouterr()
        assert cli.main(["check", str(finished_run.root), *keys]) == 0
        rows = [re.split("  +", line) for line in capsys.readouterr().out.splitlines()]
        return {stage: state for stage, state, _ in rows}

    assert states() == dict.fromkeys(("tokenizer", "pretrain", "evaluate", "finetune weather"), "up to date")
    changed = states("evaluation.fill_mask=['a [MASK]']")
    assert changed["pretrain"] == "up to date" and changed["evaluate"] == "to do: what it depends on has changed"
    assert set(states("run.name=new").values()) == {"to do: has not run"}
    assert contents(finished_run.root) == before
