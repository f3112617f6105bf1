"""No token lost, no row too long, rows well filled."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from mlm_pretrain.stream.loader import pack_all
from mlm_pretrain.stream.pack import MAX_WAITING_ROWS, Segment, Segmenter, collate, fill, pack

LENGTH = 32
segments = st.lists(st.integers(1, LENGTH), max_size=200).map(
    lambda sizes: [Segment([number] * size, 0) for number, size in enumerate(sizes)]
)


def _tokens(rows: list[list[Segment]]) -> Counter[int]:
    return Counter(token for row in rows for segment in row for token in segment.ids)


@given(segments)
def test_packing_loses_and_repeats_nothing(given_segments: list[Segment]) -> None:
    rows, waiting = pack(given_segments, LENGTH)
    assert all(0 < fill(row) <= LENGTH for row in rows)
    assert _tokens([*rows, waiting]) == _tokens([given_segments])
    assert _tokens(pack_all(waiting, LENGTH)) == _tokens([waiting])
    assert len(pack_all(waiting, LENGTH)) <= MAX_WAITING_ROWS


def test_mixed_lengths_fill_the_rows() -> None:
    lengths = np.random.default_rng(0).integers(3, 100, size=2000)
    rows, _ = pack([Segment([0] * int(length), 0) for length in lengths], 128)
    assert sum(map(fill, rows)) >= 0.98 * 128 * len(rows)


def test_long_documents_are_cut_and_not_truncated(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "the quick brown fox " * 100
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    cut = Segmenter(tokenizer, LENGTH)([(text, 0), ("", 0), ("a", 1)])
    assert max(len(segment.ids) for segment in cut) == LENGTH
    assert [token for segment in cut[:-1] for token in segment.ids[1:-1]] == ids
    assert all((segment.ids[0], segment.ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id) for segment in cut)
    assert cut[-1].source == 1


def test_special_tokens_that_stand_in_the_text_are_text(tokenizer: PreTrainedTokenizerFast) -> None:
    (segment,) = Segmenter(tokenizer, LENGTH)([("a [MASK] [SEP]", 0)])
    assert not set(segment.ids[1:-1]) & set(tokenizer.all_special_ids)
    assert tokenizer.decode(segment.ids[1:-1]).strip() == "a [MASK] [SEP]"


def test_rows_as_arrays() -> None:
    rows = collate([[Segment([5, 6, 7], 0), Segment([8, 9], 1)], [Segment([4], 1)]], 6, 0, first_index=10, step=3)
    assert rows.input_ids.tolist() == [[5, 6, 7, 8, 9, 0], [4, 0, 0, 0, 0, 0]]
    assert rows.segment_ids.tolist() == [[1, 1, 1, 2, 2, 0], [1, 0, 0, 0, 0, 0]]
    assert rows.position_ids.tolist() == [[0, 1, 2, 0, 1, 0], [0, 0, 0, 0, 0, 0]]
    assert rows.source_ids.tolist() == [[0, 0, 0, 1, 1, -1], [1, -1, -1, -1, -1, -1]]
    assert rows.index.tolist() == [10, 11]
    assert rows.step == 3
