"""Long documents in parts: what is longer than `LONGEST` is several documents, wherever documents are used.

A tokenizer takes some hundred bytes of memory for every byte of a text, and a long text on one core only. So a book or
a log in one document would need gigabytes, while the same text in parts needs megabytes and is faster. A cut costs a
segment's context once in `LONGEST` characters at least.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import regex

LONGEST = 2**17
"""Characters."""
MOST_OF_A_TOKEN = 16
"""Characters, on average over a text."""

_SEARCHED = LONGEST // 8
# Where a text is cut, best first; each matches up to the cut. The last one ends between two characters as people see
# them, so that no accent or vowel sign is parted from its letter.
_BOUNDARIES = tuple(
    regex.compile(pattern)
    for pattern in (
        r"\n[^\S\n]*\n\s*",
        r"\n",
        r"[.!?…؟।]['\"”’»)\]]*(?=\s)|[。！？]['\"”’」』）]*",
        r"\S(?=\s)",
        r"(?s)\X(?=.)",
    )
)


def parts(text: str) -> Iterator[str]:
    """A text in parts of `LONGEST` characters at most, about equally long; joined they are the text.

    They end with a paragraph, a line, a sentence or a word, the first of these that is found near. So they depend on
    the text alone.
    """
    start = 0
    while (left := len(text) - start) > LONGEST:
        count = -(-left // LONGEST)
        end = boundary(text, start + -(-left // count), _SEARCHED)
        yield text[start:end]
        start = end
    yield text[start:]


def beginning(text: str, tokens: int) -> str:
    """What of a text is enough to see its first tokens: all of it, unless it is a long one."""
    enough = max(LONGEST, MOST_OF_A_TOKEN * tokens)
    return text if len(text) <= enough else text[: boundary(text, enough, _SEARCHED)]


def boundary(text: str, end: int, searched: int) -> int:
    """The best place to cut a text, not after `end` and less than `searched` characters before it."""
    window = text[end - searched + 1 : end]
    for pattern in _BOUNDARIES:
        last = deque(pattern.finditer(window), maxlen=1)
        if last:
            return end - len(window) + last[0].end()
    return end
