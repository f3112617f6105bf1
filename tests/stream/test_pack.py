"""No token lost, no row too long, rows well filled."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from mlm_pretrain.stream.pack import Block, Row, Segmenter, Segments, collate, pack

LENGTH = 32


def segments_of(lengths: list[int]) -> Segments:
    """Segment number i is so many tokens i; every second one begins a document of i bytes."""
    numbers = np.arange(len(lengths))
    return Segments(
        ids=np.repeat(numbers, lengths).astype(np.int32),
        starts=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
        documents=(numbers % 2 == 0).astype(np.int32),
        bytes=np.where(numbers % 2 == 0, numbers, 0),
    )


def rows_of(block: Block) -> list[list[list[int]]]:
    """The token ids of each segment of each row."""
    rows = []
    for row in range(len(block)):
        ids = block.ids[block.row_starts[row] : block.row_starts[row + 1]]
        lengths = block.lengths[block.segment_starts[row] : block.segment_starts[row + 1]]
        assert lengths.sum() == len(ids)
        rows.append([part.tolist() for part in np.split(ids, np.cumsum(lengths)[:-1])])
    return rows


@given(st.lists(st.integers(1, LENGTH), max_size=200), st.booleans())
def test_packing_loses_and_repeats_nothing(lengths: list[int], packing: bool) -> None:
    segments = segments_of(lengths)
    block = pack(segments, LENGTH, packing)
    rows = rows_of(block)
    assert all(0 < sum(map(len, row)) <= LENGTH for row in rows)
    assert sorted(part for row in rows for part in row) == [[number] * size for number, size in enumerate(lengths)]
    if not packing:
        assert all(len(row) == 1 for row in rows)
    for row, documents, size in zip(rows, block.documents, block.bytes, strict=True):
        begun = [part[0] for part in row if part[0] % 2 == 0]
        assert (documents, size) == (len(begun), sum(begun))


@given(st.lists(st.integers(1, LENGTH), min_size=1, max_size=200))
def test_no_two_rows_would_fit_into_one(lengths: list[int]) -> None:
    block = pack(segments_of(lengths), LENGTH)
    fill = sorted(np.diff(block.row_starts).tolist())
    assert len(fill) == 1 or fill[0] + fill[1] > LENGTH


def test_mixed_lengths_fill_the_rows() -> None:
    block = pack(segments_of(np.random.default_rng(0).integers(3, 100, size=2000).tolist()), 128)
    assert len(block.ids) >= 0.98 * 128 * len(block)


def test_long_documents_are_cut_and_not_truncated(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "the quick brown fox " * 100
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    cut = Segmenter(tokenizer, LENGTH)([text, "", "a"])
    parts = [part.tolist() for part in np.split(cut.ids, cut.starts[1:-1])]
    assert max(map(len, parts)) == LENGTH
    assert [token for part in parts[:-1] for token in part[1:-1]] == ids
    assert all((part[0], part[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id) for part in parts)
    assert cut.documents.tolist() == [1] + [0] * (len(parts) - 2) + [1]
    assert cut.bytes.tolist() == [len(text)] + [0] * (len(parts) - 2) + [1]


@given(st.lists(st.text(max_size=60), max_size=8))
def test_segments_are_what_the_tokenizer_says(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> None:
    assume(not any(special in text for text in texts for special in tokenizer.all_special_tokens))  # see below
    expected = [
        tokenizer(text)["input_ids"] for text in texts if tokenizer(text, add_special_tokens=False)["input_ids"]
    ]
    cut = Segmenter(tokenizer, 512)(texts)
    assert [part.tolist() for part in np.split(cut.ids, cut.starts[1:-1])][: len(expected)] == expected
    assert cut.documents.sum() == len(expected)


def test_special_tokens_that_stand_in_the_text_are_text(tokenizer: PreTrainedTokenizerFast) -> None:
    segments = Segmenter(tokenizer, LENGTH)(["a [MASK] [SEP]"])
    body = segments.ids[1:-1].tolist()
    assert not set(body) & set(tokenizer.all_special_ids)
    assert tokenizer.decode(body).strip() == "a [MASK] [SEP]"
    # The user's tokenizer is as it was.
    assert set(tokenizer("[MASK]", add_special_tokens=False)["input_ids"]) == {tokenizer.mask_token_id}


def test_rows_as_arrays() -> None:
    # Two rows, of segments with 3 + 2 tokens and with 1.
    block = Block(
        ids=np.array([5, 6, 7, 8, 9, 4], dtype=np.int32),
        row_starts=np.array([0, 5, 6]),
        lengths=np.array([3, 2, 1], dtype=np.int32),
        segment_starts=np.array([0, 2, 3]),
        documents=np.array([2, 1], dtype=np.int32),
        bytes=np.array([20, 10]),
    )
    rows = collate([Row(block, 1, 1), None, Row(block, 0, 0)], 6, 0, index=[10, 12, 13], step=3)
    assert rows.input_ids.tolist() == [[4, 0, 0, 0, 0, 0], [0] * 6, [5, 6, 7, 8, 9, 0]]
    assert rows.segment_ids.tolist() == [[1, 0, 0, 0, 0, 0], [0] * 6, [1, 1, 1, 2, 2, 0]]
    assert rows.position_ids.tolist() == [[0] * 6, [0] * 6, [0, 1, 2, 0, 1, 0]]
    assert rows.source_ids.tolist() == [[1, -1, -1, -1, -1, -1], [-1] * 6, [0, 0, 0, 0, 0, -1]]
    assert rows.index.tolist() == [10, 12, 13]
    assert rows.step == 3
    assert Counter(map(str, (rows.input_ids.dtype, rows.position_ids.dtype))) == {"int64": 2}
