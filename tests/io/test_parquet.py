"""Parquet columns as pandas, Spark, polars and `datasets` write them, in each reader; integers and their names."""

from __future__ import annotations

import decimal
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from mlm_pretrain.config import SourceConfig, TaskConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.io.files.records import Records
from mlm_pretrain.tasks.kinds.registered import TASKS
from mlm_pretrain.text.mixture import documents
from mlm_pretrain.text.sources import SOURCES
from tests.tasks.examples import read_examples

TEXTS = [f"größer {number}" for number in range(6)]
TEXT = pa.array(TEXTS)
KINDS = {
    "dictionary": TEXT.dictionary_encode(),
    "large": TEXT.cast(pa.large_string()),
    "view": TEXT.cast(pa.string_view()),
    "binary": TEXT.cast(pa.binary()),
    "large binary": TEXT.cast(pa.large_binary()),
    "a view of bytes": TEXT.cast(pa.binary()).cast(pa.binary_view()),
    "bytes in a dictionary": TEXT.cast(pa.binary()).dictionary_encode(),
}


def pretrained(path: Path) -> tuple[list[str], dict[str, int]]:
    source = SourceConfig(source="files", path=str(path))
    dropped: Counter[str] = Counter()
    return [each.text for row in SOURCES["files"](source) for each in documents(row, source, dropped)], dict(dropped)


@pytest.mark.parametrize("kind", KINDS)
def test_text_of_any_type_is_text_in_every_reader(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": KINDS[kind]}), path)
    assert pretrained(path) == (TEXTS, {})
    assert [record.row for record in Records(path)] == [{"text": text} for text in TEXTS]
    assert [record.row["text"] for record in Records(path, skip=4)] == TEXTS[4:]


def test_lists_of_bytes_and_of_dictionaries_are_lists_of_text(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    words, tags = [["Oslo", "rains"], ["no"]], [["B-LOC", "O"], ["O"]]
    kinds = pa.large_list(pa.binary()), pa.list_(pa.dictionary(pa.int8(), pa.string()))
    pq.write_table(pa.table({"tokens": pa.array(words).cast(kinds[0]), "tags": pa.array(tags).cast(kinds[1])}), path)
    task = TaskConfig(task="ner", name="t", tags_column="tags")
    examples = read_examples(path, TASKS["ner"], task)
    assert [(each["tokens"], each["tags"]) for each in examples] == list(zip(words, tags, strict=True))


def test_of_two_columns_with_one_name_both_are_kept_and_the_first_has_it(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table([pa.array(TEXTS), pa.array(TEXTS[::-1])], names=["text", "text"]), path)
    assert [record.row for record in Records(path)] == [
        {"text": first, "text.1": second} for first, second in zip(TEXTS, TEXTS[::-1], strict=True)
    ]
    assert pretrained(path) == (TEXTS, {})


def test_bytes_that_are_no_text_are_dropped_or_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [b"good", b"\xff\xfe\xfd"], "label": [0, 1]}), path)
    assert pretrained(path) == (["good"], {"undecodable": 1})
    with pytest.raises(UserError, match=r"a\.parquet, row 1: text is b'.*it must be a string"):
        read_examples(path, TASKS["classification"], TaskConfig(task="classification", name="t"))


def test_numbers_of_any_type_are_numbers(tmp_path: Path) -> None:
    values = [0, 1, 3, 2, 5, 4]
    columns = {
        "decimal": pa.array([decimal.Decimal(value) for value in values], pa.decimal128(9, 2)),
        "half": pa.array(values, pa.float32()).cast(pa.float16()),
        "byte": pa.array(values, pa.uint8()),
    }
    for name, column in columns.items():
        pq.write_table(pa.table({"text": TEXT, "label": column}), tmp_path / f"{name}.parquet")
        for task, wanted in (("classification", list(map(str, values))), ("regression", list(map(float, values)))):
            config = TaskConfig(task=task, name="t")
            examples = read_examples(tmp_path / f"{name}.parquet", TASKS[task], config)
            assert [example["label"] for example in examples] == wanted, name
    parts = pa.array([decimal.Decimal(value) / 4 for value in values], pa.decimal128(9, 2))
    pq.write_table(pa.table({"text": TEXT, "label": parts}), tmp_path / "a.parquet")
    examples = read_examples(tmp_path / "a.parquet", TASKS["regression"], TaskConfig(task="regression", name="t"))
    assert [example["label"] for example in examples] == [value / 4 for value in values]


def write(path: Path, rows: dict[str, Any], features: dict[str, Any]) -> None:
    dataset = Dataset.from_dict(rows, features=Features(features))
    dataset.to_parquet(path.with_suffix(".parquet"))
    dataset.to_json(path.with_suffix(".jsonl"))
    dataset.to_csv(path.with_suffix(".csv"))


def test_names_that_the_file_has_are_used_and_others_are_given(tmp_path: Path) -> None:
    names = ["water", "wind", "sun"]
    labels = [0, 2, 1, 2, 1, 0]
    features = {"text": Value("string"), "label": ClassLabel(names=names)}
    write(tmp_path / "a", {"text": TEXTS, "label": labels}, features)
    wanted = [names[label] for label in labels]
    for form, given in (("parquet", None), ("jsonl", names), ("csv", names), ("parquet", names)):
        task = TaskConfig(task="classification", name="t", label_names=given)
        examples = read_examples(tmp_path / f"a.{form}", TASKS["classification"], task)
        assert [example["label"] for example in examples] == wanted
    bare = read_examples(tmp_path / "a.jsonl", TASKS["classification"], TaskConfig(task="classification", name="t"))
    assert [example["label"] for example in bare] == list(map(str, labels))


def test_a_number_without_a_name_has_no_label(tmp_path: Path) -> None:
    features = {"text": Value("string"), "label": ClassLabel(names=["a", "b"])}
    write(tmp_path / "a", {"text": TEXTS, "label": [0, 1, -1, 0, 1, None]}, features)
    task = TaskConfig(task="classification", name="t")
    with pytest.raises(UserError, match=r"a\.parquet, row 2: the label is -1, which is the number of no class.*2 of 6"):
        read_examples(tmp_path / "a.parquet", TASKS["classification"], task)
    dropped = task.model_copy(update={"on_bad_examples": "drop"})
    examples = read_examples(tmp_path / "a.parquet", TASKS["classification"], dropped)
    assert [example["label"] for example in examples] == ["a", "b", "a", "b"]


def test_names_of_tags(tmp_path: Path) -> None:
    names = ["O", "B-LOC", "I-LOC"]
    rows = {"tokens": [["in", "New", "York"], ["home"]], "ner_tags": [[0, 1, 2], [0]]}
    features = {"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=names))}
    write(tmp_path / "a", rows, features)
    wanted = [["O", "B-LOC", "I-LOC"], ["O"]]
    words = "".join(f"{word}\t{tag}\n" for word, tag in zip(rows["tokens"][0], rows["ner_tags"][0], strict=True))
    (tmp_path / "a.conll").write_text(words + "\nhome\t0\n")
    (tmp_path / "b.csv").write_text("tokens,ner_tags\nin New York,0 1 2\nhome,0\n")
    for name, given in (("a.parquet", None), ("a.jsonl", names), ("a.conll", names), ("b.csv", names)):
        for kind in ("ner", "tagging"):
            task = TaskConfig(task=kind, name="t", label_names=given)
            examples = read_examples(tmp_path / name, TASKS[kind], task)
            assert [example["tags"] for example in examples] == wanted, name
    task = TaskConfig(task="tagging", name="t")
    assert read_examples(tmp_path / "a.jsonl", TASKS["tagging"], task)[0]["tags"] == ["0", "1", "2"]
    with pytest.raises(UserError, match=r"a\.jsonl:1, word 1: '0' is a number.*label_names: \[O, B-"):
        read_examples(tmp_path / "a.jsonl", TASKS["ner"], TaskConfig(task="ner", name="t"))


def test_older_files_name_lists_of_classes_otherwise(tmp_path: Path) -> None:
    features = {"tags": [{"names": ["x", "y"], "_type": "ClassLabel"}], "text": {"dtype": "string", "_type": "Value"}}
    table = pa.table({"tags": [[0, 1]], "text": ["a b"]})
    described = json.dumps({"info": {"features": features}})
    pq.write_table(table.replace_schema_metadata({"huggingface": described}), tmp_path / "a.parquet")
    records = Records(tmp_path / "a.parquet")
    assert [record.row["text"] for record in records] == ["a b"] and records.class_names == {"tags": ["x", "y"]}
    pq.write_table(table.replace_schema_metadata({"huggingface": "{"}), tmp_path / "a.parquet")
    assert [record.row["tags"] for record in Records(tmp_path / "a.parquet")] == [[0, 1]]
