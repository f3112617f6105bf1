"""Words of raw text: nothing but blanks is left out, marks stay, scripts without blanks go by characters."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from mlm_pretrain.tasks.labels.words import join_words, split_words


def words(text: str) -> list[str]:
    return [text[start:end] for start, end in split_words(text)]


@given(st.text())
def test_words_are_the_text_without_blanks(text: str) -> None:
    spans = split_words(text)
    assert "".join(words(text)) == "".join(text.split())
    assert all(start < end for start, end in spans)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
    assert not any(char.isspace() for word in words(text) for char in word)


def test_scripts_without_blanks_go_by_characters() -> None:
    assert words("我在Berlin住。") == ["我", "在", "Berlin", "住", "。"]
    assert words("東京タワー") == ["東", "京", "タ", "ワ", "ー"]
    assert words("ที่นี่") == ["ที่", "นี่"]  # vowel signs and tones stay with their consonant
    assert words("서울 타워") == ["서울", "타워"]  # Korean has blanks


@given(st.lists(st.text(max_size=4), max_size=6))
def test_joined_words_are_found_again(tokens: list[str]) -> None:
    text, spans = join_words(tokens)
    assert [text[start:end] for start, end in spans] == tokens
