"""Embeddings are those of sentence-transformers, in the order of the input, the same in every file format."""

from __future__ import annotations

import gzip
import json
import warnings
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from mlm_pretrain.errors import UserError
from mlm_pretrain.tasks.serve import embed as module
from mlm_pretrain.tasks.serve.embed import Pooling, embed
from tests.tasks.conftest import SENTENCES, separable_texts

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its imports
    from sentence_transformers import SentenceTransformer

TEXTS = [row["text"] for row in separable_texts(9, seed=3)] + ["", *SENTENCES, "  ", "the " * 100]


@pytest.fixture
def jsonl(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text, "id": n}) + "\n" for n, text in enumerate(TEXTS)))
    return path


def table(path: Path) -> tuple[list[str], np.ndarray]:
    read = pyarrow.parquet.read_table(path)
    return read["text"].to_pylist(), np.array(read["embedding"].to_pylist(), dtype=np.float32)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("normalize", [False, True])
def test_vectors_are_those_of_sentence_transformers(
    encoder: Path, jsonl: Path, tmp_path: Path, pooling: Pooling, normalize: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 7)  # not a multiple of the batch, nor a divisor of the count
    saved = tmp_path / "saved"
    counts = embed(
        encoder,
        jsonl,
        tmp_path / "out.npy",
        pooling=pooling,
        normalize=normalize,
        batch_size=3,
        max_length=40,
        save_model=saved,
    )
    assert counts == {"texts": len(TEXTS), "bad_lines": 0, "truncated": 1}
    ours = np.load(tmp_path / "out.npy", allow_pickle=False)
    assert (ours.shape, ours.dtype) == ((len(TEXTS), 32), np.float32)
    theirs = SentenceTransformer(str(saved), device="cpu")
    assert theirs.max_seq_length == 40
    np.testing.assert_allclose(ours, theirs.encode(TEXTS, batch_size=5), rtol=1e-4, atol=1e-6)
    # And those of the definition, one text at a time.
    tokenizer, model = AutoTokenizer.from_pretrained(encoder), AutoModel.from_pretrained(encoder).eval()
    for text, vector in zip(TEXTS, ours, strict=True):
        with torch.inference_mode():
            inputs = tokenizer(text, truncation=True, max_length=40, return_tensors="pt")
            hidden = model(**inputs).last_hidden_state[0]
        wanted = hidden.mean(0) if pooling == "mean" else hidden[0]
        wanted = wanted / wanted.norm() if normalize else wanted
        np.testing.assert_allclose(vector, wanted.numpy(), rtol=1e-4, atol=1e-5)


def test_all_formats_give_the_same_rows(
    encoder: Path, jsonl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 4)
    embed(encoder, jsonl, tmp_path / "out.npy")
    embed(encoder, jsonl, tmp_path / "deeper" / "out.parquet")
    matrix = np.load(tmp_path / "out.npy", allow_pickle=False)
    texts, vectors = table(tmp_path / "deeper" / "out.parquet")
    assert texts == TEXTS and np.array_equal(vectors, matrix)
    read = pyarrow.parquet.read_table(tmp_path / "deeper" / "out.parquet")
    assert read.column_names == ["text", "embedding", "id"]
    assert str(read.schema.field("embedding").type).startswith("fixed_size_list") and read["id"].to_pylist()[-1] == 16

    (tmp_path / "in.txt").write_text("\n".join(TEXTS) + "\n")
    with gzip.open(tmp_path / "in.jsonl.gz", "wt") as handle:
        handle.writelines(json.dumps({"body": text}) + "\n\n" for text in TEXTS)
    pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS}), tmp_path / "in.parquet")
    (tmp_path / "in.csv").write_text("id,text\n" + "".join(f'x{n},"{text}"\n' for n, text in enumerate(TEXTS)))
    for name, column in (("in.txt", "text"), ("in.jsonl.gz", "body"), ("in.parquet", "text"), ("in.csv", "text")):
        embed(encoder, tmp_path / name, tmp_path / "again.parquet", text_column=column)
        texts, vectors = table(tmp_path / "again.parquet")
        assert texts == TEXTS and np.array_equal(vectors, matrix), name
    assert pyarrow.parquet.read_table(tmp_path / "again.parquet")["id"].to_pylist()[:2] == ["x0", "x1"]


def test_the_heads_of_tasks_do_not_matter(encoder: Path, jsonl: Path, tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(encoder)
    model.save_pretrained(tmp_path / "task")
    AutoTokenizer.from_pretrained(encoder).save_pretrained(tmp_path / "task")
    embed(encoder, jsonl, tmp_path / "a.npy")
    embed(tmp_path / "task", jsonl, tmp_path / "b.npy")
    assert np.array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"))


def test_bf16_is_close(encoder: Path, jsonl: Path, tmp_path: Path) -> None:
    embed(encoder, jsonl, tmp_path / "a.npy", normalize=True)
    embed(encoder, jsonl, tmp_path / "b.npy", normalize=True, bf16=True)
    exact, rough = np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy")
    assert rough.dtype == np.float32 and not np.array_equal(exact, rough)
    assert (exact * rough).sum(1).min() > 0.999


def test_bad_lines_have_no_row(encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = b'{"text": "a"}\n{"text": 3}\n{"txt": "x"}\n{"text": \n\xff\n\n{"text": "\\ud800"}\n{"text": "b"}'
    (tmp_path / "in.jsonl").write_bytes(content)
    counts = embed(encoder, tmp_path / "in.jsonl", tmp_path / "out.parquet")
    assert counts == {"texts": 2, "bad_lines": 5, "truncated": 0}
    assert table(tmp_path / "out.parquet")[0] == ["a", "b"]
    assert "in.jsonl:2: no text in 'text'; the columns are text" in capsys.readouterr().err
    (tmp_path / "in.csv").write_text("text,n\nBerlin,1\ntext,n\nSpree,2\nno number\n", encoding="utf-8")
    embed(encoder, tmp_path / "in.csv", tmp_path / "out.npy")
    summary = "in.csv: 2 records, the longest has 6 characters (line 2); dropped: 1 repeated header, 1 can't be read"
    assert summary in capsys.readouterr().err


def test_saved_models_are_the_same_again_and_replace_only_themselves(
    encoder: Path, jsonl: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "saved"
    embed(encoder, jsonl, tmp_path / "out.npy", normalize=True, save_model=saved)
    before = {path.relative_to(saved): path.read_bytes() for path in saved.rglob("*") if path.is_file()}
    torch.rand(3)
    state = torch.random.get_rng_state()
    embed(encoder, jsonl, tmp_path / "out.npy", normalize=True, save_model=saved)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert {path.relative_to(saved): path.read_bytes() for path in saved.rglob("*") if path.is_file()} == before
    assert all(path.stat().st_mode & 0o100 for path in saved.iterdir() if path.is_dir())  # can be entered
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="mine: exists and is no sentence-transformers model"):
        embed(encoder, jsonl, tmp_path / "out.npy", save_model=other)
    assert (other / "thesis.txt").read_text() == "x"


def test_bad_input(encoder: Path, jsonl: Path, tmp_path: Path) -> None:
    empty, wrong, mixed = tmp_path / "empty.txt", tmp_path / "wrong.csv", tmp_path / "mixed.jsonl"
    empty.write_text("")
    wrong.write_text("sentence\nx\n")
    mixed.write_text('{"text": "a", "id": 1}\n{"text": "b", "id": "one"}\n')
    out = tmp_path / "out.parquet"
    with pytest.raises(UserError, match=r"out\.txt: embeddings go to a \.npy or \.parquet file"):
        embed(encoder, jsonl, tmp_path / "out.txt")
    with pytest.raises(UserError, match="pooling: 'median'; it is one of mean, cls, max"):
        embed(encoder, jsonl, out, pooling="median")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"missing\.txt: no such file"):
        embed(encoder, tmp_path / "missing.txt", out)
    with pytest.raises(UserError, match=r"empty\.txt: no text in it"):
        embed(encoder, empty, out)
    with pytest.raises(UserError, match=r"wrong\.csv:2: no text in 'text'; the columns are sentence"):
        embed(encoder, wrong, out)
    with pytest.raises(UserError, match="id: the values are of several kinds"):
        embed(encoder, mixed, out)
    with pytest.raises(UserError, match="max_length: 65 tokens are more than the 64"):
        embed(encoder, jsonl, out, max_length=65)
    with pytest.raises(UserError, match="no transformers checkpoint there"):
        embed(tmp_path, jsonl, out)
    with pytest.raises(UserError, match=r"texts\.jsonl/out\.npy: can't write"):
        embed(encoder, jsonl, jsonl / "out.npy")
    assert not out.exists() and not list(tmp_path.glob(".*"))
