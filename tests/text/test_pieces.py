"""Pieces: together they are the files, whatever is in these and wherever they are cut, and each can be resumed."""

from __future__ import annotations

import codecs
import itertools
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlm_pretrain.config import SourceConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.io.files import lines
from mlm_pretrain.io.files.reading import Reading
from mlm_pretrain.text.files import pieces
from mlm_pretrain.text.files.listing import cut_files
from mlm_pretrain.text.files.pieces import Piece
from mlm_pretrain.text.files.readers import read_rows
from mlm_pretrain.text.mixture import open_source

FRAGMENTS = [
    *(
        b"\n",
        b"\n\n",
        b"\r\n",
        b"\r\n\r\n",
        b"\r",
        b" ",
        b"\t",
        b"\f",
        b" \n",
        b"\n   \n",
        b"\n" + b" " * 70 + b"\n",
        b"\x1c\n",
    ),
    *(b"a", b"word and word", b"x" * 150, "é更".encode(), "\u2028".encode(), "\xa0\n".encode(), "\ufeff".encode()),
    *(b'{"text": "one"}\n', b"\xff", b"\xe2\x82\n", b"\xe9", b"\x00"),
]
# Bytes that begin as another format does are refused, whole or cut.
REFUSED = (*lines._PACKED, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)
CONTENTS = st.one_of(st.lists(st.sampled_from(FRAGMENTS), max_size=40).map(b"".join), st.binary(max_size=200)).filter(
    lambda content: not content.startswith(REFUSED)
)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces and searches as small as the files of these tests."""
    monkeypatch.setattr(pieces, "SMALLEST", 200)
    monkeypatch.setattr(pieces, "_CHUNK", 50)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pieces") / "x"


def rows_of(parts: list[Piece], document: str, encoding: str = "utf-8") -> list[dict[str, Any]]:
    """The rows of pieces that are shards each."""
    shards = ([(part,)] for part in parts)
    return [row for shard in shards for row in read_rows(shard, "x", "text", document, Reading(encoding))]


@settings(max_examples=300, deadline=None)
@given(
    content=CONTENTS,
    wanted=st.integers(1, 100),
    chunk=st.integers(1, 40),
    kind=st.sampled_from([("txt", "line"), ("txt", "paragraph"), ("jsonl", "paragraph")]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "latin-1", "cp1252"]),
)
def test_the_rows_of_the_pieces_are_those_of_the_file(
    file: Path, content: bytes, wanted: int, chunk: int, kind: tuple[str, str], encoding: str
) -> None:
    path = file.with_suffix(f".{kind[0]}")
    path.write_bytes(content)
    pieces._first_boundary.cache_clear()
    parts = pieces.by_bytes(str(path), len(content), wanted)
    assert len(parts) == max(len(content) // wanted, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "_CHUNK", chunk)
        assert rows_of(parts, kind[1], encoding) == rows_of([Piece(str(path))], kind[1], encoding)


def test_encodings_that_are_cut_have_plain_line_ends() -> None:
    names = ["utf8", "ascii", "latin-1", "iso8859-15", "cp1250", "cp1258", "koi8-r"]
    assert all(map(pieces.can_be_cut, names))
    for name in names:  # what makes them so: in them, this byte is nothing but a line's end
        for byte in range(256):
            assert bytes([byte, 0x0A]).decode(name, "replace")[-1:] == "\n"
    assert not any(map(pieces.can_be_cut, ["utf-16", "utf-32-le", "utf-7", "shift_jis", "gb18030", "cp1140", "cp037"]))


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(0, 40), max_size=8), wanted=st.integers(1, 400))
def test_the_rows_of_a_parquet_file_are_those_of_its_pieces(file: Path, sizes: list[int], wanted: int) -> None:
    path = file.with_suffix(".parquet")
    schema = pa.schema([("nested", pa.struct([("a", pa.int32()), ("b", pa.int32())])), ("text", pa.string())])
    numbers = iter(range(1000))
    with pq.ParquetWriter(path, schema) as writer:
        for size in sizes:
            texts = [f"document {next(numbers)}" if number % 7 else None for number in range(size)]
            writer.write_table(pa.table({"nested": [{"a": 1, "b": 2}] * size, "text": texts}, schema=schema))
    parts = pieces.by_rows(str(path), [(size, 20 * size) for size in sizes], wanted)
    whole = rows_of([Piece(str(path))], "paragraph")
    assert len(whole) == sum(sizes)
    assert rows_of(parts, "paragraph") == whole
    if len(parts) > 1:
        assert parts[0].start == 0 and parts[-1].end == len(whole)
        assert all(part.end == following.start for part, following in itertools.pairwise(parts))


def test_row_groups_are_taken_together_or_divided() -> None:
    assert pieces.by_rows("x", [(10, 100)] * 6, 300) == [Piece("x", 0, 30), Piece("x", 30, 60)]
    assert pieces.by_rows("x", [(10, 100), (8, 400), (10, 100)], 100) == [
        *(Piece("x", 0, 10), Piece("x", 10, 12), Piece("x", 12, 14), Piece("x", 14, 16), Piece("x", 16, 18)),
        Piece("x", 18, 28),
    ]
    assert len(pieces.by_rows("x", [(10**6, 10**9)], 100)) == pieces.MOST_PARTS_OF_A_GROUP
    assert pieces.by_rows("x", [(3, 10**6)], 100) == [Piece("x", 0, 1), Piece("x", 1, 2), Piece("x", 2, 3)]
    assert pieces.by_rows("x", [], 100) == pieces.by_rows("x", [(5, 50)], 100) == [Piece("x")]


@given(sizes=st.lists(st.integers(0, 50), min_size=1), wanted=st.integers(0, 200))
def test_small_files_are_joined_in_order(sizes: list[int], wanted: int) -> None:
    given_pieces = [Piece(str(number)) for number in range(len(sizes))]
    merged = pieces.merge_small(zip(given_pieces, sizes, strict=True), wanted)
    assert list(itertools.chain.from_iterable(merged)) == given_pieces
    filled = [sum(sizes[int(piece.file)] for piece in group) for group in merged]
    assert all(total <= wanted or len(group) == 1 for total, group in zip(filled, merged, strict=True))
    assert all(first + second > wanted for first, second in itertools.pairwise(filled))


def test_the_number_of_pieces_is_bounded_for_any_corpus(tmp_path: Path) -> None:
    for number in range(1500):
        (tmp_path / f"{number:04}.txt").write_bytes(b"word\n" * (number % 7 + 1))
    shards = cut_files(sorted(map(str, tmp_path.iterdir())), "text", "line", "utf-8")
    assert pieces.PIECES / 2 < len(shards) < 2 * pieces.PIECES
    assert [piece.file for shard in shards for piece in shard] == sorted(map(str, tmp_path.iterdir()))
    middle = 10**8 // pieces.PIECES
    assert [pieces.piece_size(10**power) for power in (3, 8, 12)] == [pieces.SMALLEST, middle, pieces.LARGEST]


@pytest.mark.usefixtures("small")
def test_what_is_cut_and_what_stays_whole(tmp_path: Path) -> None:
    text = "".join(f"line {number} of a text\n\n" for number in range(100))
    cases = {
        ("x.txt", "paragraph", "utf-8"): True,
        ("x.txt", "line", "latin-1"): True,
        ("x.jsonl", "file", "utf-8"): True,
        ("x.txt", "file", "utf-8"): False,
        ("x.txt", "paragraph", "utf-16"): False,
        ("x.txt.gz", "paragraph", "utf-8"): False,
        ("x.csv", "line", "utf-8"): False,
    }
    for (name, document, encoding), expected in cases.items():
        (tmp_path / name).write_text(text, encoding=encoding)
        shards = cut_files([str(tmp_path / name)], "text", document, encoding)
        assert (len(shards) > 1) == expected, name
        if expected:
            assert len(shards) == len(text) // 200


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("form", ["txt", "jsonl", "parquet", "csv", "jsonl.gz"])
def test_every_shard_resumes_anywhere_and_all_rows_come_once(tmp_path: Path, form: str) -> None:
    from tests.text.test_files import write_corpus

    texts = [f"document {number}: größer, 更大" for number in range(60)]
    write_corpus(tmp_path, form, texts[:40], "a")
    write_corpus(tmp_path, form, texts[40:41], "b")
    write_corpus(tmp_path, form, texts[41:], "c")
    source = SourceConfig(source="files", path=str(tmp_path))
    whole = list(open_source(source))
    shards = open_source(source).num_shards
    assert shards == 3 if form in {"csv", "jsonl.gz"} else shards > 6
    found = []
    for index in range(shards):
        length = len(list(open_source(source).shard(shards, index)))
        for taken in {0, 1, length // 2, length}:
            first = open_source(source).shard(num_shards=shards, index=index)
            rows = iter(first)
            head = list(itertools.islice(rows, taken))
            again = open_source(source).shard(num_shards=shards, index=index)
            again.load_state_dict(json.loads(json.dumps(first.state_dict())))
            read = head + list(again)
            assert len(read) == length
        found += read
    assert len(whole) == 60 and found == whole


@pytest.mark.usefixtures("small")
def test_a_file_that_is_gone_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("word\n\n" * 500)
    dataset = open_source(SourceConfig(source="files", path=str(path)))
    path.unlink()
    for index in (0, 3):
        with pytest.raises(UserError, match=r"x\.txt: no such file$"):
            list(dataset.shard(dataset.num_shards, index))


def test_a_record_longer_than_many_pieces_is_searched_through_once(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"word " * 1_000_000)
    pieces._first_boundary.cache_clear()
    parts = pieces.by_bytes(str(path), 5_000_000, 100_000)
    assert [len(row["text"]) for row in rows_of(parts, "line")] == [5_000_000]
    # Once in chunks, and of each cut the way to the next chunk.
    assert pieces._first_boundary.cache_info().misses <= 5_000_000 / pieces._CHUNK + len(parts)


UNBROKEN = {
    "lines without blank ones": ("a line of a log\n" * 150_000, "paragraph"),
    "one line": ("the words of one line " * 120_000, "line"),
    "carriage returns": ("a line of a log\r" * 150_000, "line"),
    "no white space": ("更大的文本没有空格" * 90_000, "line"),
    "at its end a paragraph of some size": ("one\n\n" * 200_000 + "a line of a log\n" * 60_000, "paragraph"),
}


@pytest.mark.parametrize("name", UNBROKEN)
def test_text_without_a_boundary_in_sight_is_divided_at_the_next_best_one(tmp_path: Path, name: str) -> None:
    text, document = UNBROKEN[name]
    path = tmp_path / "x.txt"
    path.write_text(text, encoding="utf-8")
    size = path.stat().st_size
    read = [row["text"] for row in rows_of(pieces.by_bytes(str(path), size, 100_000), document)]
    if name.startswith("at its end"):
        assert read == ["one"] * 200_000 + [("a line of a log\n" * 60_000)[:-1]]
        return
    assert max(map(len, read)) < 2_300_000 and len(read) > 5
    separator = "\n" if "line of a log" in text else ""
    text = text.replace("\r", "\n")
    assert "carriage" not in name or read == ["a line of a log"] * 150_000
    assert separator.join(read).rstrip("\n") == text.rstrip("\n")
    assert "\ufffd" not in "".join(read) and "\ufdd0" not in "".join(read)
    words = {"a", "line", "of", "log", "the", "words", "one"}
    assert name == "no white space" or set(" ".join(read).split()) <= words
