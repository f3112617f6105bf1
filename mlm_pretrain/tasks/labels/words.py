"""Words of raw text, by their characters."""

from __future__ import annotations

import re
import unicodedata

Span = tuple[int, int]
"""First character and the one after the last."""

# Thai and Lao, Burmese, Khmer, kana, Han: no blanks between words, so every character is one (as in BERT's Chinese).
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[^\W{_UNSPACED}]+|[^\s]")
_CHARACTER = re.compile(f"[{_UNSPACED}]")


def split_words(text: str) -> list[Span]:
    """The character spans of words and punctuation marks; combining and joining marks stay with their word.

    In scripts that put no blanks between words every character is a word.
    """
    spans: list[Span] = []
    after_mark = False
    for match in _WORD.finditer(text):
        start, end = match.span()
        mark = unicodedata.category(text[start]) in ("Mn", "Mc", "Me", "Cf")
        continues = after_mark and (text[start].isalnum() or text[start] == "_") and not _CHARACTER.match(text, start)
        if (mark or continues) and spans and spans[-1][1] == start:
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
        after_mark = mark
    return spans


def join_words(words: list[str]) -> tuple[str, list[Span]]:
    """The words with single blanks between them, and the spans of each."""
    spans = []
    start = 0
    for word in words:
        spans.append((start, start + len(word)))
        start += len(word) + 1
    return " ".join(words), spans
