"""Labels as the tasks of whole texts read them: names, lists of them, numbers, and what is none of these."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.tasks.data.splits import read_splits
from mlm_pretrain.tasks.kinds.classification import Classification
from mlm_pretrain.tasks.kinds.multi_label import MultiLabelClassification
from mlm_pretrain.tasks.kinds.registered import TASKS
from mlm_pretrain.tasks.kinds.regression import Regression
from tests.tasks.examples import read_examples


def config(task: str = "classification", **keys: Any) -> TaskConfig:
    return TaskConfig(task=task, name="toy", **keys)


@pytest.mark.parametrize(
    ("task", "value", "wanted"),
    [
        ("classification", "0", "0"),
        ("classification", 1, "1"),
        ("classification", 1.0, "1"),
        ("classification", True, "True"),
        ("multi_label_classification", ["b", "a", "b"], ["b", "a"]),
        ("multi_label_classification", [], []),
        ("multi_label_classification", "", []),
        ("multi_label_classification", "a; x, y | b", ["a; x, y", "b"]),
        ("multi_label_classification", "x, y; b;", ["x, y", "b"]),
        ("multi_label_classification", "a, b", ["a", "b"]),
        ("multi_label_classification", "a", ["a"]),
        ("multi_label_classification", 3, ["3"]),
        ("multi_label_classification", [3, 1.0], ["3", "1"]),
        ("regression", "-2.5", -2.5),
        ("regression", 3, 3.0),
    ],
)
def test_labels_are_read(task: str, value: Any, wanted: Any) -> None:
    assert TASKS[task].make_example({"text": "", "label": value}, config(task), "f:1")["label"] == wanted


@pytest.mark.parametrize(
    ("task", "value", "problem"),
    [
        ("classification", ["a"], r"label is \['a'\].*task: multi_label_classification"),
        ("classification", 0.5, "label is 0.5.*task: regression"),
        ("classification", float("nan"), "label is nan; a label is a name or an integer$"),
        ("classification", None, "label is None; a label is a name or an integer$"),
        ("classification", "", "label is ''; a label is a name or an integer$"),
        ("multi_label_classification", None, "a list of names or integers"),
        ("multi_label_classification", [0.5], "a list of names or integers"),
        ("multi_label_classification", [0, 1, 1, 0], "not a 0 or 1 for each"),
        ("multi_label_classification", [0.0, 0.0], "not a 0 or 1 for each"),
        ("regression", "good", "label is 'good'; a number is needed, as 2.5 .names: task: classification"),
        ("regression", True, "a number is needed"),
        ("regression", "1_000", "a number is needed"),
        ("regression", None, "a number is needed"),
        ("regression", [1.0], "task: multi_label_classification"),
        ("regression", "nan", "a finite number"),
        ("regression", float("-inf"), "a finite number"),
    ],
)
def test_wrong_labels_are_named_with_the_task_that_takes_them(task: str, value: Any, problem: str) -> None:
    with pytest.raises(UserError, match=rf"^f:1: .*{problem}"):
        TASKS[task].make_example({"text": "", "label": value}, config(task), "f:1")


def test_files_say_the_same_as_csv_and_jsonl(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\nx,0\ny,2\n")
    (tmp_path / "a.jsonl").write_text('{"text": "x", "label": 0}\n{"text": "y", "label": 2}\n')
    for task, wanted in (
        ("classification", ["0", "2"]),
        ("multi_label_classification", [["0"], ["2"]]),
        ("regression", [0.0, 2.0]),
    ):
        for name in ("a.csv", "a.jsonl"):
            assert [row["label"] for row in read_examples(tmp_path / name, TASKS[task], config(task))] == wanted


def test_lists_of_class_numbers_on_the_hub_get_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    labels = datasets.Sequence(datasets.ClassLabel(names=["joy", "fear"]))
    features = datasets.Features({"text": datasets.Value("string"), "labels": labels})
    (tmp_path / "data").mkdir()
    rows = {"text": ["a", "b"], "labels": [[1, 0], []]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "data" / "train.parquet")
    task = config("multi_label_classification", path=str(tmp_path / "data"), label_column="labels")
    assert [row["label"] for row in read_splits(task, MultiLabelClassification).train] == [["fear", "joy"], []]


def test_what_there_is_to_learn(capsys: pytest.CaptureFixture[str]) -> None:
    def rows(*labels: Any) -> list[dict]:
        return [{"text": "", "label": label, "place": f"f:{number}"} for number, label in enumerate(labels, start=1)]

    assert MultiLabelClassification.label_names(rows(["10", "9"], []), config()) == ["9", "10"]
    with pytest.raises(UserError, match="f:1: no training example has a label"):
        MultiLabelClassification.label_names(rows([], []), config())
    assert Regression.label_names(rows(1.0, 2.0), config()) == ["score"]
    with pytest.raises(UserError, match="f:1: every training label is 2; there"):
        Regression.label_names(rows(2.0, 2.0), config())
    assert capsys.readouterr().err == ""
    assert Classification.label_names(rows("0.5", "1.0"), config()) == ["0.5", "1.0"]
    assert "task: regression" in capsys.readouterr().err
