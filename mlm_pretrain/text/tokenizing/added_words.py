"""Words that are added to an existing tokenizer: each gets an id of its own, and is found in text."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

from mlm_pretrain.errors import UserError
from mlm_pretrain.models.ids import normalised, problems_of_ids, vocabulary_size
from mlm_pretrain.text.tokenizing.vocabulary import UNSPACED

KEY = "tokenizer.add_tokens"


def add_words(tokenizer: PreTrainedTokenizerFast, words: Sequence[str]) -> None:
    """Add words, each matched as a whole word only, where its script has spaces.

    Raises:
        UserError: a word of which the tokenizer's normalizer leaves nothing (it would be looked for without end), or
            that isn't one token afterwards.
    """
    if not words:
        return
    for word in words:
        if not normalised(tokenizer, word).strip():
            raise UserError(
                f"{KEY}: of {word!a} the tokenizer's normalizer leaves nothing, so no text has it; leave it out"
            )
    _fill_holes(tokenizer)
    tokenizer.add_tokens([AddedToken(word, single_word=not UNSPACED.search(word)) for word in words])
    for problem in problems_of_ids(tokenizer, words):
        raise UserError(f"{KEY}: {problem}; the tokenizer's vocabulary is damaged")
    vocabulary = tokenizer.get_vocab()
    for word in words:
        ids = tokenizer(word, add_special_tokens=False)["input_ids"]
        if ids != [vocabulary[word]]:
            there = ", ".join(map(ascii, tokenizer.convert_ids_to_tokens(ids))) or "nothing"
            raise UserError(
                f"{KEY}: {word!a} would not be one token: the tokenizer makes {there} of it; leave it out, or "
                "write it as its normalizer does"
            )


def _fill_holes(tokenizer: PreTrainedTokenizerFast) -> None:
    """Name the ids below the highest that no token has: an added token is given the number of tokens as its id."""
    size = vocabulary_size(tokenizer)
    holes = sorted(set(range(size)) - set(tokenizer.get_vocab().values()))
    if not holes:
        return
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    if not isinstance(state["model"]["vocab"], dict):
        raise UserError(f"{KEY}: the tokenizer has no token with the id {holes[0]}, and none can be added after it")
    # No text has such a token: what it is made of is split, or isn't there.
    state["model"]["vocab"] |= {f"\ue000[{hole}]": hole for hole in holes}
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))
