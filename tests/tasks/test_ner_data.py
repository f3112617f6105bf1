"""Named entities in any form: tags of any scheme, character spans, csv; what had to be mended is told once a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.tasks.kinds.ner import TokenClassification
from mlm_pretrain.tasks.labels.schemes import Scheme, breaks, convert
from tests.tasks.conftest import conll
from tests.tasks.examples import read_examples

TOY = TaskConfig(task="ner", name="toy")


def read(path: Path, content: str, task: TaskConfig = TOY) -> list[dict]:
    path.write_text(content, encoding="utf-8")
    examples = read_examples(path, TokenClassification, task)
    TokenClassification.review(examples)
    return examples


def from_spans(text: str, spans: object) -> dict:
    return TokenClassification.make_example({"text": text, "entities": spans}, TOY, "f:1")


def test_spans_become_words_and_tags_of_the_same_text(tmp_path: Path, bpe: PreTrainedTokenizerFast) -> None:
    text = "In New  York, Åsa left."
    wanted = ["O", "B-LOC", "I-LOC", "O", "B-PER", "O", "O"]
    mappings = [{"start": 14, "end": 17, "label": "PER"}, {"start": 3, "end": 12, "label": "LOC"}]
    lists = [[3, 12, "LOC"], [14, 17, "PER"]]
    columns = {"start": [14, 3], "end": [17, 12], "type": ["PER", "LOC"]}
    named = [{**{key: row[key] for key in ("start", "end")}, "entity_group": row["label"]} for row in mappings]
    for spans in (mappings, lists, columns, named, json.dumps(lists)):
        example = from_spans(text, spans)
        assert example["tokens"] == ["In", "New", "York", ",", "Åsa", "left", "."]
        assert example["tags"] == wanted
        assert set(example) == {"text", "spans", "tokens", "tags", "place"}
    (feature,) = TokenClassification(["O", "B-LOC", "I-LOC", "B-PER", "I-PER"], bpe, 100).encode([example])
    assert feature["input_ids"] == bpe(text)["input_ids"]
    quoted = json.dumps(lists).replace('"', '""')
    from_csv = read(tmp_path / "a.csv", f'text,entities\n"{text}","{quoted}"\n')
    from_jsonl = read(tmp_path / "a.jsonl", json.dumps({"text": text, "entities": mappings}) + "\n")
    assert from_csv[0]["tags"] == from_jsonl[0]["tags"] == wanted


def test_spans_that_cut_words_or_stand_in_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"text": "anti-Covid19 pills", "entities": [[5, 10, "D"], [12, 18, "T"]]},
        {"text": "The University of Oslo", "entities": [[18, 22, "L"], [4, 22, "O"], [4, 22, "L"]]},
        {"text": "3mg dose", "entities": [[0, 1, "N"], [1, 8, "U"]]},
    ]
    examples = read(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert [example["tags"] for example in examples] == [
        ["O", "O", "B-D", "B-T"],
        ["O", "B-O", "I-O", "I-O"],
        ["B-N", "B-U"],
    ]
    read_line, *told = capsys.readouterr().err.splitlines()
    assert read_line.startswith(f"{tmp_path / 'a.jsonl'}: 3 records, the longest has 22 characters (line 2)")
    place = tmp_path / "a.jsonl"
    assert [line for line in told if "warning" in line] == told and len(told) == 2
    assert f"{place}: 3 entities cut words" in told[0] and f"{place}:1, 'Covid' to 'Covid19'" in told[0]
    assert f"{place}: 2 entities stand in others" in told[1] and f"{place}:2, L 4-22 in O 4-22" in told[1]


@pytest.mark.parametrize(
    ("spans", "problem"),
    [
        ([[0, 8, "a"], [4, 12, "b"]], "f:1: a 0-8 and b 4-12 overlap"),
        ([[0, 99, "a"]], "f:1: a 0-99 in entities isn't in the text of 13 characters"),
        ([[3, 4, "a"]], "f:1: a 3-4 in entities holds no text"),
        ([[4, 4, "a"]], "f:1: a 4-4 in entities holds no text"),
        ([{"start": 0, "stop": 3, "label": "a"}], "start and end are characters"),
        ([[0, 3]], "an entity is {start, end, label}"),
        ([[0, 3, 7]], "label is a name"),
        (None, "entities must be a list"),
        ("", "entities is not valid JSON"),
    ],
)
def test_bad_spans_are_named(spans: object, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        from_spans("one two three", spans)


@settings(deadline=None)
@given(st.text(max_size=30), st.data())
def test_words_of_spans_cover_them(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=6)))
    spans = [[a, b, "x"] for a, b in zip(cuts[::2], cuts[1::2], strict=False) if text[a:b].strip()]
    example = from_spans(text, spans)
    assert breaks(example["tags"], "BIO") == []
    assert [text[start:end] for start, end in example["spans"]] == example["tokens"]
    tagged_characters = {
        place
        for (start, end), tag in zip(example["spans"], example["tags"], strict=True)
        if tag != "O"
        for place in range(start, end)
    }
    inside = {place for a, b, _ in spans for place in range(a, b) if not text[place].isspace()}
    assert inside <= tagged_characters
    for (start, end), tag in zip(example["spans"], example["tags"], strict=True):
        assert (tag != "O") == any(place in inside for place in range(start, end))


def test_any_scheme_is_read_and_what_is_broken_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = [["B-a", "I-a", "B-a", "O"], ["O", "B-b"]]
    schemes: tuple[Scheme, ...] = ("BIO", "IOB1", "BIOES")
    for scheme in schemes:
        sentences = [(["w"] * len(tags), convert(tags, scheme)) for tags in wanted]
        assert [row["tags"] for row in read(tmp_path / f"{scheme}.conll", conll(sentences))] == wanted
    assert "warning" not in capsys.readouterr().err
    read(tmp_path / "bio.conll", "w\tO\n\nw\tB-a\nw\tI-b\n\nw\tI-a\n")
    assert (
        f"{tmp_path}/bio.conll: 2 tags out of sequence (BIO), read as conlleval would; "
        f"the first: {tmp_path}/bio.conll:3, word 2: 'I-b'" in capsys.readouterr().err
    )
    examples = read(tmp_path / "bioes.conll", "w\tS-a\nw\tB-a\n\nw\tO\nw\tE-a\n")
    assert [row["tags"] for row in examples] == [["B-a", "B-a"], ["O", "B-a"]]
    assert f"2 tags out of sequence (BIOES), read as conlleval would; the first: {tmp_path}/bioes.conll:1, word 2" in (
        capsys.readouterr().err
    )


def test_csv_has_words_and_tags_by_blanks(tmp_path: Path) -> None:
    (example,) = read(tmp_path / "a.csv", "tokens,ner_tags\nEU says  no,B-ORG O O\n")
    assert (example["tokens"], example["tags"]) == (["EU", "says", "no"], ["B-ORG", "O", "O"])


def test_conll_columns_are_the_configs(tmp_path: Path) -> None:
    task = TOY.model_copy(update={"conll_columns": (1, 3)})
    (example,) = read(tmp_path / "a.conll", "1 EU NNP B-ORG _\n2 says VBZ O _\n", task)
    assert (example["tokens"], example["tags"]) == (["EU", "says"], ["B-ORG", "O"])


def test_unlabelled_rows_are_texts_or_words() -> None:
    make = TokenClassification.make_example
    text = make({"text": "It's Oslo.", "tokens": ["x"]}, TOY, "f:1", labelled=False)
    assert text["tokens"] == ["It", "'", "s", "Oslo", "."] and text["spans"][3] == (5, 9) and "tags" not in text
    words = make({"tokens": ["It's", "Oslo"]}, TOY, "f:1", labelled=False)
    assert (words["text"], words["spans"]) == ("It's Oslo", [(0, 4), (5, 9)])
    with pytest.raises(UserError, match=r"f:1: no column 'text'.*did you mean 'txt'"):
        make({"txt": "x"}, TOY, "f:1", labelled=False)
