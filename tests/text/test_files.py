"""Local files: what their rows are, what is marked rather than raised, one-line errors, and resume at any row."""

from __future__ import annotations

import csv
import gzip
import json
import lzma
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlm_pretrain.config import SourceConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.text.files.readers import decode_row
from mlm_pretrain.text.sources import SOURCES

TEXTS = [f"document {number}: größer, 更大, “longer” and, with commas" for number in range(25)]
OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open, ".zst": zstandard.open, "": open}


def write(path: Path, content: str) -> Path:
    """Write text, compressed as the suffix says."""
    opener = OPENERS[path.suffix if path.suffix in OPENERS else ""]
    with opener(path, "wt", encoding="utf-8", newline="") as handle:
        handle.write(content)
    return path


def write_corpus(folder: Path, form: str, texts: list[str], stem: str = "corpus") -> Path:
    path = folder / f"{stem}.{form}"
    kind = form.split(".")[0]
    if kind == "parquet":
        pq.write_table(pa.table({"text": texts, "other": list(range(len(texts)))}), path, row_group_size=4)
    elif kind in {"csv", "tsv"}:
        with path.open("w", newline="") as handle:
            writer = csv.writer(handle, delimiter="\t" if kind == "tsv" else ",")
            writer.writerows([["id", "text"], *([str(number), text] for number, text in enumerate(texts))])
    elif kind == "jsonl":
        write(path, "".join(json.dumps({"id": 1, "text": text}) + "\n" for text in texts))
    else:
        write(path, "\n\n".join(texts) + "\n")
    return path


def config(path: Any, **keys: Any) -> SourceConfig:
    return SourceConfig(source="files", path=path if isinstance(path, list) else str(path), **keys)


def decoded(rows: Iterable[dict[str, Any]], text_column: str = "text") -> list[dict[str, Any]]:
    """Rows as they are once they are decoded."""
    result = []
    for row in rows:
        text, dropped = decode_row(row, text_column) if "undecoded" in row else (row["text"], row["dropped"])
        result.append({"text": text, "source": row["source"], "dropped": dropped})
    return result


def read(path: Any, **keys: Any) -> list[dict[str, Any]]:
    source = config(path, **keys)
    return decoded(SOURCES["files"](source), source.text_column)


FORMS = ["jsonl", "jsonl.gz", "jsonl.zst", "jsonl.xz", "txt", "txt.gz", "csv", "tsv", "parquet"]


@pytest.mark.parametrize("form", FORMS)
def test_a_file_gives_its_documents_with_the_three_columns(tmp_path: Path, form: str) -> None:
    rows = read(write_corpus(tmp_path, form, TEXTS))
    assert rows == [{"text": text, "source": "corpus", "dropped": None} for text in TEXTS]


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("line", ["", "one", "two", "  ", "three", "", "", "four"]),
        ("paragraph", ["one\ntwo", "three", "four"]),
        ("file", ["\none\ntwo\n  \nthree\n\n\nfour\n"]),
    ],
)
def test_what_one_document_of_plain_text_is(tmp_path: Path, document: str, expected: list[str]) -> None:
    for name, ending in (("unix.txt", "\n"), ("dos.txt", "\r\n")):
        path = write(tmp_path / name, "\none\ntwo\n  \nthree\n\n\nfour\n".replace("\n", ending))
        assert [row["text"] for row in read(path, document=document)] == expected


@pytest.mark.parametrize("form", [*FORMS, "line.txt", "file.txt"])
def test_a_stream_resumes_at_any_row(tmp_path: Path, form: str) -> None:
    document = form.split(".")[0] if form.startswith(("line", "file")) else "paragraph"
    for number, part in enumerate((TEXTS[:10], TEXTS[10:11], TEXTS[11:])):
        write_corpus(tmp_path, form, part, stem=f"part{number}")
    source = config(tmp_path, document=document)
    whole = list(SOURCES["files"](source))
    for taken in {0, 1, len(whole) // 3, len(whole) // 2, len(whole) - 1, len(whole)}:
        first = SOURCES["files"](source)
        rows = iter(first)
        head = [next(rows) for _ in range(taken)]
        state = json.loads(json.dumps(first.state_dict()))
        again = SOURCES["files"](source)
        again.load_state_dict(state)
        assert head + list(again) == whole, taken


def test_formats_may_be_mixed_in_a_directory_and_the_order_is_that_of_the_names(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    write_corpus(tmp_path / "b", "csv", ["third"], "x")
    write_corpus(tmp_path, "jsonl", ["first"], "a")
    write_corpus(tmp_path, "parquet", ["second"], "aa")
    write(tmp_path / ".hidden.txt", "not this")
    write(tmp_path / "picture.png", "nor this")
    dataset = SOURCES["files"](config(tmp_path, label="mine"))
    assert [(row["text"], row["source"]) for row in decoded(dataset)] == [
        ("first", "mine"),
        ("second", "mine"),
        ("third", "mine"),
    ]
    assert dataset.num_shards == 3


def test_globs_lists_and_brackets_in_names(tmp_path: Path) -> None:
    for name in ("a[1].txt", "b.txt", "c.log"):
        write(tmp_path / name, name)
    assert [row["text"] for row in read(tmp_path / "*.txt")] == ["a[1].txt", "b.txt"]
    listed = [str(tmp_path / "c.log"), str(tmp_path / "a[1].txt"), str(tmp_path / "*")]
    assert [row["text"] for row in read(listed)] == ["c.log", "a[1].txt", "b.txt"]


def test_rows_that_cannot_be_decoded_are_marked_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    lines = [
        '{"text": "good"}',
        '{"text": "cut of',
        '["no", "object"]',
        '{"text": null}',
        '{"other": 1}',
        '{"text": 5}',
        '{"text": "half a pair \\ud800"}',
        '{"text": "replaced \ufffd but valid"}',
        "",
        '{"text": "last"}',
    ]
    path.write_bytes("\n".join(lines).encode() + b'\n{"text": "\xff"}\n')
    assert [(row["text"], row["dropped"]) for row in read(path)] == [
        ("good", None),
        (None, "undecodable"),
        (None, "undecodable"),
        (None, None),
        (None, None),
        (None, "not_text"),
        (None, "undecodable"),
        ("replaced \ufffd but valid", None),
        ("", None),
        ("last", None),
        (None, "undecodable"),
    ]


def test_bad_bytes_cost_one_document_and_the_encoding_counts(tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes("plain\n\ncafé\n\nend".encode("latin-1"))
    assert [row["dropped"] for row in read(path)] == [None, "undecodable", None]
    assert [row["text"] for row in read(path, encoding="latin-1")] == ["plain", "café", "end"]
    path.write_bytes("\ufeffmarked".encode())
    assert [row["text"] for row in read(path)] == ["marked"]


def test_csv_rows_of_another_length_are_marked_and_quoted_line_ends_are_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", 'text,id\n"two\nlines, one text",1\nunquoted, comma,2\nshort\nNA,3\n,4\n')
    assert [(row["text"], row["dropped"]) for row in read(path)] == [
        ("two\nlines, one text", None),
        (None, "undecodable"),
        (None, "undecodable"),
        ("NA", None),
        ("", None),
    ]


def test_nulls_of_parquet_pass_through(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ["a", None, ""]}), tmp_path / "x.parquet")
    rows = read(tmp_path / "x.parquet", text_column="body")
    assert [(row["text"], row["dropped"]) for row in rows] == [("a", None), (None, None), ("", None)]


def test_zstandard_files_of_several_frames_are_read_whole(tmp_path: Path) -> None:
    frames = [zstandard.compress(f"part {number}\n\n".encode()) for number in range(3)]
    (tmp_path / "x.txt.zst").write_bytes(b"".join(frames))
    assert [row["text"] for row in read(tmp_path / "x.txt.zst")] == ["part 0", "part 1", "part 2"]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufdd0")), min_size=1))
def test_any_text_comes_back_from_json_lines_as_it_was(tmp_path: Path, texts: list[str]) -> None:
    path = tmp_path / "any.jsonl"
    rows = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    path.write_bytes(rows.encode())
    assert [row["text"] for row in read(path)] == texts


def bad_files(folder: Path) -> dict[str, tuple[Any, dict[str, Any], str]]:
    """By case: path, keys, and what the error must say."""
    (folder / "empty").mkdir()
    (folder / "other").mkdir()
    write(folder / "other" / "x.png", "?")
    table = write_corpus(folder, "parquet", TEXTS)
    pq.write_table(pa.table({"text": [1, 2]}), folder / "numbers.parquet")
    damaged = folder / "cut.jsonl.gz"
    damaged.write_bytes(b"not gzip at all")
    (folder / "bad.parquet").write_bytes(b"PAR1 not parquet")
    return {
        "no path": (None, {}, "needs a path"),
        "missing": (folder / "nope.txt", {}, "nope.txt: no such file"),
        "no match": (folder / "*.nope", {}, "no file matches"),
        "empty directory": (folder / "empty", {}, "empty"),
        "nothing readable": (folder / "other", {}, "none of the 1 files"),
        "empty file": (write(folder / "void.txt", " \n\n "), {}, "void.txt: there is no text"),
        "header only": (write(folder / "head.csv", "text,id\n"), {}, "there is no text"),
        "wrong column": (table, {"text_column": "txt"}, "no column 'txt'.*text, other; did you mean 'text'"),
        "wrong json key": (write(folder / "k.jsonl", '{"body": "x"}\n'), {}, "k.jsonl: no column 'text'.*body"),
        "wrong csv column": (write(folder / "k.csv", "a,b\n1,2\n"), {}, "k.csv: no column 'text'.*a, b"),
        "numbers": (folder / "numbers.parquet", {}, "holds int64, not text"),
        "array": (write(folder / "list.json", '[{"text": "x"}]'), {}, "not JSON lines"),
        "indented": (write(folder / "indented.json", '{\n  "text": "x"\n}'), {}, "not JSON lines"),
        "damaged gzip": (damaged, {}, "cut.jsonl.gz: "),
        "damaged parquet": (folder / "bad.parquet", {}, "bad.parquet: the file is damaged"),
        "archive": (write(folder / "x.zip", "PK"), {}, "unpack or convert"),
    }


def test_bad_input_is_one_line_that_names_the_file(tmp_path: Path) -> None:
    for case, (path, keys, message) in bad_files(tmp_path).items():
        source = SourceConfig(source="files", path=None if path is None else str(path), **keys)
        with pytest.raises(UserError, match=message) as caught:
            SOURCES["files"](source)
        assert "\n" not in str(caught.value), case


@pytest.mark.parametrize("form", ["txt.gz", "txt.xz", "txt.zst"])
def test_a_compressed_file_that_was_cut_is_an_error_when_the_stream_gets_there(tmp_path: Path, form: str) -> None:
    noise = random.Random(0)
    path = write_corpus(tmp_path, form, [noise.randbytes(200).hex() for _ in range(2000)])
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(UserError, match="damaged"):
        list(SOURCES["files"](config(path)))
