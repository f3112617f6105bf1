"""Sources: labels, the hub source on local folders, resume, errors in one line, fingerprints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlm_pretrain.config import SourceConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.text.sources import SOURCES, fingerprint_source, source_label

TEXTS = [f"document {number}: größer, 更大" for number in range(25)]


def write_corpus(folder: Path, form: str, texts: list[str], stem: str) -> None:
    path = folder / f"{stem}.{form}"
    if form == "parquet":
        pq.write_table(pa.table({"text": texts, "other": list(range(len(texts)))}), path, row_group_size=4)
    else:
        path.write_text("".join(json.dumps({"id": 1, "text": text}) + "\n" for text in texts))


def config(path: str | Path | list[str]) -> SourceConfig:
    return SourceConfig(source="files", path=path if isinstance(path, list) else str(path))


def test_labels_are_short_and_hold_no_folders(tmp_path: Path) -> None:
    names = ["corpus.jsonl.gz", "data/*.txt", "data/**/*.txt", "books", ["a/x.txt", "b.txt"], "*.txt"]
    sources = [config(str(tmp_path / name) if isinstance(name, str) and name != "*.txt" else name) for name in names]
    assert [source_label(source) for source in sources] == ["corpus", "data", "data", "books", "x", "files"]
    assert source_label(SourceConfig(source="hub", path="org/set", name="en")) == "org/set/en"
    assert source_label(SourceConfig(source="hub", path=str(tmp_path))) == tmp_path.name
    assert source_label(SourceConfig(source="installed_docs")) == "installed_docs"
    assert source_label(SourceConfig(source="hub", path="org/set", label="mine")) == "mine"


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_local_dataset_folder_goes_through_the_hub_source_and_resumes(tmp_path: Path, form: str) -> None:
    write_corpus(tmp_path, form, TEXTS, "train")
    source = SourceConfig(source="hub", path=str(tmp_path), label="local")
    whole = list(SOURCES["hub"](source))
    assert whole == [{"text": text, "source": "local", "dropped": None} for text in TEXTS]
    for taken in (0, 1, 13, len(TEXTS)):
        first = SOURCES["hub"](source)
        rows = iter(first)
        head = [next(rows) for _ in range(taken)]
        again = SOURCES["hub"](source)
        again.load_state_dict(first.state_dict())
        assert head + list(again) == whole


def test_a_dataset_of_few_parquet_files_is_divided_by_row_groups_and_each_part_resumes(tmp_path: Path) -> None:
    write_corpus(tmp_path, "parquet", TEXTS, "train")
    source = SourceConfig(source="hub", path=str(tmp_path))
    shards = SOURCES["hub"](source).num_shards
    assert shards == 7
    found = []
    for index in range(shards):
        length = len(list(SOURCES["hub"](source).shard(shards, index)))
        for taken in range(length + 1):
            first = SOURCES["hub"](source).shard(num_shards=shards, index=index)
            rows = iter(first)
            head = [next(rows) for _ in range(taken)]
            again = SOURCES["hub"](source).shard(num_shards=shards, index=index)
            again.load_state_dict(json.loads(json.dumps(first.state_dict())))
            read = head + list(again)
            assert len(read) == length
        found += read
    assert [row["text"] for row in found] == TEXTS


def test_errors_of_the_hub_source_are_one_line(tmp_path: Path) -> None:
    write_corpus(tmp_path, "jsonl", TEXTS, "train")
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "needs one path"),
        ({"path": str(tmp_path), "split": "tests"}, "tests"),
        ({"path": str(tmp_path), "text_column": "texts"}, "did you mean 'text'"),
        ({"path": str(tmp_path), "name": "nope"}, "nope"),
        ({"path": "json"}, "give its files as data_files"),
        ({"path": "json", "data_files": {"train": str(tmp_path / "*.nope")}}, "no file matches"),
        ({"path": str(tmp_path), "options": {"trust_remote_code": True}}, "'trust_remote_code' cannot be set"),
        ({"path": str(tmp_path), "options": {"colums": ["text"]}}, "colums"),
        ({"path": str(tmp_path / "missing" / "deep" / "er")}, "cannot load this dataset"),
    ]
    for keys, message in cases:
        with pytest.raises(UserError, match=message) as caught:
            SOURCES["hub"](SourceConfig(source="hub", **keys))
        assert "\n" not in str(caught.value)


def test_a_column_of_a_hub_dataset_that_is_no_text_is_marked(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [["a"], None]}), tmp_path / "train.parquet")
    rows = SOURCES["hub"](SourceConfig(source="hub", path=str(tmp_path)))
    assert [(row["text"], row["dropped"]) for row in rows] == [(None, "not_text"), (None, None)]


def test_the_fingerprint_follows_the_content_and_not_the_place(tmp_path: Path) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        write_corpus(tmp_path / name, "jsonl", TEXTS, "a")
        write_corpus(tmp_path / name, "jsonl", TEXTS, "b")
    here, there = (fingerprint_source(config(tmp_path / name)) for name in ("here", "there"))
    assert here == there and json.loads(json.dumps(here)) == here
    assert [entry["name"] for entry in here["files"]] == ["a.jsonl", "b.jsonl"]
    for name, texts in (("shorter", TEXTS[:-1]), ("changed", ["DOCUMENT" + TEXTS[0][8:], *TEXTS[1:]])):
        write_corpus(tmp_path / "there", "jsonl", texts, "b")
        assert fingerprint_source(config(tmp_path / "there")) != here, name


def test_fingerprints_of_the_other_sources(tmp_path: Path) -> None:
    write_corpus(tmp_path, "jsonl", TEXTS, "train")
    folder = fingerprint_source(SourceConfig(source="hub", path=str(tmp_path)))
    assert [entry["name"] for entry in folder["files"]] == ["train.jsonl"]
    by_format = {"source": "hub", "path": "json", "data_files": str(tmp_path / "*.jsonl")}
    assert fingerprint_source(SourceConfig(**by_format))["files"] == folder["files"]  # type: ignore[arg-type]
    docs = fingerprint_source(SourceConfig(source="installed_docs"))
    assert docs["python"] and "numpy" in docs["distributions"] and "pytest" not in docs["distributions"]
    own = SourceConfig(source="my_source", options={"a": 1})
    assert fingerprint_source(own) == own.model_dump(mode="json")


def test_a_misspelt_source_is_named_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"text\.sources\.source: no text source is named 'file'; did you mean 'files'"):
        SOURCES["file"]
