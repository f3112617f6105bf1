"""Tables: what a writer wrote is read as it was; what quotes are, if nobody can know, is said, and no row is lost."""

from __future__ import annotations

import csv
import io
import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlm_pretrain.config import SourceConfig, TaskConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.io.files import tables
from mlm_pretrain.io.files.reading import Reading
from mlm_pretrain.io.files.records import Records
from mlm_pretrain.tasks.kinds.registered import TASKS
from mlm_pretrain.text.mixture import documents
from mlm_pretrain.text.sources import SOURCES
from tests.tasks.examples import read_examples

HEADER = ["text", "n"]
Rows = list[list[str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tables")


def written(rows: Rows, **dialect: Any) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, **dialect).writerows(rows)
    return buffer.getvalue()


def read(path: Path, content: str, **keys: Any) -> tuple[Rows, list[str]]:
    """The good rows, and the problems of the others."""
    path.write_text(content, encoding="utf-8", newline="")
    records = list(Records(path, Reading(**keys)))
    problems = [record.problem for record in records if record.problem]
    return [list(record.row.values()) for record in records if not record.dropped], problems


def pretrained(path: Path, **keys: Any) -> list[str]:
    """The documents that pretraining reads of a file, dropped ones left out."""
    source = SourceConfig(source="files", path=str(path), **keys)
    return [each.text for row in SOURCES["files"](source) for each in documents(row, source, Counter())]


FIELDS = st.text(alphabet='ab",;\n\r é更', max_size=8)
DIALECTS = st.fixed_dictionaries(
    {
        "delimiter": st.sampled_from([",", ";", "\t"]),
        "quoting": st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    }
)


@settings(deadline=None, max_examples=150)
@given(rows=st.lists(st.lists(FIELDS, min_size=2, max_size=2), min_size=1, max_size=8), dialect=DIALECTS)
def test_what_a_writer_wrote_is_read_as_it_was_or_it_is_said(folder: Path, rows: Rows, dialect: dict[str, Any]) -> None:
    path = folder / "a.csv"
    content = written([HEADER, *rows], **dialect)
    sign = dialect["delimiter"]
    assert read(path, content, delimiter=sign, quoting="minimal") == (rows, [])
    texts = [text for text, _ in rows if text.strip()]
    if texts:
        assert pretrained(path, delimiter=sign, quoting="minimal") == texts
    found, problems = read(path, content, delimiter=sign)
    assert found == rows or any("set quoting: none" in problem for problem in problems)
    if texts and not problems:
        assert pretrained(path, delimiter=sign) == texts


LINE = st.text(alphabet='ab", é', max_size=8)


@settings(deadline=None, max_examples=150)
@given(rows=st.lists(st.lists(LINE, min_size=2, max_size=2), min_size=1, max_size=12))
def test_no_row_is_lost_of_a_table_by_tabs_that_quotes_nothing(folder: Path, rows: Rows) -> None:
    path = folder / "a.tsv"
    content = "".join("\t".join(row) + "\n" for row in [HEADER, *rows])
    assert read(path, content, quoting="none") == (rows, [])
    found, problems = read(path, content)
    assert not problems and len(found) == len(rows)
    # A field that looks quoted by itself may have been.
    for field, wanted in zip(itertools.chain(*found), itertools.chain(*rows), strict=True):
        assert field == wanted or wanted == '"' + field.replace('"', '""') + '"'
    texts = [text for text, _ in rows if text.strip()]
    if texts:
        assert pretrained(path, quoting="none") == texts
        assert len(pretrained(path)) == sum(bool(text.strip()) for text, _ in found)


def test_a_quote_at_the_start_of_a_field_takes_no_rows_along(tmp_path: Path) -> None:
    rows = [[f"sentence {number} of a review", str(number % 2)] for number in range(300)]
    rows[40][0] = '"Never again'
    rows[250][0] = 'said my aunt"'
    for name, sign, end in (("a.tsv", "\t", 'said my aunt"'), ("a.csv", ",", '"said" my aunt')):
        rows[250][0] = end
        content = "".join(sign.join(row) + "\n" for row in [HEADER, *rows])
        assert read(tmp_path / name, content) == (rows, [])
        assert pretrained(tmp_path / name) == [text for text, _ in rows]
    rows[250][0] = 'said my aunt"'
    # The last quote ends a field and a line, as it would in a quoted one: nobody can know.
    by_tabs = [row[::-1] for row in rows]
    content = "".join("\t".join(row) + "\n" for row in [HEADER[::-1], *by_tabs])
    assert read(tmp_path / "b.tsv", content) == (by_tabs, [])
    found, problems = read(tmp_path / "b.csv", content.replace("\t", ","))
    assert problems == [
        f"{tmp_path / 'b.csv'}:42: a quoted field goes over 211 lines, which have 2 columns each by themselves; "
        "set quoting: none if quotes are characters here, minimal if the field is one text"
    ]
    assert found == by_tabs[:40] + by_tabs[251:]
    with pytest.raises(UserError, match=r"b\.csv:42: a quoted field goes over 211 lines.*set quoting: none"):
        pretrained(tmp_path / "b.csv")
    task = TaskConfig(task="classification", name="t", label_column="n", on_bad_examples="drop")
    with pytest.raises(UserError, match=r"b\.csv:42: a quoted field goes over 211 lines"):
        read_examples(tmp_path / "b.csv", TASKS["classification"], task)
    assert read(tmp_path / "b.csv", content.replace("\t", ","), quoting="none") == (by_tabs, [])


def test_quotes_are_judged_where_they_come_after_the_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "SAMPLE", 200)
    rows = [[f"sentence {number}", str(number)] for number in range(100)]
    rows[60][0], rows[80][0], rows[90][0] = '"So', 'it was"', '"half" of it'
    content = "".join("\t".join(row) + "\n" for row in [HEADER, *rows])
    assert read(tmp_path / "a.tsv", content) == (rows, [])
    rows = [[f"sentence {number}, and\nmore of it", str(number)] for number in range(100)]
    assert read(tmp_path / "a.csv", written([HEADER, *rows])) == (rows, [])


def test_a_bad_row_does_not_make_a_table_that_quotes_every_string_another(tmp_path: Path) -> None:
    content = written([HEADER, *[["a", 1]] * 3], quoting=csv.QUOTE_NONNUMERIC) + '"b,1\n"c",1\n'
    found, problems = read(tmp_path / "a.csv", content)
    assert found == [["a", "1"]] * 3 + [["c", "1"]]
    assert [problem.split(": ")[1] for problem in problems] == ["not valid csv"]


def test_headers(tmp_path: Path) -> None:
    joined = "\ufefftext,n\na,1\n" * 3
    assert read(tmp_path / "a.csv", joined) == ([["a", "1"]] * 3, [])
    assert read(tmp_path / "a.csv", "text\na\ntext\n") == ([["a"], ["text"]], [])
    assert [record.row for record in Records(tmp_path / "a.csv")] == [{"text": "a"}, {"text": "text"}]
    (tmp_path / "b.csv").write_text("text,,text,\na,b,c,d\n")
    assert [record.row for record in Records(tmp_path / "b.csv")] == [{"text": "a", "": "b", "text.1": "c", ".1": "d"}]
    for content, problem in {
        "text;n\nso, it is;1\n": r"the header is one column, 'text;n'; set delimiter: ';'",
        '"text"\t"n"\n': r"the header is one column, .*; set delimiter: \"\\t\"",
        '"text"x,n\n': "c.csv:1: the header is not valid csv",
    }.items():
        with pytest.raises(UserError, match=problem):
            read(tmp_path / "c.csv", content)
    assert read(tmp_path / "c.csv", "text;n\nso, it is;1\n", delimiter=";") == ([["so, it is", "1"]], [])
    with pytest.raises(UserError, match="set delimiter: ';'"):
        pretrained(tmp_path / "c.csv")
    assert pretrained(tmp_path / "c.csv", delimiter=";") == ["so, it is"]
    assert read(tmp_path / "d.csv", "") == ([], [])


@pytest.mark.parametrize("value", [0, "minimal", "0"])
def test_quoting_goes_by_the_names_of_csv_and_pandas(value: Any) -> None:
    assert Reading.checked(quoting=value).quoting == "minimal"
    assert SourceConfig(source="files", quoting=value).quoting == "minimal"
    assert Reading.checked(quoting=3).quoting == "none"


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"quoting": "all"}, "quoting: 'all'; allowed: minimal"),
        ({"encoding": "utf-88"}, "encoding: Python knows no encoding 'utf-88'; try utf-8"),
        ({"encoding": "hex"}, "encoding: Python knows no encoding 'hex'"),
        ({"delimiter": "||"}, r"delimiter: '\|\|'; give one character"),
        ({"delimiter": '"'}, "delimiter: '\"'; give one character"),
    ],
)
def test_keys_are_looked_at_before_any_file(keys: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        Reading.checked(**keys)
    with pytest.raises(ValueError, match=problem.split(": ", 1)[1]):
        SourceConfig(source="files", **keys)
