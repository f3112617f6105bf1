"""Readers of labelled files, and what becomes of their examples."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.tasks.adapter import TaskAdapter
from mlm_pretrain.tasks.data.splits import Splits, complete, read_splits
from mlm_pretrain.tasks.kinds.classification import Classification
from mlm_pretrain.tasks.kinds.ner import TokenClassification
from mlm_pretrain.tasks.kinds.registered import TASKS
from mlm_pretrain.tasks.labels.schemes import valid_iob2
from tests.tasks.examples import read_examples

TASK = TaskConfig(task="classification", name="toy")
NER = TaskConfig(task="ner", name="toy", tags_column="tags")


def read(
    path: Path, content: str | bytes, adapter: type[TaskAdapter] = Classification, task: TaskConfig = TASK
) -> list[dict]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return [{key: row[key] for key in row if key != "place"} for row in read_examples(path, adapter, task)]


def test_jsonl_csv_and_tsv_give_the_same_examples(tmp_path: Path) -> None:
    wanted = [{"text": 'He said "no",\nthen left', "label": "1"}, {"text": "œuf", "label": "0"}]
    rows = [{**row, "label": int(row["label"])} for row in wanted]
    as_jsonl = "".join(json.dumps(row) + "\n" for row in rows)
    as_csv = 'label,text\n1,"He said ""no"",\nthen left"\n0,œuf\n'
    assert read(tmp_path / "a.jsonl", "\ufeff" + as_jsonl) == wanted
    assert read(tmp_path / "a.jsonl.gz", gzip.compress(as_jsonl.encode())) == wanted
    assert read(tmp_path / "a.csv", as_csv) == wanted
    assert read(tmp_path / "a.tsv", as_csv.replace("1,", "1\t").replace("0,", "0\t").replace("l,t", "l\tt")) == wanted


def test_conll_reads_first_and_last_column(tmp_path: Path) -> None:
    content = (
        "-DOCSTART- -X- -X- O\n\n"
        "# sent_id = 1\n"
        "EU NNP B-NP B-ORG\nrejects VBZ B-VP O\n"
        "\n\n"
        "#tag\tO\n#\tO\nNew York\tB-LOC\n\tO\n"  # a hashtag, a lone #, a word with a blank, an empty word
    )
    assert read(tmp_path / "a.conll", content, TokenClassification, NER) == [
        {"tokens": ["EU", "rejects"], "tags": ["B-ORG", "O"]},
        {"tokens": ["#tag", "#", "New York", ""], "tags": ["O", "O", "B-LOC", "O"]},
    ]


def test_words_and_tags_from_jsonl(tmp_path: Path) -> None:
    content = '{"tokens": ["EU", "says"], "tags": ["I-ORG", "O"]}\n'
    assert read(tmp_path / "a.jsonl", content, TokenClassification, NER) == [
        {"tokens": ["EU", "says"], "tags": ["B-ORG", "O"]}
    ]


@pytest.mark.parametrize(
    ("name", "content", "adapter", "problem"),
    [
        ("a.jsonl", "", Classification, "a.jsonl: no examples"),
        ("a.jsonl", '{"text": "x", "label": 1}\n{"text": \n', Classification, "a.jsonl:2: not valid JSON"),
        ("a.jsonl", "[1]\n", Classification, "a.jsonl:1: a JSON list"),
        ("a.jsonl", '{"txt": "x", "label": 1}\n', Classification, "a.jsonl:1: no column 'text'.*did you mean 'txt'"),
        (
            "a.jsonl",
            '{"text": "x", "klass": 1}\n',
            Classification,
            "no column 'label'.*text, klass|allowed: klass, text",
        ),
        ("a.jsonl", '{"text": null, "label": 1}\n', Classification, "a.jsonl:1: text is None"),
        ("a.jsonl", '{"text": "x", "label": 0.5}\n', Classification, "a.jsonl:1: label is 0.5"),
        ("a.jsonl", b'{"text": "\xff", "label": 1}\n', Classification, "a.jsonl:1: not valid utf-8 text; set encoding"),
        ("a.jsonl.gz", b"not gzip", Classification, "a.jsonl.gz: the file is damaged.*Not a gzipped file"),
        ("a.csv", "text,label\na,1\nb\n", Classification, "a.csv:3: 1 field, but the header names 2"),
        ("a.csv", 'text,label\n"a, b",1\n"c, d",2\n"never closed,1\nb,2\n', Classification, "a.csv:4: not valid csv"),
        ("a.csv", "text,label\n", Classification, "a.csv: no examples"),
        ("a.xlsx", "x", Classification, "ends in .jsonl"),
        ("a.conll", "EU\tB-ORG\n#hashtag\n", TokenClassification, "a.conll:2: only one column"),
        ("a.conll", "EU\tX-ORG\n", TokenClassification, "a.conll:1, word 1: 'X-ORG' is not a tag of entities"),
        ("a.jsonl", '{"tokens": ["EU"], "tags": []}\n', TokenClassification, "a.jsonl:1: 1 tokens but 0 tags"),
        ("a.jsonl", '{"tokens": {"0": "EU"}, "tags": "O"}\n', TokenClassification, "a.jsonl:1: tokens must be a list"),
    ],
)
def test_bad_files_are_named_with_their_line(
    tmp_path: Path, name: str, content: str | bytes, adapter: type[TaskAdapter], problem: str
) -> None:
    with pytest.raises(UserError, match=problem):
        read(tmp_path / name, content, adapter, NER if adapter is TokenClassification else TASK)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.jsonl: no such file"):
        read_examples(tmp_path / "nowhere.jsonl", Classification, TASK)
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(UserError, match=r"folder\.jsonl: Is a directory"):
        read_examples(tmp_path / "folder.jsonl", Classification, TASK)
    with pytest.raises(UserError, match="task 'toy': no data"):
        read_splits(TASK, Classification)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["O", "B-a", "I-a", "B-b", "I-b"])))
def test_repaired_tags_are_valid_and_mean_the_same_entities(tags: list[str]) -> None:
    repaired = valid_iob2(tags)
    for previous, tag in zip(["O", *repaired], repaired, strict=False):
        assert not tag.startswith("I-") or previous[2:] == tag[2:]
    assert get_entities(repaired) == get_entities(tags)


def examples(count: int) -> list[dict]:
    return [{"text": f"text {number % 90}", "label": "ab"[number % 10 == 0], "place": ""} for number in range(count)]


def test_validation_is_carved_by_text_and_keeps_duplicates_together() -> None:
    rows = examples(100)  # ten texts stand twice
    data = complete(Splits(rows, None, None), TASK, Classification)
    texts = [{row["text"] for row in part} for part in (data.train, data.validation)]
    assert not texts[0] & texts[1]
    assert len(texts[1]) == 9
    assert len(data.train) + len(data.validation) == len(rows)
    assert data.test_is_validation and data.test == data.validation
    # Neither the order of the file nor what else stands in it decides about a text.
    again = complete(Splits(rows[::-1], None, None), TASK, Classification)
    assert {row["text"] for row in again.validation} == texts[1]


def test_two_texts_at_least_are_needed_to_hold_one_out() -> None:
    assert len(complete(Splits(examples(2), None, None), TASK, Classification).validation) == 1
    with pytest.raises(UserError, match="1 distinct example"):
        complete(Splits(examples(1) * 5, None, None), TASK, Classification)


@pytest.mark.parametrize("limit", [20, 50])
def test_limited_sets_keep_the_shares_of_the_classes(limit: int) -> None:
    task = TASK.model_copy(update={"max_train_samples": limit, "max_eval_samples": 10})
    data = complete(Splits(examples(200), examples(100), examples(100)), task, Classification)
    counts = Counter(row["label"] for row in data.train)
    assert (len(data.train), len(data.validation), len(data.test)) == (limit, 10, 10)
    assert counts["b"] == limit // 10
    more = complete(
        Splits(examples(200), None, None), TASK.model_copy(update={"max_train_samples": limit + 5}), Classification
    )
    assert len(more.train) == limit + 5


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.usefixtures("hub_cache")
def test_hub_datasets_give_class_names(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    for split, labels in (("train", [0, 1, 1]), ("test", [-1, -1])):
        rows = {"text": [f"{split} {number}" for number in range(len(labels))], "label": labels}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")
    task = TaskConfig(task="classification", name="toy", path=str(folder))
    splits = read_splits(task, Classification)
    assert [row["label"] for row in splits.train] == ["no", "yes", "yes"]
    assert splits.test is None  # its labels are hidden
    with pytest.raises(UserError, match=r"data\[test\], row 0: the label is -1"):
        read_splits(task.model_copy(update={"test": "test"}), Classification)
    with pytest.raises(UserError, match="no split 'tests'; did you mean 'test'"):
        read_splits(task.model_copy(update={"test": "tests"}), Classification)
    sliced = read_splits(task.model_copy(update={"train": "train[:2]"}), Classification)
    assert [row["text"] for row in sliced.train] == ["train 0", "train 1"]


@pytest.mark.usefixtures("hub_cache")
def test_hub_datasets_give_tag_names(tmp_path: Path) -> None:
    tags = datasets.Sequence(datasets.ClassLabel(names=["O", "B-x", "I-x"]))
    features = datasets.Features({"tokens": datasets.Sequence(datasets.Value("string")), "ner_tags": tags})
    rows = {"tokens": [["a", "b"]], "ner_tags": [[1, 2]]}
    (tmp_path / "data").mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "data" / "train.parquet")
    splits = read_splits(TaskConfig(task="ner", name="toy", path=str(tmp_path / "data")), TokenClassification)
    assert splits.train[0]["tags"] == ["B-x", "I-x"]


def test_a_dataset_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="task 'toy': can't load the dataset"):
        read_splits(TaskConfig(task="classification", name="toy", path=str(tmp_path / "nothing")), Classification)


def test_questions_about_one_context_stay_on_one_side(tmp_path: Path) -> None:
    contexts = ["It is " + " or ".join(f"no. {number}" for number in range(group, 60, 6)) for group in range(6)]
    rows = []
    for number in range(60):
        context = contexts[number % 6]
        answer = {"text": [f"no. {number}"], "answer_start": [context.index(f"no. {number}")]}
        rows.append({"question": f"Which is {number}?", "context": context, "answers": answer})
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = TaskConfig(
        task="question_answering", name="toy", train=str(tmp_path / "train.jsonl"), validation_fraction=0.4
    )
    adapter = TASKS["question_answering"]
    data = complete(read_splits(task, adapter, 0.0), task, adapter)
    assert len(data.train) + len(data.validation) == 60
    assert not {row["context"] for row in data.train} & {row["context"] for row in data.validation}
