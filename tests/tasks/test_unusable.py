"""Rows that can't be used: all found in one pass, in every task and from every source, and refused or dropped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pandas
import pytest

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.tasks.data.materials import read_materials
from mlm_pretrain.tasks.data.splits import Splits, read_splits
from mlm_pretrain.tasks.kinds.registered import TASKS

SENTENCE = "Turtles nest on the shore"
TAGGED = {"tokens": SENTENCE.split(), "ner_tags": ["B-animal", "O", "O", "O", "B-place"]}
ASKED = {"question": "Where?", "context": SENTENCE, "answers": {"text": ["the shore"], "answer_start": [16]}}
GOOD: dict[str, list[dict[str, Any]]] = {
    "classification": [{"text": SENTENCE, "label": "animal"}, {"text": "Waves", "label": 3}],
    "multi_label_classification": [{"text": SENTENCE, "label": ["animal", "place"]}, {"text": "Waves", "label": []}],
    "regression": [{"text": SENTENCE, "label": 0.5}, {"text": "Waves", "label": "2"}],
    "ner": [TAGGED, {**TAGGED, "ner_tags": ["O"] * 5}],
    "tagging": [TAGGED, {"tokens": ["Waves"], "ner_tags": ["N"]}],
    "question_answering": [ASKED, {**ASKED, "answers": []}],
}
# What is changed in the first good row, and the reason under which it is counted.
NO_TEXT = [({"text": None}, "no text"), ({"text": 7}, "text is no string"), ({"text": "\ud83d"}, "half a character")]
UNTAGGED = [
    ({"ner_tags": None}, "no ner_tags"),
    ({"tokens": None}, "no tokens"),
    ({"tokens": [1, 2, 3, 4, 5]}, "tokens is no list of strings"),
    ({"ner_tags": ["O"]}, "words and tags differ in number"),
    ({"ner_tags": ["O", "O", " ", "O", "O"]}, "a word without a label"),
    ({"tokens": ["\udc00", "b", "c", "d", "e"]}, "half a character"),
]
BAD: dict[str, list[tuple[dict[str, Any], str]]] = {
    "classification": [
        *NO_TEXT,
        ({"label": None}, "no label"),
        ({"label": ""}, "no label"),
        ({"label": float("nan")}, "no label"),
        ({"label": "nan"}, "no label"),
        ({"label": ["animal"]}, "the label is no name or integer"),
        ({"label": 0.25}, "the label is no name or integer"),
        ({"label": "\udc00"}, "half a character"),
    ],
    "multi_label_classification": [
        *NO_TEXT,
        ({"label": None}, "no label"),
        ({"label": "NaN"}, "no label"),
        ({"label": ["animal", None]}, "the label is no list of names"),
        ({"label": {"animal": 1}}, "the label is no list of names"),
        ({"label": [0, 1, 1]}, "0 or 1 for each label"),
    ],
    "regression": [
        *NO_TEXT,
        ({"label": None}, "no label"),
        ({"label": ""}, "no label"),
        ({"label": "nan"}, "no label"),
        ({"label": "high"}, "the label is no number"),
        ({"label": "inf"}, "the label is no number"),
        ({"label": [1.0]}, "the label is a list"),
    ],
    "ner": [*UNTAGGED, ({"ner_tags": ["Banimal", "O", "O", "O", "O"]}, "a tag of no scheme")],
    "tagging": UNTAGGED,
    "question_answering": [
        ({"question": None}, "no question"),
        ({"context": None}, "no context"),
        ({"question": "\ud83d?"}, "half a character"),
        ({"answers": None}, "malformed answers"),
        ({"answers": "{not json"}, "malformed answers"),
        ({"answers": {"text": ["shore"], "answer_start": []}}, "malformed answers"),
        ({"answers": [{"text": "dune", "answer_start": 0}]}, "an answer that isn't in its context"),
        ({"answers": [{"text": "s", "answer_start": 0}]}, "an answer that is several times in its context"),
    ],
}
SPANS = [
    (None, "no entities"),
    ("[{", "no entities"),
    ("[" * 100_000, "no entities"),
    ({"start": [0], "end": [7], "label": []}, "entities of uneven lists"),
    ({"start": 0, "end": 7, "label": "animal"}, "no entities"),
    ([[0, 7]], "a malformed entity"),
    ([[0, 7, None]], "a malformed entity"),
    ([[0, 99, "animal"]], "an entity that isn't in the text"),
    ([[0, 7, "animal"], [3, 9, "place"]], "entities that overlap"),
]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def read(task: str, folder: Path, **keys: Any) -> Splits:
    return read_splits(TaskConfig(task=task, name="toy", **{"train": str(folder / "train.jsonl"), **keys}), TASKS[task])


@pytest.mark.parametrize("task", BAD)
def test_every_kind_of_bad_row_is_counted_and_can_be_dropped(task: str, tmp_path: Path) -> None:
    good, bad = GOOD[task], BAD[task]
    write(tmp_path / "train.jsonl", [good[0], *({**good[0], **change} for change, _ in bad), good[1]])
    lacking = {name: value for name, value in good[0].items() if name not in ("label", "ner_tags", "answers")}
    test = write(tmp_path / "test.jsonl", [lacking, *good])
    with pytest.raises(UserError) as raised:
        read(task, tmp_path, test=test)
    told = str(raised.value)
    assert told.startswith(f"{tmp_path}/train.jsonl:2") and "on_bad_examples: drop" in told and "\n" not in told
    assert f"{len(bad) + 1} of {len(bad) + 5} examples can't be used" in told
    reasons = [reason for _, reason in bad]
    for line, reason in enumerate(reasons, start=2):
        assert f"{reason} {reasons.count(reason)} (" in told
        assert reasons.index(reason) != line - 2 or f"train.jsonl:{line}" in told
    splits = read(task, tmp_path, test=test, on_bad_examples="drop")
    assert splits.dropped["train"] == {reason: reasons.count(reason) for reason in reasons}
    assert list(splits.dropped["test"].values()) == [1]
    assert (len(splits.train), len(splits.test or ())) == (2, 2)


@pytest.mark.parametrize(("spans", "reason"), SPANS)
def test_so_are_entities_by_their_characters(spans: Any, reason: str, tmp_path: Path) -> None:
    rows = [{"text": SENTENCE, "entities": given} for given in ([[0, 7, "animal"]], spans, [])]
    write(tmp_path / "train.jsonl", rows)
    with pytest.raises(UserError, match=r"train\.jsonl:2: .*mend the row"):
        read("ner", tmp_path)
    assert read("ner", tmp_path, on_bad_examples="drop").dropped == {"train": {reason: 1}}


def test_what_is_dropped_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"text": f"no. {n}", "label": None if n in (2, 5, 6, 7, 8) else n % 2} for n in range(10)]
    write(tmp_path / "train.jsonl", rows)
    read("classification", tmp_path, on_bad_examples="drop")
    said = capsys.readouterr().err
    assert said.count("\n") == 2  # the first says what was read
    assert "toy: 5 of 10 examples can't be used: no label 5 (train.jsonl:3, 6, 7, …); they are dropped" in said


def test_where_every_row_is_bad_it_is_the_config_or_the_file(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [{"sentence": "a", "label": n} for n in range(4)])
    for policy in ("error", "drop"):
        with pytest.raises(UserError, match=r":1: no column 'text' .*the same for each of the 4 examples$"):
            read("classification", tmp_path, on_bad_examples=policy)
    write(tmp_path / "train.jsonl", GOOD["classification"])
    hidden = write(tmp_path / "test.jsonl", [{"text": "a", "label": None}, {"text": None, "label": 1}])
    with pytest.raises(UserError, match=r"test\.jsonl:1: .*none of the 2 examples can be used: no label 1, no text 1$"):
        read("classification", tmp_path, test=hidden, on_bad_examples="drop")


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("train.jsonl", '{"text": "a", "label": 1}\n{"text": \n{"text": "b", "label": 0}\n', 2),
        ("train.csv", "text,label\na,1\nb,1,more\nc,0\n", 3),
        ("train.tsv", "text\tlabel\na\t1\nb\nc\t0\n", 3),
    ],
)
def test_rows_that_cant_be_read_are_bad_ones(name: str, content: str, line: int, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=rf"{name}:{line}: .*on_bad_examples: drop"):
        read("classification", tmp_path, train=str(tmp_path / name))
    splits = read("classification", tmp_path, train=str(tmp_path / name), on_bad_examples="drop")
    assert splits.dropped == {"train": {"can't be read": 1}} and len(splits.train) == 2


@pytest.mark.parametrize("task", ["ner", "tagging"])
def test_sentences_that_cant_be_read_are_bad_ones_too(task: str, tmp_path: Path) -> None:
    path = tmp_path / "train.conll"
    path.write_bytes(b"Turtles B-animal\nnest O\n\nin\nRio B-place\n\nS\xe3o B-place\nPaulo I-place\n\nWaves O\n")
    with pytest.raises(UserError, match=r"conll:4: only one column; .*2 of 4 .*can't be read 2 \(train\.conll:4, 7\)"):
        read(task, tmp_path, train=str(path))
    splits = read(task, tmp_path, train=str(path), on_bad_examples="drop")
    assert [each["tokens"] for each in splits.train] == [["Turtles", "nest"], ["Waves"]]
    assert splits.dropped == {"train": {"can't be read": 2}}


def test_no_class_in_a_parquet_file_of_class_names_is_no_label(hub_set: str, tmp_path: Path) -> None:
    splits = read("classification", tmp_path, train=f"{hub_set}/train.parquet", on_bad_examples="drop")
    assert [example["label"] for example in splits.train] == ["dune", "reef", "dune"]
    assert splits.dropped == {"train": {"no label": 2, "no text": 1}}


@pytest.fixture
def hub_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "set"
    folder.mkdir()
    names = datasets.ClassLabel(names=["dune", "reef"])
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": names, "ner_tags": datasets.Sequence(names)}
        | {"tokens": datasets.Sequence(datasets.Value("string"))}
    )
    labels = [0, 1, -1, 0, None, 1]
    rows = {
        "text": ["a", "b", "c", "d", "e", None],
        "label": labels,
        "tokens": [["x", "y"]] * 6,
        "ner_tags": [[0, 0 if label is None else label] for label in labels],
    }
    datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / "train.parquet")
    hidden = {name: values[2:3] for name, values in rows.items()}
    datasets.Dataset.from_dict(hidden, features=features).to_parquet(folder / "test.parquet")
    return str(folder)


def test_hub_sets_have_the_same_policy(hub_set: str) -> None:
    task = TaskConfig(task="classification", name="toy", path=hub_set)
    with pytest.raises(UserError) as raised:
        read_splits(task, TASKS["classification"])
    told = str(raised.value)
    assert f"{hub_set}[train], row 2: the label is -1, which is the number of no class; 3 of 6 examples" in told
    assert "no label 2 (set[train], row 2, 4), no text 1 (set[train], row 5)" in told
    splits = read_splits(task.model_copy(update={"on_bad_examples": "drop"}), TASKS["classification"])
    assert [example["label"] for example in splits.train] == ["dune", "reef", "dune"]
    assert splits.test is None  # all of its labels are hidden
    tags = TaskConfig(task="tagging", name="toy", path=hub_set, on_bad_examples="drop", test="test[:0]+train[:2]")
    assert len(read_splits(tags, TASKS["tagging"]).train) == 5


@pytest.mark.parametrize(
    ("task", "values", "wanted"),
    [
        ("classification", ["0", "1.0", "dune", "1"], ["dune", "reef", "dune", "reef"]),
        (
            "multi_label_classification",
            ["0|1", "1.0", "[0, 1]", "[1]", "[]", "", "very salt|0", "1;2"],
            [
                ["dune", "reef"],
                ["reef"],
                ["dune", "reef"],
                ["reef"],
                [],
                [],
                ["very salt", "dune"],
                ["reef", "very salt"],
            ],
        ),
    ],
)
def test_names_behind_numbers_however_a_table_writes_these(
    task: str, values: list[str], wanted: list[Any], tmp_path: Path
) -> None:
    path = tmp_path / "train.csv"
    pandas.DataFrame({"text": ["a"] * len(values), "label": values}).to_csv(path, index=False)
    names = ["dune", "reef", "very salt"]
    splits = read(task, tmp_path, train=str(path), label_names=names)
    assert [example["label"] for example in splits.train] == wanted
    path.write_text("text,label\na,0\nb,7.0\nc,-1.0\nd,\n" * 2, encoding="utf-8")
    dropped = {"a label of no class": 2, "no label": 2 if task != "classification" else 4}
    assert read(task, tmp_path, train=str(path), label_names=names, on_bad_examples="drop").dropped == {
        "train": dropped
    }


# -- numbers of classes ------------------------------------------------------------------------------------------------


def save(frame: pandas.DataFrame, path: Path) -> str:
    {".csv": frame.to_csv, ".parquet": frame.to_parquet}[path.suffix](path, index=False)
    return str(path)


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_whole_numbers_are_the_same_classes_with_and_without_a_point(ending: str, tmp_path: Path) -> None:
    floats = pandas.DataFrame({"text": ["a", "b", "c"], "label": [0, 1, None]})
    train, test = save(floats, tmp_path / f"train{ending}"), tmp_path / f"test{ending}"
    save(pandas.DataFrame({"text": ["d", "e"], "label": [1, 0]}), test)
    for task, wanted in (("classification", ["1", "0"]), ("multi_label_classification", [["1"], ["0"]])):
        labels = [[float(label)] for label in (2, 1, 0)] if task != "classification" else [2, 1, 0]
        more = save(
            pandas.DataFrame({"text": ["f", "g", "h"], "label": [str(label) for label in labels]}), tmp_path / "v.csv"
        )
        keys = {"train": train, "test": str(test), "validation": more, "on_bad_examples": "drop"}
        splits = read(task, tmp_path, **keys)
        assert [example["label"] for example in splits.test or ()] == wanted
        assert [example["label"] for example in splits.train][:2] == wanted[::-1]
        assert TASKS[task].label_names(splits.train, TaskConfig(task=task, name="toy"))[:2] == ["0", "1"]


@pytest.mark.parametrize("task", ["classification", "multi_label_classification", "tagging"])
def test_labels_that_differ_by_a_slip_are_said(task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*names: str) -> list[str]:
        rows = [{"text": f"a{number}", "label": name} for number, name in enumerate(names * 4)]
        if task == "tagging":
            rows = [{"tokens": [row["text"]], "ner_tags": [row["label"]]} for row in rows]
        train = write(tmp_path / "train.jsonl", rows)
        read_materials(TaskConfig(task=task, name="toy", train=train), 0.0)
        return [line for line in capsys.readouterr().err.splitlines() if "blanks or capitals" in line]

    (line,) = said("dune", "Reef", "reef", "dunes", "duné")
    assert line.endswith("toy: labels that differ by blanks or capitals alone are learnt as several: 'Reef' and 'reef'")
    assert said("dune", "dunes", "reef", "1", "11") == []


def test_numbers_with_fractions_beside_them_are_names(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\na,3.0\nb,3.1\nc,3.0\nd,4.0\n")
    splits = read("classification", tmp_path, train=str(tmp_path / "train.csv"))
    assert [example["label"] for example in splits.train] == ["3.0", "3.1", "3.0", "4.0"]


def test_a_weight_may_name_a_class_either_way(tmp_path: Path) -> None:
    task = TaskConfig(task="classification", name="toy", class_weight={"1.0": 3, "0": 1})
    rows = [{"text": "a", "label": name, "place": "f:1"} for name in "0011"]
    TASKS["classification"].check(rows, ["0", "1"], task)
    with pytest.raises(UserError, match=r"no class is named '2\.5'"):
        TASKS["classification"].check(rows, ["0", "1"], task.model_copy(update={"class_weight": {"2.5": 1.0}}))


def test_minus_one_in_a_few_rows_is_asked_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"text": str(n), "label": -1 if n == 7 else n % 3, "place": "f:1"} for n in range(90)]
    examples = [{**row, "label": str(row["label"])} for row in rows]
    task = TaskConfig(task="classification", name="toy")
    assert TASKS["classification"].label_names(examples, task) == ["-1", "0", "1", "2"]
    assert "task 'toy': -1 is learnt as a class; if it means no label, empty it in 1 rows" in capsys.readouterr().err
    TASKS["classification"].label_names([{**row, "label": str(n % 3 - 1)} for n, row in enumerate(rows)], task)
    assert capsys.readouterr().err == ""


# -- lists that a csv file has as text ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("[3, 10]", ["3", "10"]),
        ("['wet sand', \"o'clock\"]", ["wet sand", "o'clock"]),
        ("[1. 4.]", ["1", "4"]),
        ("[]", []),
    ],
)
def test_a_printed_list_of_labels_is_a_list(text: str, labels: list[str], tmp_path: Path) -> None:
    pandas.DataFrame({"text": ["a", "b"], "label": [text, "x|[y]"]}).to_csv(tmp_path / "train.csv", index=False)
    splits = read("multi_label_classification", tmp_path, train=str(tmp_path / "train.csv"))
    assert [example["label"] for example in splits.train] == [labels, ["x", "[y]"]]


@pytest.mark.parametrize("printed", ["['[', 'sic', ']']", "['[' 'sic' ']']", '["[", "sic", "]"]', "[ sic ]"])
def test_a_printed_list_of_words_is_a_list(printed: str, tmp_path: Path) -> None:
    frame = pandas.DataFrame({"tokens": [printed], "ner_tags": ["O B-x O"]})
    frame.to_csv(tmp_path / "train.csv", index=False)
    splits = read("ner", tmp_path, train=str(tmp_path / "train.csv"))
    assert splits.train[0]["tokens"] == ["[", "sic", "]"]


# -- a column a label --------------------------------------------------------------------------------------------------

COLUMNS = ["wet", "loud"]


@pytest.mark.parametrize(("on", "off"), [(1, 0), ("1", "0"), (1.0, 0.0), (True, False), ("true", "False")])
def test_a_column_of_yes_and_no_for_each_label(on: Any, off: Any, tmp_path: Path) -> None:
    rows = [{"text": str(n), "wet": on if n % 2 else off, "loud": on if n > 2 else off} for n in range(4)]
    write(tmp_path / "train.jsonl", rows)
    splits = read("multi_label_classification", tmp_path, label_column=COLUMNS)
    assert [example["label"] for example in splits.train] == [[], ["wet"], [], ["wet", "loud"]]
    task = TaskConfig(task="multi_label_classification", name="toy", label_column=["loud", "wet"])
    assert TASKS["multi_label_classification"].label_names(splits.train, task) == ["loud", "wet"]
    one = read("multi_label_classification", tmp_path, label_column=["loud"])
    assert [example["label"] for example in one.train] == [[], [], [], ["loud"]]


def test_what_is_no_yes_or_no_is_bad(tmp_path: Path) -> None:
    said = [(1, 0), (-1, -1), (None, 1), (2, 0), ("maybe", 1), (0, 1)]
    write(tmp_path / "train.jsonl", [{"text": "a", "wet": wet, "loud": loud} for wet, loud in said])
    splits = read("multi_label_classification", tmp_path, label_column=COLUMNS, on_bad_examples="drop")
    assert splits.dropped == {"train": {"no label in 'wet'": 2, "no 0 or 1 in 'wet'": 2}}
    with pytest.raises(UserError, match=r"no column 'lod' .*did you mean 'loud'"):
        read("multi_label_classification", tmp_path, label_column=["wet", "lod"])


def test_one_such_column_alone_is_told_with_the_remedy(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [{"text": str(n), "wet": n % 2, "loud": 0} for n in range(6)])
    with pytest.raises(UserError, match=r"holds 0 or 1 alone.*label_column: \[.*task: classification"):
        read("multi_label_classification", tmp_path, label_column="wet")
    assert [example["label"] for example in read("classification", tmp_path, label_column="wet").train][:2] == [
        "0",
        "1",
    ]


@pytest.mark.parametrize("keys", [{"task": "ner"}, {"label_column": []}, {"label_column": ["wet", "wet"]}])
def test_a_list_of_columns_is_for_several_labels(keys: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="label_column: "):
        TaskConfig(**{"task": "multi_label_classification", "name": "toy", "label_column": COLUMNS, **keys})


def test_hub_sets_have_columns_of_labels_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    yes = datasets.ClassLabel(names=["no", "yes"])
    features = datasets.Features({"text": datasets.Value("string"), "wet": yes, "loud": datasets.Value("int8")})
    for split, marks in (("train", [0, 1, 1]), ("test", [-1, -1, -1])):
        rows = {"text": ["a", "b", "c"], "wet": marks, "loud": marks[::-1]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "set" / f"{split}.parquet")
    task = TaskConfig(task="multi_label_classification", name="toy", path=str(tmp_path / "set"), label_column=COLUMNS)
    splits = read_splits(task, TASKS["multi_label_classification"])
    assert [example["label"] for example in splits.train] == [["loud"], ["wet", "loud"], ["wet"]]
    assert splits.test is None


# -- tags without a type -----------------------------------------------------------------------------------------------


def test_tags_without_a_type_are_one_type(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "train.tsv").write_text("Sea\tB\nturtles\tI\nnest\tO\n\nDunes\tI\n")
    (tmp_path / "test.tsv").write_text("Gulls\tS\nnest\tO\n")
    splits = read("ner", tmp_path, train=str(tmp_path / "train.tsv"), test=str(tmp_path / "test.tsv"))
    assert [example["tags"] for example in splits.train] == [["B-entity", "I-entity", "O"], ["B-entity"]]
    assert [example["tags"] for example in splits.test or ()] == [["B-entity", "O"]]
    assert "name no type of entity (B, I, O); the type is called 'entity'" in capsys.readouterr().err
    task = TaskConfig(task="ner", name="toy")
    assert TASKS["ner"].label_names(splits.train, task) == ["O", "B-entity", "I-entity"]
    tagged = read("tagging", tmp_path, train=str(tmp_path / "train.tsv"))
    assert [example["tags"] for example in tagged.train] == [["B", "I", "O"], ["I"]]


def test_beside_types_a_tag_without_one_is_bad(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text("Sea\tB-animal\nturtles\tI-animal\n\nDunes\tB\n\nnest\tO\n")
    with pytest.raises(UserError, match=r"train\.tsv:4: tags without a type \(B, I\) in data whose tags have types"):
        read("ner", tmp_path, train=str(tmp_path / "train.tsv"))
    splits = read("ner", tmp_path, train=str(tmp_path / "train.tsv"), on_bad_examples="drop")
    assert splits.dropped == {"train": {"tags without a type": 1}} and len(splits.train) == 2
