"""One file, three readers: pretraining, labelled examples and predictions get the same texts of it."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import zipfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from mlm_pretrain.config import SourceConfig, TaskConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.io.files import lines
from mlm_pretrain.io.files.reading import Reading
from mlm_pretrain.io.files.records import Records
from mlm_pretrain.tasks.data.readers import read_rows
from mlm_pretrain.tasks.labels.unusable import BadExample
from mlm_pretrain.text.mixture import documents
from mlm_pretrain.text.sources import SOURCES

COMPRESS = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.compress,
}
LABELLED = ("jsonl", "csv", "tsv", "parquet", "conll")
FORMS = ("txt", *LABELLED)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("agree")


def content_of(form: str, texts: list[str], encoding: str = "utf-8") -> bytes:
    buffer = io.StringIO()
    if form == "parquet":
        sink = io.BytesIO()
        pq.write_table(pa.table({"text": texts, "label": ["x"] * len(texts)}), sink)
        return sink.getvalue()
    if form == "jsonl":
        buffer.writelines(json.dumps({"text": text, "label": "x"}, ensure_ascii=False) + "\n" for text in texts)
    elif form == "txt":
        buffer.writelines(f"{text}\n" for text in texts)
    elif form == "conll":
        buffer.writelines("".join(f"{word}\tO\n" for word in text.split()) + "\n" for text in texts)
    else:
        delimiter = "\t" if form == "tsv" else ","
        csv.writer(buffer, delimiter=delimiter, lineterminator="\n").writerows(
            [["text", "label"], *([t, "x"] for t in texts)]
        )
    return buffer.getvalue().encode(encoding)


def pretrained(path: Path, **keys: str) -> tuple[list[str], dict[str, int]]:
    source = SourceConfig(source="files", path=str(path), document="line", **keys)
    dropped: Counter[str] = Counter()
    found = [each.text for row in SOURCES["files"](source) for each in documents(row, source, dropped)]
    return found, dict(dropped)


def labelled(path: Path, **keys: str) -> list[str]:
    task = TaskConfig(task="x", name="t", **keys)
    found = []
    for row, _ in read_rows(path, task, conll=".conll" in path.name):
        if isinstance(row, BadExample):
            raise row
        found.append(row["text"] if "text" in row else " ".join(row["tokens"]))
    return found


def predicted(path: Path, **keys: str) -> tuple[list[str], list[str]]:
    records = list(Records(path, Reading.checked(**keys)))
    problems = [record.problem for record in records if record.problem]
    return [record.row["text"] for record in records if not record.dropped], problems


def agree(path: Path, wanted: list[str], **keys: str) -> None:
    form = path.name.split(".")[1]
    if form != "conll":
        assert pretrained(path, **keys)[0] == wanted
        assert predicted(path, **keys) == (wanted, [])
    if form in LABELLED:
        assert labelled(path, **keys) == wanted


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("form", FORMS)
def test_every_format_with_every_compression(tmp_path: Path, form: str, suffix: str) -> None:
    texts = [f"number {number}: größer, 更大, “longer”" for number in range(50)]
    path = tmp_path / f"a.{form}{suffix}"
    path.write_bytes(COMPRESS[suffix](content_of(form, texts)))
    agree(path, texts)
    if not suffix:
        return
    path.write_bytes(path.read_bytes()[:-9])
    for read in (pretrained, labelled, predicted):
        if form == "conll" and read is not labelled:
            continue  # only tasks that label words know this format
        if form == "txt" and read is labelled:
            continue
        with pytest.raises(UserError, match="the file is damaged or cut off") as caught:
            read(path)
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize("kind", [*filter(None, COMPRESS), "zip", "parquet"])
@pytest.mark.parametrize("form", ["txt", "jsonl", "csv", "conll"])
def test_a_name_that_does_not_say_what_a_file_is(tmp_path: Path, form: str, kind: str) -> None:
    path = tmp_path / f"a.{form}"
    texts = ["a text", "and another"]
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(path.name, content_of(form, texts))
    else:
        path.write_bytes(content_of(kind, texts) if kind == "parquet" else COMPRESS[kind](content_of(form, texts)))
    remedy = "unpack it" if kind == "zip" else f"rename it to end in .{kind.lstrip('.')}"
    for read in (pretrained, labelled, predicted):
        if form in (("txt",) if read is labelled else ("conll",)):
            continue
        with pytest.raises(UserError, match=rf"a\.{form}: .* though its name doesn't say so; {remedy}"):
            read(path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1", "shift_jis"])
@pytest.mark.parametrize("form", ["txt", "jsonl", "csv", "conll"])
def test_an_encoding_is_asked_for_by_its_key(tmp_path: Path, form: str, encoding: str) -> None:
    texts = [f"{number} {'ひらがな' if encoding == 'shift_jis' else 'größer'} than that" for number in range(10)]
    path = tmp_path / f"a.{form}"
    path.write_bytes(content_of(form, texts, encoding))
    agree(path, texts, encoding=encoding)
    if encoding.startswith("utf"):
        for read in (pretrained, labelled, predicted):
            if form in (("txt",) if read is labelled else ("conll",)):
                continue
            with pytest.raises(UserError, match=f"the file is in UTF-.*; set encoding: {encoding}$"):
                read(path)
        return
    if form in LABELLED:
        with pytest.raises(UserError, match=r"not valid utf-8 text; set encoding, latin-1"):
            labelled(path)
    if form != "conll":
        assert pretrained(path) == ([], {"undecodable": 10})
        assert all("set encoding" in problem for problem in predicted(path)[1]) and len(predicted(path)[1]) == 10


ENDS = st.sampled_from(["\n", "\r\n", "\r"])
WORDS = st.text(alphabet="ab#é更", min_size=1, max_size=5)


@settings(deadline=None, max_examples=100)
@given(
    lines=st.lists(st.tuples(WORDS, ENDS), min_size=1, max_size=12),
    form=st.sampled_from(["txt", "jsonl", "csv", "tsv"]),
)
def test_any_mix_of_line_ends(folder: Path, lines: list[tuple[str, str]], form: str) -> None:
    head = ["text,label"] if form == "csv" else ["text\tlabel"] if form == "tsv" else []
    rows = {
        "txt": lambda text: text,
        "jsonl": lambda text: json.dumps({"text": text}),
        "csv": lambda text: f"{text},x",
        "tsv": lambda text: f"{text}\tx",
    }
    path = folder / f"a.{form}"
    content = "".join(f"{head_line}{lines[0][1]}" for head_line in head)
    content += "".join(rows[form](text) + end for text, end in lines)
    path.write_bytes(content.encode())
    agree(path, [text for text, _ in lines])


@settings(deadline=None, max_examples=100)
@given(sentences=st.lists(st.lists(st.tuples(WORDS, ENDS), min_size=1, max_size=4), min_size=1, max_size=5), end=ENDS)
def test_any_mix_of_line_ends_between_words(folder: Path, sentences: list[list[tuple[str, str]]], end: str) -> None:
    path = folder / "a.conll"
    # CR, then LF would be one line end.
    pairs = [[(word, "\r\n" if each == "\r" else each) for word, each in words] for words in sentences]
    path.write_bytes("".join("".join(f"{w}\tO{e}" for w, e in words) + end for words in pairs).encode())
    agree(path, [" ".join(word for word, _ in words) for words in pairs])


@pytest.mark.parametrize("form", ["txt", "jsonl", "csv", "conll"])
def test_marks_of_joined_files_are_no_text(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"a.{form}"
    path.write_bytes(b"".join("\ufeff".encode() + content_of(form, [f"part {n}", "end"]) for n in range(3)))
    agree(path, ["part 0", "end", "part 1", "end", "part 2", "end"])
    if form == "csv":
        assert pretrained(path)[1] == {"header": 2}


@pytest.mark.parametrize("form", ["txt", "jsonl", "csv"])
def test_a_line_without_end_is_dropped_and_counted(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LONGEST", 500)
    texts = ["first", "x" * 5000, "last"]
    path = tmp_path / f"a.{form}.gz"
    path.write_bytes(gzip.compress(content_of(form, texts)))
    found, problems = predicted(path)
    assert found == ["first", "last"]
    (problem,) = problems
    assert problem.endswith(": a line of more than 500 characters")
    if form != "txt":
        assert pretrained(path) == (["first", "last"], {"line_too_long": 1})
        with pytest.raises(UserError, match=r"a line of more than 500 characters"):
            labelled(path)


def test_memory_is_bounded_however_long_a_line_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tracemalloc

    monkeypatch.setattr(lines, "LONGEST", 2**16)
    path = tmp_path / "a.jsonl.gz"
    with gzip.open(path, "wb") as handle:
        for _ in range(50):
            handle.write(bytes(2**20))
        handle.write(b'\n{"text": "last"}\n')
    tracemalloc.start()
    try:
        found, problems = predicted(path)
        highest = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == ["last"] and len(problems) == 1 and highest < 5_000_000


def test_windows_of_zstandard_may_be_as_long_as_the_format_allows(tmp_path: Path) -> None:
    texts = [f"number {number}" for number in range(2000)]
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=31, enable_ldm=True)
    path = tmp_path / "a.jsonl.zst"
    with path.open("wb") as raw, zstandard.ZstdCompressor(compression_params=parameters).stream_writer(raw) as handle:
        handle.write(content_of("jsonl", texts[:1000]))
    with path.open("ab") as raw:  # frames after each other are one file
        raw.write(zstandard.compress(content_of("jsonl", texts[1000:])))
    agree(path, texts)


@pytest.mark.parametrize("name", ["a.conll", "a.conllu.gz", "a.bio", "a.iob", "a.iob2"])
def test_files_of_words_and_tags_are_no_texts(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(content_of("conll", ["Oslo is cold", "so is Rome"]))
    for read in (pretrained, predicted):
        with pytest.raises(UserError, match=rf"{name}: a \.{name.split('.')[1]} file holds a word and its tag a line"):
            read(path)
