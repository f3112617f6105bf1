"""Labelling files: same answers as the model, in order, whatever is in the file."""

from __future__ import annotations

import csv
import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from mlm_pretrain.cli import main
from mlm_pretrain.config import TaskConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.tasks.fit.finetune import finetune
from mlm_pretrain.tasks.serve import predict as module
from mlm_pretrain.tasks.serve.predict import predict
from tests.tasks.conftest import conll, make_tokenizer, separable_sentences, separable_texts, tiny_masked_lm

RECIPE = {"num_train_epochs": 10, "learning_rate": 5e-3, "bf16": False, "per_device_train_batch_size": 8, "seeds": [0]}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A fine-tuned model for classes and for entities; random weights under the heads of other tasks."""
    folder = tmp_path_factory.mktemp("predict")
    tokenizer = make_tokenizer("bpe")
    tiny_masked_lm("modernbert", len(tokenizer)).save_pretrained(folder / "encoder")
    tokenizer.save_pretrained(folder / "encoder")
    rows = separable_texts(96, seed=0)
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "train.conll").write_text(conll(separable_sentences(64, seed=0)))
    for task, file in (("classification", "train.jsonl"), ("ner", "train.conll")):
        finetune(
            TaskConfig(task=task, name="toy", train=str(folder / file), **RECIPE), folder / "encoder", folder / task
        )
    heads = {
        "multi_label": (AutoModelForSequenceClassification, {"problem_type": "multi_label_classification"}),
        "question_answering": (AutoModelForQuestionAnswering, {}),
    }
    for name, (auto_class, keys) in heads.items():
        auto_class.from_pretrained(folder / "encoder", **keys).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return {name: folder / name for name in ("encoder", "classification", "ner", *heads)}


def labelled(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def bad_lines(path: Path) -> list[tuple[int, str]]:
    return [(row["line"], row["raw"]) for row in labelled(path.with_name(f"{path.name}.bad.jsonl"))]


# -- what is said ---------------------------------------------------------------------------------------------------


def test_classes_in_the_order_of_the_input(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 7)
    texts = [row["text"] for row in separable_texts(20, seed=5)]
    (tmp_path / "in.txt").write_text("\n".join(texts[:10]) + "\n\n" + "\n".join(texts[10:]), encoding="utf-8")
    assert predict(models["classification"], tmp_path / "in.txt", tmp_path / "out.jsonl", batch_size=3) == {
        "texts": 20,
        "bad_lines": 0,
        "truncated": 0,
    }
    rows = labelled(tmp_path / "out.jsonl")
    assert [row["text"] for row in rows] == texts
    model = AutoModelForSequenceClassification.from_pretrained(models["classification"]).eval()
    tokenizer = AutoTokenizer.from_pretrained(models["classification"])
    for row in rows:
        with torch.inference_mode():
            logits = model(**tokenizer(row["text"], return_tensors="pt")).logits[0]
        chances = (logits / model.config.calibration_temperature).softmax(-1)
        assert row["label"] == model.config.id2label[int(chances.argmax())]
        assert row["score"] == pytest.approx(chances.max().item(), rel=1e-4)


def test_entities_have_offsets_into_the_text_however_long(models: dict[str, Path], tmp_path: Path) -> None:
    text = "the  train " + "the Berlin Spree train  " * 60
    (tmp_path / "in.jsonl").write_text(json.dumps({"body": text}) + "\n", encoding="utf-8")
    predict(models["ner"], tmp_path / "in.jsonl", tmp_path / "out.jsonl", text_column="body")
    (row,) = labelled(tmp_path / "out.jsonl")
    starts = [place for place in range(len(text)) if text.startswith("Berlin", place)]
    found = [entity for entity in row["entities"] if entity["text"] == "Berlin Spree"]
    assert [entity["start"] for entity in found] == starts
    assert all(entity["type"] == "LOC" and 0.5 < entity["score"] <= 1.0 for entity in row["entities"])
    assert all(text[entity["start"] : entity["end"]] == entity["text"] for entity in row["entities"])


def test_pairs_questions_and_ids_go_along(models: dict[str, Path], tmp_path: Path) -> None:
    rows = [{"id": 7, "premise": "the river", "claim": "Berlin"}, {"premise": "people " * 99, "claim": "at"}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"text_column": "premise", "text_pair_column": "claim"}
    out = tmp_path / "out.jsonl"
    counts = predict(models["classification"], tmp_path / "in.jsonl", out, **columns)
    assert counts == {"texts": 2, "bad_lines": 0, "truncated": 1}
    first, second = labelled(out)
    assert list(first) == ["id", "text", "text_pair", "label", "score"]
    assert (first["id"], first["text"], first["text_pair"]) == (7, "the river", "Berlin")
    assert list(second) == ["text", "text_pair", "label", "score"]
    (tmp_path / "qa.jsonl").write_text('{"q": "where?", "context": "at the river Spree", "id": "a"}\n')
    predict(models["question_answering"], tmp_path / "qa.jsonl", out, question_column="q")
    (row,) = labelled(out)
    assert list(row)[:3] == ["id", "question", "context"]
    assert row["answer"] and row["context"][row["start"] : row["end"]] == row["answer"]


def test_a_model_of_pairs_says_so_where_the_second_text_is_missing(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": "the river", "claim": claim, "label": claim} for claim in ("Berlin", "Mombasa") * 8]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = TaskConfig(
        task="classification", name="pairs", train=str(tmp_path / "pairs.jsonl"), text_pair_column="claim", **RECIPE
    )
    finetune(task.model_copy(update={"max_steps": 1}), models["encoder"], tmp_path / "model")
    out = tmp_path / "out.jsonl"
    for model, columns, warned in (
        (tmp_path / "model", {}, True),
        (tmp_path / "model", {"text_pair_column": "claim"}, False),
        (models["classification"], {}, False),
    ):
        capsys.readouterr()
        predict(model, tmp_path / "pairs.jsonl", out, **columns)
        assert ("--text-pair-column" in capsys.readouterr().err) == warned


def test_rows_of_all_formats_say_the_same(models: dict[str, Path], tmp_path: Path) -> None:
    texts = [row["text"] for row in separable_texts(12, seed=1)]
    for name, delimiter in (("in.csv", ","), ("in.tsv", "\t")):
        with (tmp_path / name).open("w", encoding="utf-8-sig", newline="") as handle:
            csv.writer(handle, delimiter=delimiter).writerows([["text", "n"], *([text, 1] for text in texts)])
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (tmp_path / "in.txt").write_bytes("\r\n".join(texts).encode())
    for name in ("in.jsonl", "in.txt", "in.csv"):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    outputs = set()
    for path in sorted(tmp_path.glob("in.*")):
        predict(models["classification"], path, tmp_path / "out.jsonl")
        outputs.add((tmp_path / "out.jsonl").read_bytes())
    assert len(outputs) == 1 and len(labelled(tmp_path / "out.jsonl")) == 12


def test_tables(models: dict[str, Path], tmp_path: Path) -> None:
    texts = ['the "river"', "at, the\r\ntrain", "people"]
    rows = [{"text": text, **({"id": number} if number else {})} for number, text in enumerate(texts)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    predict(models["classification"], tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    expected = labelled(tmp_path / "out.jsonl")
    for name, delimiter in (("out.csv", ","), ("out.tsv", "\t")):
        predict(models["classification"], tmp_path / "in.jsonl", tmp_path / name)
        with (tmp_path / name).open(encoding="utf-8", newline="") as handle:
            table = list(csv.DictReader(handle, delimiter=delimiter))
        assert [row["text"] for row in table] == texts and [row["id"] for row in table] == ["", "1", "2"]
        assert [(row["label"], float(row["score"])) for row in table] == [(r["label"], r["score"]) for r in expected]
    for task in ("ner", "multi_label"):
        with pytest.raises(UserError, match=r"no single value, which a table can't hold; give a \.jsonl file"):
            predict(models[task], tmp_path / "in.jsonl", tmp_path / "other.csv")
    assert not list(tmp_path.glob("*other*")) and not list(tmp_path.glob(".*"))


# -- bad input ------------------------------------------------------------------------------------------------------


def test_bad_lines_are_left_out_and_kept_aside(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [
        b'{"text": "the Berlin", "id": "\\ud83d\\ude00"}',
        *(b'{"text": 3}', b'{"txt": "x"}', b'{"text": ', b"\xff", b"[1]", b'{"text": "\\ud800"}'),
        *(b"", b'{"text": "the Mombasa"}'),
        *(b'{"text": "x", "id": ["\\udfff"]}', b'{"text": "x", "id": ' + b"9" * 5000 + b"}"),
    ]
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines))
    counts = {"texts": 2, "bad_lines": 8, "truncated": 0}
    assert predict(models["classification"], tmp_path / "in.jsonl") == counts
    captured = capsys.readouterr()
    assert [json.loads(line)["text"] for line in captured.out.splitlines()] == ["the Berlin", "the Mombasa"]
    assert "warning: 8 lines could not be read" in captured.err
    assert "in.jsonl:2: text is 3; it must be a string" in captured.err
    assert not list(tmp_path.glob("*bad*"))
    assert predict(models["classification"], tmp_path / "in.jsonl", tmp_path / "out.jsonl") == counts
    assert (tmp_path / "out.jsonl").read_text(encoding="utf-8") == captured.out
    raw = [line.decode("utf-8", "replace") for line in lines]
    assert bad_lines(tmp_path / "out.jsonl") == [(number, raw[number - 1]) for number in (2, 3, 4, 5, 6, 7, 10, 11)]
    problems = [row["problem"] for row in labelled(tmp_path / "out.jsonl.bad.jsonl")]
    assert "not valid JSON" in problems[2] and "set encoding" in problems[3] and "lone surrogate" in problems[5]
    (tmp_path / "in.jsonl").write_bytes(lines[0])
    predict(models["classification"], tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl.bad.jsonl").exists()  # those were of another input


def test_tables_are_read_as_the_flags_say(models: dict[str, Path], tmp_path: Path) -> None:
    model, wanted = str(models["classification"]), ["“the” größe", 'the "river', "the lake"]
    content = "text;label\n" + "".join(f"{text};{label}\n" for text, label in zip(wanted, "xyx", strict=True))
    (tmp_path / "in.csv").write_text(content, encoding="cp1252")
    flags = ["--encoding", "cp1252", "--delimiter", ";", "--quoting", "none"]
    out = tmp_path / "out.jsonl"
    assert main(["predict", model, str(tmp_path / "in.csv"), "--output", str(out), *flags]) == 0
    assert [row["text"] for row in labelled(out)] == wanted
    arrays = tmp_path / "out.parquet"
    assert main(["embed", model, str(tmp_path / "in.csv"), "--output", str(arrays), *flags]) == 0
    assert pq.read_table(arrays)["text"].to_pylist() == wanted
    assert main(["evaluate", model, "--data", str(tmp_path / "in.csv"), "--out", str(tmp_path / "scores"), *flags]) == 0
    assert json.loads((tmp_path / "scores" / "results.json").read_text())["examples"] == 3
    pq.write_table(pa.table({"text": wanted}), tmp_path / "in.parquet")
    predict(models["classification"], tmp_path / "in.parquet", tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == out.read_bytes()
    with pytest.raises(UserError, match="set delimiter: ';'"):
        predict(models["classification"], tmp_path / "in.csv", encoding="cp1252")


def test_bad_input(models: dict[str, Path], tmp_path: Path) -> None:
    good, empty, wrong = tmp_path / "good.txt", tmp_path / "empty.txt", tmp_path / "wrong.jsonl"
    good.write_text("the river")
    empty.write_text("\n\n")
    wrong.write_text('{"sentence": "x"}\n{}\n')
    cut = tmp_path / "cut.txt.gz"
    cut.write_bytes(gzip.compress(os.urandom(9999).hex().encode())[:-2000])
    out = tmp_path / "out.jsonl"
    ner = models["ner"]
    for problem, arguments in {
        r"missing\.txt: no such file": (ner, tmp_path / "missing.txt", out),
        r"empty\.txt: no text in it": (ner, empty, out),
        r"wrong\.jsonl:1: no column 'text' .* sentence; the same for each of the first 2": (
            ner,
            wrong,
            out,
        ),
        r"cut\.txt\.gz: the file is damaged or cut off": (ner, cut, out),
        r"x\.parquet: the file is damaged": (ner, tmp_path / "x.parquet", out),
        "ForMaskedLM labels nothing": (models["encoder"], good, out),
        "no transformers checkpoint there": (tmp_path, good, out),
        r"out\.xml: predictions go to a \.jsonl": (ner, good, tmp_path / "out.xml"),
        "would replace the input": (ner, wrong, wrong),
        r"can't write: .*good\.txt is no folder": (ner, good, good / "out.jsonl"),
    }.items():
        if "x.parquet" in str(arguments[1]):
            arguments[1].write_bytes(b"PAR1")
        with pytest.raises(UserError, match=problem):
            predict(*arguments)
    with pytest.raises(UserError, match="batch_size: 0"):
        predict(ner, good, out, batch_size=0)
    assert not out.exists() and not list(tmp_path.glob(".*"))


def test_what_is_no_file_stays_what_it_is(models: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("the river\npeople")
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    predict(models["classification"], tmp_path / "in.txt", tmp_path / "pipe")
    assert [json.loads(line)["text"] for line in os.read(reader, 9999).splitlines()] == ["the river", "people"]
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()
