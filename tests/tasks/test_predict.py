"""Labelling raw text: same answers as the model, in order, with offsets into the text, bad lines counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.tasks import predict as module
from mlm_pretrain.tasks.finetune import finetune
from mlm_pretrain.tasks.predict import predict, split_words
from tests.tasks.conftest import SENTENCES, conll, make_tokenizer, separable_sentences, separable_texts, tiny_masked_lm

RECIPE = {"num_train_epochs": 10, "learning_rate": 5e-3, "bf16": False, "per_device_train_batch_size": 8, "seeds": [0]}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A fine-tuned model a task."""
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
    return {name: folder / name for name in ("encoder", "classification", "ner")}


def labelled(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_classes_in_the_order_of_the_input(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 7)
    texts = [row["text"] for row in separable_texts(20, seed=5)]
    (tmp_path / "in.txt").write_text("\n".join(texts[:10]) + "\n\n" + "\n".join(texts[10:]), encoding="utf-8")
    assert predict(models["classification"], tmp_path / "in.txt", tmp_path / "out.jsonl", batch_size=3) == {
        "texts": 20,
        "bad_lines": 0,
    }
    rows = labelled(tmp_path / "out.jsonl")
    assert [row["text"] for row in rows] == texts
    model = AutoModelForSequenceClassification.from_pretrained(models["classification"]).eval()
    tokenizer = AutoTokenizer.from_pretrained(models["classification"])
    for row in rows:
        with torch.inference_mode():
            chances = model(**tokenizer(row["text"], return_tensors="pt")).logits.softmax(-1)[0]
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


def test_bad_lines_are_left_out_and_counted(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = b'{"text": "the Berlin"}\n{"text": 3}\n{"txt": "x"}\n{"text": \n\xff\n\n{"text": "the Mombasa"}\n'
    (tmp_path / "in.jsonl").write_bytes(content)
    assert predict(models["classification"], tmp_path / "in.jsonl") == {"texts": 2, "bad_lines": 4}
    captured = capsys.readouterr()
    assert [json.loads(line)["text"] for line in captured.out.splitlines()] == ["the Berlin", "the Mombasa"]
    assert "warning: 4 lines could not be read" in captured.err and "in.jsonl:2: no text in 'text'" in captured.err


def test_bad_input(models: dict[str, Path], tmp_path: Path) -> None:
    good, empty, wrong = tmp_path / "good.txt", tmp_path / "empty.txt", tmp_path / "wrong.jsonl"
    good.write_text("the river")
    empty.write_text("\n\n")
    wrong.write_text('{"sentence": "x"}\n')
    with pytest.raises(UserError, match=r"missing\.txt: no such file"):
        predict(models["ner"], tmp_path / "missing.txt", tmp_path / "out.jsonl")
    with pytest.raises(UserError, match=r"empty\.txt: no text in it"):
        predict(models["ner"], empty, tmp_path / "out.jsonl")
    with pytest.raises(UserError, match=r"wrong\.jsonl:1: no text in 'text'; the columns are sentence"):
        predict(models["ner"], wrong, tmp_path / "out.jsonl")
    with pytest.raises(UserError, match="ForMaskedLM labels nothing"):
        predict(models["encoder"], good, tmp_path / "out.jsonl")
    with pytest.raises(UserError, match="no transformers checkpoint there"):
        predict(tmp_path, good, tmp_path / "out.jsonl")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't write"):
        predict(models["ner"], good, tmp_path / "file" / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists() and not list(tmp_path.glob(".*"))


def test_words_of_raw_text() -> None:
    def words(text: str) -> list[str]:
        return [text[start:end] for start, end in split_words(text)]

    assert words("New York, U.S. don't") == ["New", "York", ",", "U", ".", "S", ".", "don", "'", "t"]
    assert words("हिन्दी है!") == ["हिन्दी", "है", "!"]  # vowel signs are marks, not letters
    assert words("cafe\u0301! می\u200cخواهم") == ["cafe\u0301", "!", "می\u200cخواهم"]
    assert words("") == []
    for sentence in SENTENCES:
        assert "".join(words(sentence)) == "".join(sentence.split())
