"""Every text stays once: the first of its kind, whatever the parts, buckets and chunks."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlm_pretrain.errors import UserError
from mlm_pretrain.text import duplicates
from mlm_pretrain.text.duplicates import duplicates_of, find_duplicates, has_hashes, write_hashes

Parts = list[list[tuple[int, str]]]


def copies(parts: Parts) -> list[list[int]]:
    """The rows to drop, as a plain set tells them."""
    seen: set[str] = set()
    dropped: list[list[int]] = []
    for part in parts:
        dropped.append([])
        for row, text in part:
            if text in seen:
                dropped[-1].append(row)
            seen.add(text)
    return dropped


# Few texts, so that there are many copies, and any text at all; row numbers with gaps.
few = st.sampled_from(["", " ", "a", "A", "a\n", "\u00e9", "e\u0301", "the same line", "\ud800"])
part = st.lists(st.tuples(st.integers(1, 3), few | st.text(max_size=3)), max_size=40).map(
    lambda steps: [(int(row), text) for row, (_, text) in zip(np.cumsum([gap for gap, _ in steps]), steps, strict=True)]
)


@settings(max_examples=40, deadline=None)
@given(parts=st.lists(part, min_size=1, max_size=5), chunk=st.integers(1, 50))
def test_all_but_the_first_of_each_text_are_found(parts: Parts, chunk: int) -> None:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "CHUNK", chunk)
        folder = Path(name)
        # The order in which parts are hashed doesn't matter.
        for number in reversed(range(len(parts))):
            assert write_hashes(iter(parts[number]), number, folder) == len(parts[number])
        counts = find_duplicates(folder, range(len(parts)))
        expected = copies(parts)
        assert [duplicates_of(folder, number).tolist() for number in range(len(parts))] == expected
        assert counts == {number: len(rows) for number, rows in enumerate(expected)}


def test_many_texts_over_many_buckets(tmp_path: Path) -> None:
    draws = np.random.default_rng(0).integers(0, 30_000, size=(4, 10_000))
    parts = [[(row, f"document {number}") for row, number in enumerate(draw)] for draw in draws]
    for number, texts in enumerate(parts):
        write_hashes(texts, number, tmp_path)
    find_duplicates(tmp_path, range(4))
    assert [duplicates_of(tmp_path, number).tolist() for number in range(4)] == copies(parts)
    assert duplicates_of(tmp_path, 0).dtype == np.uint64


def test_a_part_that_was_interrupted_is_not_there_and_is_made_again(tmp_path: Path) -> None:
    def texts() -> Any:
        yield 0, "one"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_hashes(texts(), 0, tmp_path)
    assert not has_hashes(tmp_path, 0)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="no hashes of part 0"):
        find_duplicates(tmp_path, [0])
    write_hashes([(0, "one"), (5, "one")], 0, tmp_path)
    assert has_hashes(tmp_path, 0)
    with pytest.raises(UserError, match="no list of duplicates"):
        duplicates_of(tmp_path, 0)
    assert find_duplicates(tmp_path, [0]) == {0: 1}
    assert duplicates_of(tmp_path, 0).tolist() == [5]


@pytest.mark.parametrize("size", [0, 100, 2056, 2060])
def test_a_damaged_file_is_named(tmp_path: Path, size: int) -> None:
    write_hashes([(0, "one"), (1, "two")], 3, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(UserError, match=r"part-000003\.hashes: damaged .* hash part 3 again"):
        find_duplicates(tmp_path, [3])


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match=r"file: cannot write the hashes .* make room"):
        write_hashes([(0, "one")], 0, tmp_path / "file")
