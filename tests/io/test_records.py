"""The records of files: each with its place, bad ones with their problem, and none takes others along."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlm_pretrain.io.files.records import Record, Records


def read(path: Path, content: bytes | str, **keys: Any) -> list[Record]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(Records(path, **keys))


def test_bad_lines_of_tables(tmp_path: Path) -> None:
    content = (
        b'text,n\nfine,1\n"two\nlines",2\n"not closed,3\ngood,4\none,two,three\n\n\xff\xfe,1\n"a"b,5\n'
        b'"a, b",5\n"c, d",6\nlast,7\n"open'
    )
    path = tmp_path / "in.csv"
    records = read(path, content)
    good = [(record.line, record.last_line, record.row["text"]) for record in records if not record.problem]
    assert good == [
        *((2, 2, "fine"), (3, 4, "two\nlines"), (6, 6, "good")),
        *((11, 11, "a, b"), (12, 12, "c, d"), (13, 13, "last")),
    ]
    bad = [(record.line, record.raw) for record in records if record.problem]
    assert bad == [(5, '"not closed,3'), (7, "one,two,three"), (9, "\ufffd\ufffd,1"), (10, '"a"b,5'), (14, '"open')]
    assert all(record.problem.startswith(f"{path}:{record.line}: ") for record in records if record.problem)
    for record in records:  # where reading can begin again
        following = [other for other in records if other.line > record.last_line]
        assert list(Records(path, skip=record.last_line)) == following


def test_bad_lines_of_json_lines_and_text(tmp_path: Path) -> None:
    lines = [b'{"text": "one"}', b"{", b"[1]", b"", b'{"text": "\xff"}', b'{"text": "two"} {}', b'{"text": "last"}']
    records = read(tmp_path / "in.jsonl", b"\n".join(lines))
    assert [(record.line, record.row.get("text")) for record in records if not record.problem] == [
        (1, "one"),
        (7, "last"),
    ]
    problems = [record.problem.removeprefix(f"{record.place}: ")[:20] for record in records if record.problem]
    assert problems == ["not valid JSON (Expe", "a JSON list; JSON li", "not valid utf-8 text", "not valid JSON (more"]
    texts = read(tmp_path / "in.txt", b"one\n\n\xe9\nlast")
    assert [(record.line, record.row, record.dropped) for record in texts] == [
        *((1, {"text": "one"}, None), (3, {}, "undecodable"), (4, {"text": "last"}, None)),
    ]


@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_document_is_its_rows(tmp_path: Path, indent: int | None) -> None:
    rows = [{"text": f"number {number}\n", "label": number} for number in range(5)]
    records = read(tmp_path / "in.json", "\ufeff" + json.dumps(rows, indent=indent))
    assert [record.row for record in records] == rows
    assert [record.place for record in records] == [f"{tmp_path / 'in.json'}, row {number}" for number in range(5)]
    assert list(Records(tmp_path / "in.json", skip=2)) == records[2:]
    as_lines = "".join(json.dumps(row) + "\n" for row in rows)
    assert [record.row for record in read(tmp_path / "in.json", as_lines)] == rows
    (broken, *rest) = read(tmp_path / "in.json", "{\n" + as_lines)
    assert broken.problem and [record.row for record in rest] == rows


@pytest.mark.parametrize("indent", [None, 1])
def test_the_nested_file_of_squad_is_a_row_a_question(tmp_path: Path, indent: int | None) -> None:
    questions = [
        {"id": "a", "question": "Who?", "answers": [{"text": "Ada", "answer_start": 0}], "is_impossible": False},
        {"id": "b", "question": "Why?", "answers": [], "plausible_answers": [{"text": "x", "answer_start": 1}]},
        {"id": "c", "question": "When?", "answers": [{"text": "Ada", "answer_start": 0}], "is_impossible": True},
    ]
    paragraphs = [{"context": "Ada wrote it.", "qas": questions}, {"context": "Nothing.", "qas": []}]
    document = {"version": "x", "data": [{"title": "T", "paragraphs": paragraphs}]}
    records = read(tmp_path / "in.json", json.dumps(document, indent=indent))
    answers = [{"text": ["Ada"], "answer_start": [0]}, *[{"text": [], "answer_start": []}] * 2]
    assert [record.row for record in records] == [
        {
            "id": question["id"],
            "title": "T",
            "context": "Ada wrote it.",
            "question": question["question"],
            "answers": answer,
        }
        for question, answer in zip(questions, answers, strict=True)
    ]


def test_one_line_says_what_was_read(tmp_path: Path) -> None:
    path = tmp_path / "in.tsv"
    path.write_text('text\tlabel\n"so\t1\nlonger\t2\ntext\tlabel\nx\n')
    records = Records(path)
    assert len(list(records)) == 4
    assert str(records.tally) == (
        f"{path}: 2 records, the longest has 6 characters (line 3); dropped: 1 repeated header, 1 can't be read; "
        "quotes are characters in 1 record (quoting: minimal reads them as quoting)"
    )


def test_records_over_several_lines_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "one_column.csv"
    path.write_text('text\nplain\n"opened here,\nand closed\nthere"\nplain again\n')
    records = Records(path)
    assert [record.row["text"].count("\n") for record in records] == [0, 2, 0]
    assert "3 records" in str(records.tally) and "1 record over several lines, by quotes" in str(records.tally)
