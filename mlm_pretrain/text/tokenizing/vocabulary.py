"""What masking needs to know about a vocabulary: which tokens are special, and where words begin.

Words are found from ids alone, so that masking needs no text and no offsets, and works for any fast tokenizer. By
contrast, gaps between offsets make one word of "Hello," and one of a whole Chinese sentence.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from mlm_pretrain.config import fingerprint

UNSPACED = re.compile(
    "[\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f"  # Myanmar
    "\u1780-\u17ff\u19e0-\u19ff"  # Khmer
    "\u2e80-\ua4cf\uf900-\ufaff\uff66-\uff9d\U00020000-\U0003ffff]"  # Han, kana, bopomofo, Yi, their punctuation
)
"""A character of a script that is written without spaces between words."""

# Joiners and the soft hyphen stand inside words.
_WORD_FORMAT_CHARACTERS = "\u200c\u200d\u00ad"


@dataclass(frozen=True)
class WordTables:
    """What each token says about the edges of words; bool arrays over the vocabulary, [V].

    `begins`: a word begins with this token. `ends`: a word begins with the token after it.
    """

    begins: np.ndarray
    ends: np.ndarray

    def word_starts(self, input_ids: np.ndarray, segment_ids: np.ndarray) -> np.ndarray:
        """Where words begin in rows of ids.

        Args:
            input_ids: [B, L] integers.
            segment_ids: [B, L] integers; where it changes, another document begins.

        Returns:
            [B, L] bool. Special tokens are marked as words of their own.
        """
        starts = self.begins[input_ids]
        starts[:, 1:] |= self.ends[input_ids[:, :-1]]
        starts[:, 1:] |= segment_ids[:, 1:] != segment_ids[:, :-1]
        starts[:, 0] = True
        return starts


def special_token_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Ids of all tokens that are no text: the named ones ([CLS] …) and others that are added as special."""
    added = (number for number, token in tokenizer.added_tokens_decoder.items() if token.special)
    return sorted({*tokenizer.all_special_ids, *added})


def ordinary_token_ids(tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    """Ids of all tokens that are not special, ascending; int64 [at most V]."""
    return np.array(sorted({*tokenizer.get_vocab().values()} - {*special_token_ids(tokenizer)}), dtype=np.int64)


def vocabulary_fingerprint(tokenizer: PreTrainedTokenizerFast) -> str:
    """A digest of all that decides which ids a text gets: normalisation, splitting, vocabulary, template."""
    return fingerprint(tokenizer.backend_tokenizer.to_str())


def word_start_tables(tokenizer: PreTrainedTokenizerFast) -> WordTables:
    """Read from each token whether words begin with it or after it; V is the highest id + 1.

    A word begins at a space marker (Ġ, ▁, no ## in WordPiece), at punctuation, after punctuation, and at every token
    of a script that is written without spaces. Bytes of a character that is cut in two continue the word.
    """
    vocabulary = tokenizer.get_vocab()
    size = max(vocabulary.values()) + 1
    begins, ends = np.zeros(size, dtype=bool), np.zeros(size, dtype=bool)
    # Added and special tokens are matched as a whole: each is a word.
    added = {*tokenizer.added_tokens_decoder, *special_token_ids(tokenizer)}
    read = _token_reader(tokenizer)
    for token, number in vocabulary.items():
        text = read(token)
        begins[number] = number in added or _is_edge(_first_character(text))
        # A space belongs to the word after it, whose letters may be further tokens.
        ends[number] = number in added or (_is_edge(text[-1:]) and text[-1:] != " ")
    return WordTables(begins, ends)


def _token_reader(tokenizer: PreTrainedTokenizerFast) -> Callable[[str], str]:
    """A function that gives a token's text: a space where a word is marked, surrogates for bytes that are no text."""
    backend = tokenizer.backend_tokenizer
    kind = type(backend.model).__name__
    if kind in ("WordPiece", "WordLevel"):
        continues = getattr(backend.model, "continuing_subword_prefix", "##")
        return lambda token: token.removeprefix(continues) if token.startswith(continues) else " " + token
    if "ByteLevel" in repr(backend.decoder) + repr(backend.pre_tokenizer):
        byte_of = {character: byte for byte, character in bytes_to_unicode().items()}
        return lambda token: _decode(bytes(byte_of[character] for character in token if character in byte_of))

    def read(token: str) -> str:
        byte = re.fullmatch("<0x([0-9A-F]{2})>", token)
        return _decode(bytes.fromhex(byte[1])) if byte else token.replace("▁", " ")

    return read


def _decode(data: bytes) -> str:
    return data.decode("utf-8", errors="surrogateescape")


def _first_character(text: str) -> str:
    """The first character, guessed where only its first bytes are there: all that it can be share a script."""
    if not "\udcc2" <= text[:1] <= "\udcf4":
        return text[:1]
    lead, *rest = text[:4].encode("utf-8", errors="surrogateescape")[:4]
    length = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
    rest = list(itertools.takewhile(lambda byte: 0x80 <= byte < 0xC0, rest))
    lowest = highest = lead & (0xFF >> (length + 1))
    for place in range(length - 1):
        known = rest[place] & 0x3F if place < len(rest) else None
        lowest = lowest << 6 | (0 if known is None else known)
        highest = highest << 6 | (0x3F if known is None else known)
    if highest <= 0x10FFFF and UNSPACED.match(chr(lowest)) and UNSPACED.match(chr(highest)):
        return chr(lowest)
    return text[:1]


def _is_edge(character: str) -> bool:
    """Whether a character can't stand within a word: space, punctuation, symbol, or a script without spaces."""
    if not character or character in _WORD_FORMAT_CHARACTERS:
        return False
    # A surrogate is a byte of a character that is cut in two.
    inside = unicodedata.category(character)[0] in "LMN" or "\ud800" <= character <= "\udfff"
    return not inside or UNSPACED.match(character) is not None
