"""Scoring finished models on files: the figures are those of the predictions, and the folder says why."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread
from sklearn.metrics import accuracy_score, confusion_matrix
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from mlm_pretrain.errors import UserError
from mlm_pretrain.tasks.serve import evaluate as module
from mlm_pretrain.tasks.serve.evaluate import default_folder, describe, evaluate
from mlm_pretrain.tasks.serve.predict import predict
from tests.tasks.conftest import conll, make_tokenizer, separable_sentences, separable_texts, tiny_masked_lm


def named(labels: list[str]) -> dict[str, Any]:
    return {"id2label": dict(enumerate(labels)), "label2id": {label: number for number, label in enumerate(labels)}}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Encoders under untrained heads: most of what they say is wrong."""
    folder = tmp_path_factory.mktemp("evaluate")
    tokenizer = make_tokenizer("bpe")
    tiny_masked_lm("modernbert", len(tokenizer)).save_pretrained(folder / "encoder")
    sequence = AutoModelForSequenceClassification
    heads: dict[str, tuple[Any, dict[str, Any]]] = {
        "classification": (sequence, named(["bad", "good", "never"])),
        "multi_label": (sequence, {**named(["bad", "good"]), "problem_type": "multi_label_classification"}),
        "regression": (sequence, {"num_labels": 1, "problem_type": "regression"}),
        "ner": (AutoModelForTokenClassification, named(["O", "B-LOC", "I-LOC"])),
        "question_answering": (AutoModelForQuestionAnswering, {}),
    }
    for name, (auto_class, keys) in heads.items():
        auto_class.from_pretrained(folder / "encoder", **keys).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return {name: folder / name for name in heads}


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_classes(models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 7)
    rows = [{"text": row["text"], "class": row["label"]} for row in separable_texts(50, seed=6)]
    data = write_jsonl(tmp_path / "test.jsonl", rows)
    out = tmp_path / "new" / "out"
    figures = evaluate(models["classification"], data, out, columns={"label_column": "class"}, batch_size=4)
    predict(models["classification"], data, tmp_path / "said.jsonl", batch_size=4)
    said = [json.loads(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()]
    true, predicted = [row["class"] for row in rows], [row["label"] for row in said]
    labels = ["bad", "good", "never"]
    assert figures["metrics"]["accuracy"] == accuracy_score(true, predicted)
    assert figures["confusion"] == {
        "labels": labels,
        "matrix": confusion_matrix(true, predicted, labels=labels).tolist(),
    }
    assert sum(row["count"] for row in figures["reliability"]["bins"]) == figures["examples"] == 50
    assert figures["reliability"]["ece"] == figures["metrics"]["ece"]
    assert figures["data"]["sha256"] == hashlib.sha256(data.read_bytes()).hexdigest()
    assert json.loads((out / "results.json").read_text()) == figures
    errors = [json.loads(line) for line in (out / "errors.jsonl").read_text().splitlines()]
    wrong = {f"{data}:{n}" for n, (one, other) in enumerate(zip(true, predicted, strict=True), 1) if one != other}
    assert {error["place"] for error in errors} == wrong and wrong
    assert all(imread(out / name).size for name in ("confusion.png", "reliability.png"))
    tables = describe(figures)
    assert f"{figures['metrics']['accuracy']:.4f}" in tables and "precision" in tables and "matrix" not in tables


def test_other_tasks(models: dict[str, Path], tmp_path: Path) -> None:
    texts = separable_texts(20, seed=7)
    context = "the river at the train"
    answers = {"text": ["river"], "answer_start": [4]}
    files = {
        "multi_label": write_jsonl(tmp_path / "m.jsonl", [{"text": r["text"], "label": [r["label"]]} for r in texts]),
        "regression": write_jsonl(tmp_path / "r.jsonl", [{"text": r["text"], "label": n} for n, r in enumerate(texts)]),
        "ner": tmp_path / "n.conll",
        "question_answering": write_jsonl(
            tmp_path / "q.jsonl", [{"question": "what?", "context": context, "answers": answers}]
        ),
    }
    files["ner"].write_text(conll(separable_sentences(20, seed=7)))
    headline = {"multi_label": "micro_f1", "regression": "pearson", "ner": "f1", "question_answering": "f1"}
    out = tmp_path / "out"
    out.mkdir()
    (out / "confusion.png").write_bytes(b"of another model")
    for task, metric in headline.items():
        figures = evaluate(models[task], files[task], out)
        assert figures["metric"] == metric and metric in figures["metrics"] and metric in describe(figures)
        assert sorted(path.name for path in out.iterdir()) == ["errors.jsonl", "results.json"]
        assert (out / "errors.jsonl").read_text()
    assert "LOC" in describe(evaluate(models["ner"], files["ner"], out))


def test_where_it_goes_by_default(models: dict[str, Path], tmp_path: Path) -> None:
    data = Path("somewhere/test.jsonl.gz")
    assert default_folder(tmp_path, data) == tmp_path.with_name(f"{tmp_path.name}.evaluation") / "test"
    assert default_folder("me/topic", data) == Path("topic.evaluation/test")


def test_bad_data(models: dict[str, Path], tmp_path: Path) -> None:
    model, out = models["classification"], tmp_path / "out"
    unknown = write_jsonl(tmp_path / "unknown.jsonl", [{"text": "x", "label": "good"}])
    with pytest.raises(UserError, match="no column is called 'labels_column'; did you mean 'label_column'"):
        evaluate(model, unknown, out, columns={"labels_column": "x"})
    with pytest.raises(UserError, match="evaluate: conll_columns: "):
        evaluate(models["ner"], unknown, out, columns={"conll_columns": "x"})
    with pytest.raises(UserError, match="no such file"):
        evaluate(model, tmp_path / "missing.jsonl", out)
    assert not out.exists()
    good = write_jsonl(tmp_path / "good.jsonl", [{"text": "x", "label": "good"}])
    with pytest.raises(UserError, match="can't write"):
        evaluate(model, good, good / "out")
