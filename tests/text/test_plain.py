"""Plain text as documents, and long documents in parts: nothing lost, no word cut, and a bound on everything."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from mlm_pretrain.config import SourceConfig, TextConfig
from mlm_pretrain.text.files import long, plain
from mlm_pretrain.text.mixture import fingerprint_corpus, open_source, survey

WORDS = ["harvest", "e\u0301te\u0301", "更大", "🙂\u200d🙂", "x", "7,5", "end.", "Why?"]
TEXTS = st.lists(st.sampled_from([*WORDS, " ", "  ", "\n", "\r\n", "\n \n", "。", "\u3000"]), max_size=400).map("".join)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long, "LONGEST", 100)
    monkeypatch.setattr(long, "_SEARCHED", 30)


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_parts_are_the_text_and_none_is_long(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long, "LONGEST", 100)
        patch.setattr(long, "_SEARCHED", 30)
        parts = list(long.parts(text))
    assert "".join(parts) == text and max(map(len, parts)) <= 100
    assert len(parts) == 1 or min(map(len, parts)) > 10


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(
    ("unit", "end"),
    [
        ("A few words\nof a line.\n\nThen", "\n\n"),
        ("A few words\nof a line. Then", "\n"),
        ("A few words of a line. Then ", "."),
        ("a few words of a line then", "word"),
        ("这是一个没有空格的句子。", "。"),
    ],
)
def test_a_cut_is_at_the_best_boundary_near(unit: str, end: str) -> None:
    text = unit * 40
    parts = list(long.parts(text))
    assert len(parts) > 4
    if end == "word":
        assert all(part[0] == " " for part in parts[1:]), parts
    else:
        assert all(part.endswith(end) for part in parts[:-1]), parts


@pytest.mark.usefixtures("short")
def test_accents_and_joined_emoji_stay_with_their_letters() -> None:
    for unit in ("e\u0301", "क्षि", "🙂\u200d🙂", "각"):
        parts = list(long.parts(unit * 150))
        assert len(parts) > 1
        assert all(len(part) % len(unit) == 0 for part in parts), unit


@pytest.mark.usefixtures("short")
def test_the_beginning_of_a_text_has_its_first_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    text = " ".join(f"word{number} and more." for number in range(500))
    for tokens in (3, 20):
        beginning = long.beginning(text, tokens)
        assert len(beginning) <= max(100, 16 * tokens) < len(text)
        first, whole = (tokenizer(each)["input_ids"] for each in (beginning, text))
        assert len(first) > tokens and first[:-1] == whole[: len(first) - 1]
    assert long.beginning(text[:90], 2) == text[:90]


@settings(max_examples=200, deadline=None)
@given(text=TEXTS, longest=st.integers(5, 80), document=st.sampled_from(["line", "paragraph", "file"]))
def test_nothing_is_lost_where_lines_and_paragraphs_are_longer_than_what_is_read(
    text: str, longest: int, document: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain, "LONGEST_READ", longest)
        patch.setattr(plain, "_SEARCHED", longest // 3 + 1)
        read = list(plain.documents(io.StringIO(text, newline=None), document))
    lines = io.StringIO(text, newline=None).read()
    assert "".join("".join(read).split()) == "".join(lines.split())
    assert max(map(len, read), default=0) <= 3 * longest
    if document == "file":
        assert "".join(read) == lines


@pytest.mark.parametrize(
    ("text", "document"),
    [
        ("one\ntwo\n", "line"),
        ("\n\none\ntwo\n\n \n", "line"),
        ("one\ntwo\n\nthree", "paragraph"),
        ("one\n \t\xa0\nthree", "paragraph"),
        ("one\r\rtwo\r", "paragraph"),
        ("", "line"),
        ("one\n" * 3 + "x" * plain.LOOKED_AT + "\n\nbehind", "line"),
    ],
)
def test_blank_lines_between_others_make_paragraphs(tmp_path: Path, text: str, document: str) -> None:
    assert plain.document_of(io.StringIO(text, newline=None)) == document


def write_sentences(path: Path, count: int) -> Path:
    path.write_text("".join(f"Entry {number} of the register is closed.\n" for number in range(count)))
    return path


def test_a_sentence_a_line_is_a_document_a_line_and_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = SourceConfig(source="files", path=str(write_sentences(tmp_path / "register.txt", 400)))
    found = survey(TextConfig(sources=[source], validation_fraction=0.1), 10**6)
    record = found.sources["register"]
    assert record["documents"] + record["held_out"] == 400
    assert record["files_by_document"] == {"line": 1}
    said = capsys.readouterr().err
    assert "register: no blank lines, so a document is a line there (text.sources.document)" in said

    (tmp_path / "essay.txt").write_text("one\n\ntwo\n")
    both = SourceConfig(source="files", path=str(tmp_path), label="both")
    assert survey(TextConfig(sources=[both]), 10**6).sources["both"]["files_by_document"] == {"line": 1, "paragraph": 1}
    assert "both: no blank lines in 1 of 2 text files" in capsys.readouterr().err
    asked = SourceConfig(source="files", path=str(tmp_path / "register.txt"), document="paragraph")
    assert len(list(open_source(asked))) == 1
    survey(TextConfig(sources=[asked], validation_fraction=0.0), 10**6)
    assert "no blank lines" not in capsys.readouterr().err


def test_what_a_document_is_belongs_to_the_corpus(tmp_path: Path) -> None:
    path = write_sentences(tmp_path / "register.txt", 20)
    prints = [
        fingerprint_corpus(TextConfig(sources=[SourceConfig(source="files", path=str(path), document=document)]))
        for document in (None, "line", "paragraph")
    ]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.usefixtures("short")
def test_long_documents_are_parts_in_the_survey_and_filters_see_them_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.txt"
    path.write_text("A short one.\n\n" + "".join(f"A sentence of a long one, {number}. " for number in range(40)))
    source = {"source": "files", "path": str(path)}
    found = survey(TextConfig(sources=[SourceConfig(**source)], validation_fraction=0.0), 10**6)
    assert max(map(len, found.sample)) <= 100 and sum(map(len, found.sample)) == path.stat().st_size - 2
    assert found.sources["x"]["divided"] == 1 and found.sources["x"]["documents"] > 10
    assert "x: documents of more than 100 characters, which are read in parts: 1" in capsys.readouterr().err
    kept = SourceConfig(**source, filters={"max_length": 1000})
    assert survey(TextConfig(sources=[kept]), 10**6).sources["x"]["dropped"] == {"long": 1}
    only = SourceConfig(**source, filters={"include": "short"})
    assert survey(TextConfig(sources=[only], validation_fraction=0.0), 10**6).sample == ["A short one."]
