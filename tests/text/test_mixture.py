"""Documents of rows: what is decoded, dropped and filtered, and that a survey doesn't depend on how files are cut."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mlm_pretrain.config import FilterConfig, SourceConfig, TextConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.text import mixture
from mlm_pretrain.text.files import pieces
from mlm_pretrain.text.mixture import Document, documents, open_source, survey


def texts_of(source: SourceConfig) -> tuple[list[str], dict[str, int]]:
    """The texts of a source's documents, and its drops."""
    counts: Counter[str] = Counter()
    read = [document.text for row in open_source(source) for document in documents(row, source, counts)]
    return read, dict(counts)


def write_lines(path: Path, rows: list[Any]) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def test_rows_of_any_source_become_documents() -> None:
    source, counts = SourceConfig(source="mine", text_column="body"), Counter[str]()
    rows = [{"text": "of a user", "source": "a"}, {"text": "of a user", "source": "a", "dropped": None}]
    raw = {"text": '{"body": "of a file"}', "source": "a", "dropped": None, "undecoded": "json"}
    plain = {**raw, "undecoded": "text"}
    assert [read for row in [*rows, raw, plain] for read in documents(row, source, counts)] == [
        *[Document("of a user", "a")] * 2,
        Document("of a file", "a"),
        Document('{"body": "of a file"}', "a"),
    ]
    assert not counts
    dropped: list[dict[str, Any]] = [
        {"text": "x", "source": "a", "dropped": "private"},
        {"text": None, "source": "a", "dropped": "private"},
        {"text": None, "source": "a"},
        {"text": " \n", "source": "a"},
        {**raw, "text": "{"},
        {**raw, "text": '{"body": 1}'},
        {**raw, "text": '{"text": "other column"}'},
        {**raw, "text": '{"body": "x"} {}'},
        {**raw, "text": "[" * 100_000},
        {**raw, "text": "  "},
        {**raw, "text": None, "dropped": "undecodable"},
    ]
    assert not any(documents(row, source, counts) for row in dropped)
    assert counts == {"private": 2, "null": 2, "empty": 2, "undecodable": 4, "not_text": 1}


@pytest.mark.parametrize(
    ("filters", "kept", "dropped"),
    [
        ({}, ["a", "bb", "ccc", "Abc\nd"], {}),
        ({"min_length": 2}, ["bb", "ccc", "Abc\nd"], {"short": 1}),
        ({"max_length": 3}, ["a", "bb", "ccc"], {"long": 1}),
        ({"include": "c"}, ["ccc", "Abc\nd"], {"not_included": 2}),
        ({"exclude": "(?im)^a"}, ["bb", "ccc"], {"excluded": 2}),
        (
            {"min_length": 2, "max_length": 4, "include": "[cd]", "exclude": "x"},
            ["ccc"],
            {"short": 1, "long": 1, "not_included": 1},
        ),
    ],
)
def test_filters_drop_and_count(tmp_path: Path, filters: dict[str, Any], kept: list[str], dropped: dict) -> None:
    path = write_lines(tmp_path / "x.jsonl", [{"text": text} for text in ("a", "bb", "ccc", "Abc\nd")] + [""])
    source = SourceConfig(source="files", path=path, filters=FilterConfig(**filters))
    assert texts_of(source) == (kept, {**dropped, "empty": 1})


def test_lengths_are_of_characters_and_filters_come_after_other_drops() -> None:
    source = SourceConfig(source="mine", filters=FilterConfig(min_length=3, max_length=3))
    counts: Counter[str] = Counter()
    assert documents({"text": "更大é", "source": "a"}, source, counts) == [Document("更大é", "a")]
    assert not documents({"text": "", "source": "a"}, source, counts)
    assert not documents({"text": "x", "source": "a", "dropped": "mine"}, source, counts)
    assert counts == {"empty": 1, "mine": 1}


@pytest.mark.parametrize("key", ["include", "exclude"])
def test_an_expression_that_would_take_for_ever_is_one_line(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixture, "SECONDS_OF_A_FILTER", 0.05)
    source = SourceConfig(source="mine", filters=FilterConfig(**{key: "(o|oo)+$"}))
    row = {"text": "hooray, h" + "o" * 60 + "t", "source": "a"}
    with pytest.raises(UserError, match=rf"^text\.sources\.filters\.{key}: '\(o\|oo\)\+\$' takes more than .*'hooray"):
        documents(row, source, Counter())
    assert documents({**row, "text": "zoo"}, source, Counter()) == ([Document("zoo", "a")] if key == "include" else [])


def test_the_survey_filters_too_and_says_so(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "x.jsonl", [{"text": f"text number {number}"} for number in range(50)])
    config = TextConfig(sources=[SourceConfig(source="files", path=path, filters=FilterConfig(exclude="[1-4]$"))])
    found = survey(config, 10**6)
    assert found.sources["x"]["dropped"] == {"excluded": 20}
    assert len(found.sample) + len(found.validation) == 30
    empty = TextConfig(sources=[SourceConfig(source="files", path=path, filters=FilterConfig(min_length=100))])
    with pytest.raises(UserError, match=r"'x' has no text to train on \(dropped: 50 short\)"):
        survey(empty, 10**6)


@pytest.mark.parametrize("parts", [4, 256])
def test_a_survey_of_many_pieces_is_that_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: int
) -> None:
    path = write_lines(tmp_path / "x.jsonl", [{"text": f"text number {number}"} for number in range(2000)])
    config = TextConfig(sources=[SourceConfig(source="files", path=path)], validation_fraction=0.1)
    whole = survey(config, 3000)
    monkeypatch.setattr(pieces, "SMALLEST", 500)
    monkeypatch.setattr(mixture, "MOST_PARTS", parts)
    assert open_source(config.sources[0]).num_shards > 100
    assert survey(config, 3000) == whole
    assert whole.sources["x"]["complete"] and sum(map(len, whole.sample)) <= 3000
