"""Words and tokens of a text that is longer than the encoder takes: windows that overlap, a home for each token."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from mlm_pretrain.tasks.labels.words import Span


class Windows:
    """The windows of one text."""

    def __init__(self, special: Sequence[Sequence[int]], offsets: Sequence[Sequence[Span]], step: int) -> None:
        """
        Args:
            special: a window's mask of the special tokens around its tokens of the text.
            offsets: the characters of a window's tokens.
            step: tokens of the text from one window's first to the next one's.
        """
        self.tokens: list[Span] = []
        """The characters of all tokens of the text."""
        self._step = step
        self._ranges: list[range] = []
        self._padding: list[int] = []
        for number, (mask, characters) in enumerate(zip(special, offsets, strict=True)):
            own = [span for span, is_special in zip(characters, mask, strict=True) if not is_special]
            self._ranges.append(range(number * step, number * step + len(own)))
            self._padding.append(list(mask).index(0) if own else 0)
            self.tokens.extend(own[len(self.tokens) - number * step :])

    def home(self, token: int) -> tuple[int, int]:
        """The window that shows most of a token's context, and the token's position in its row."""
        first = last = min(token // self._step, len(self._ranges) - 1)
        while first > 0 and token in self._ranges[first - 1]:
            first -= 1
        number = max(range(first, last + 1), key=lambda number: self._context(number, token))
        return number, self._padding[number] + token - self._ranges[number].start

    def _context(self, number: int, token: int) -> float:
        """Tokens to the nearer end of a window; the text's own ends cut nothing off."""
        window = self._ranges[number]
        left = token - window.start if number > 0 else math.inf
        right = window.stop - 1 - token if number < len(self._ranges) - 1 else math.inf
        return min(left, right)


def tokens_of_words(tokens: Sequence[Span], words: Sequence[Span]) -> Iterator[tuple[int, range]]:
    """Pairs (word, its tokens), without the words that have none; both run in the order of the text."""
    first = 0
    for word, (start, end) in enumerate(words):
        while first < len(tokens) and tokens[first][1] <= start:
            first += 1
        last = first
        while last < len(tokens) and tokens[last][0] < end:
            last += 1
        if last > first:
            yield word, range(first, last)
