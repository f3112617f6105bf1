"""Thousands of classes: results, pages and lines of a size that people can take, and nothing lost on disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification

from mlm_pretrain import stages
from mlm_pretrain.config_file import make_config
from mlm_pretrain.errors import UserError
from mlm_pretrain.report.page import write_report
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.tasks.scores import many_classes
from mlm_pretrain.tasks.serve.evaluate import describe, evaluate
from mlm_pretrain.tasks.serve.predict import predict
from tests.tasks.conftest import make_tokenizer, tiny_masked_lm

NAMES = st.sampled_from([f"class {number}" for number in range(150)])


@given(pairs=st.lists(st.tuples(NAMES, NAMES), max_size=60), count=st.integers(2, 150))
def test_few_classes_have_a_matrix_and_many_the_commonest_confusions(pairs: list[tuple[str, str]], count: int) -> None:
    labels = [f"class {number}" for number in range(count)]
    made = many_classes.confusion(labels, pairs)
    wrong = {(*pair, pairs.count(pair)) for pair in pairs if pair[0] != pair[1]}
    every = {*labels, *(name for pair in pairs for name in pair)}
    if len(every) <= many_classes.FEW:
        # A class that the model doesn't have is in the matrix all the same.
        assert set(made["labels"]) == every
        assert sum(map(sum, made["matrix"])) == len(pairs)
        assert set(many_classes.commonest({pair: pairs.count(pair) for pair in pairs})) == wrong
    else:
        assert made["classes"] == len(every) and set(made["commonest"]) == wrong
        counts = [number for *_, number in made["commonest"]]
        assert counts == sorted(counts, reverse=True)


def test_what_is_cut_from_the_results_is_whole_elsewhere(tmp_path: Path) -> None:
    table = {f"c{number}": {"f1": (number * 37 % 101) / 101, "support": number} for number in range(101)}
    figures = {"accuracy": 0.5, "by_class": table, "relaxed": {"f1": 0.2}}
    kept, whole = many_classes.cut(figures)
    assert kept["accuracy"] == 0.5 and kept["relaxed"] == {"f1": 0.2} and kept["classes"] == {"by_class": 101}
    scores = [row["f1"] for row in kept["by_class"].values()]
    ranked = sorted((row["f1"] for row in table.values()), reverse=True)
    assert scores == ranked[: many_classes.ENDS] + ranked[-many_classes.ENDS :]
    columns = whole["by_class"]
    assert {name: {"f1": f1, "support": n} for name, f1, n in zip(*columns.values(), strict=True)} == table
    assert "101; all: x.json" in many_classes.note(kept, "by_class", "x.json")
    # A hundred have a line each.
    few = {"by_class": dict(list(table.items())[:100])}
    assert many_classes.cut(few) == (few, {}) and many_classes.note(few, "by_class", "x.json") == ""
    many_classes.write_whole(tmp_path / "x.json", whole)
    assert json.loads((tmp_path / "x.json").read_text()) == whole
    many_classes.write_whole(tmp_path / "x.json", {})
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize(("count", "top_k", "shown"), [(100, None, 100), (101, None, 10), (101, 3, 3), (5, 3, 3)])
def test_as_many_scores_are_shown_as_one_can_read(count: int, top_k: int | None, shown: int) -> None:
    chances = np.random.default_rng(0).random(count).astype(np.float32)
    labels = [f"label {number}" for number in range(count)]
    scores = many_classes.top_scores(labels, chances, top_k)
    assert len(scores) == shown
    if shown < count:
        assert list(scores.values()) == sorted(map(float, chances), reverse=True)[:shown]
    assert all(chances[labels.index(name)] == score for name, score in scores.items())


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained heads with 700 classes, and an encoder."""
    folder = tmp_path_factory.mktemp("many")
    tokenizer = make_tokenizer("bpe")
    tiny_masked_lm("bert", len(tokenizer)).save_pretrained(folder / "encoder")
    tokenizer.save_pretrained(folder / "encoder")
    labels = {f"concept {number}": number for number in range(700)}
    keys = {"label2id": labels, "id2label": {number: name for name, number in labels.items()}}
    for kind in ("single_label_classification", "multi_label_classification"):
        model = AutoModelForSequenceClassification.from_pretrained(folder / "encoder", problem_type=kind, **keys)
        model.save_pretrained(folder / kind)
        tokenizer.save_pretrained(folder / kind)
    return folder


def test_an_evaluation_of_many_classes_is_small(models: Path, tmp_path: Path) -> None:
    rows = [{"text": f"the train {number}", "label": f"concept {number}"} for number in range(200)]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    out = tmp_path / "out"
    figures = evaluate(models / "single_label_classification", data, out)
    assert figures["confusion"]["classes"] == 700
    found = (out / "classes.json", out / "results.json")
    assert all(path.stat().st_size < 60_000 for path in found)
    assert len(json.loads(found[0].read_text())["by_class"]["name"]) == figures["metrics"]["classes"]["by_class"]
    assert not (out / "confusion.png").exists() and (out / "reliability.png").exists()
    assert len(describe(figures).splitlines()) < 40 and "all: classes.json" in describe(figures)


def test_a_predicted_line_has_the_highest_scores(models: Path, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("the train\n", encoding="utf-8")
    for kind, top_k, shown in (
        ("multi_label_classification", None, 10),
        ("multi_label_classification", 4, 4),
        ("single_label_classification", 4, 4),
        ("single_label_classification", None, 0),
    ):
        predict(models / kind, tmp_path / "in.txt", tmp_path / "out.jsonl", top_k=top_k)
        (line,) = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
        record = json.loads(line)
        assert len(record.get("scores", ())) == shown
        if "label" in record and shown:
            assert next(iter(record["scores"].items())) == (record["label"], record["score"])


def test_top_k_is_of_classes(tmp_path: Path, models: Path) -> None:
    from transformers import AutoModelForTokenClassification

    AutoModelForTokenClassification.from_pretrained(models / "encoder", id2label={0: "O", 1: "B-X"}).save_pretrained(
        tmp_path / "ner"
    )
    make_tokenizer("bpe").save_pretrained(tmp_path / "ner")
    (tmp_path / "in.txt").write_text("the train\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"top_k: .* does ner, which has no scores of classes"):
        predict(tmp_path / "ner", tmp_path / "in.txt", tmp_path / "out.jsonl", top_k=2)


@pytest.mark.parametrize("task", ["classification", "multi_label_classification"])
def test_cards_and_reports_of_many_classes_are_small(models: Path, tmp_path: Path, task: str) -> None:
    def label(number: int) -> object:
        name = f"concept {number % 300}"
        return name if task == "classification" else [name, "concept 0"]

    rows = [{"text": f"the train {number}", "label": label(number)} for number in range(600)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    common = {"model": str(models / "encoder"), "seeds": [0], "max_steps": 2, "bf16": False}
    file = str(tmp_path / "data.jsonl")
    tasks = [{**common, "task": task, "name": "t", "train": file, "validation": file}]
    config = make_config({"run": {"name": "r", "output_dir": str(tmp_path)}, "tasks": tasks})
    results = stages.finetune(config)["t"]
    run = RunDirectory.of(config)
    assert results["details"]["classes"] == {"by_class": 300} and len(results["details"]["by_class"]) == 20
    assert len(json.loads(run.task_classes("t").read_text(encoding="utf-8"))["by_class"]["f1"]) == 300
    card = (run.task("t") / "README.md").read_text(encoding="utf-8")
    assert len(card) < 15_000 and "of 300; all: t.classes.json" in card and "(all are in `config.json`)" in card
    evaluate(run.task("t"), Path(file))
    page = write_report([run.root]).read_text(encoding="utf-8")
    assert len(page) < 150_000 and "tasks/t.classes.json" in page
    if task == "classification":
        # Of the validation set, and of the file.
        assert page.count("There are 300 classes; these are the commonest confusions.") == 2
