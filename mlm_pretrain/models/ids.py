"""What a tokenizer's ids ask of a model, and what can be wrong with them."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Iterable, Iterator

from transformers import AutoModel, PreTrainedConfig, PreTrainedTokenizerBase


def vocabulary_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """The rows that an embedding needs for a tokenizer: its highest id + 1.

    `len(tokenizer)` counts tokens, which are fewer where a vocabulary has holes (a line twice in vocab.txt).
    """
    return max(tokenizer.get_vocab().values(), default=-1) + 1


def leave_out_token_types(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> None:
    """Make a tokenizer give no `token_type_ids` to a model that has none, or only one type of them."""
    names = tokenizer.model_input_names
    if "token_type_ids" in names and not _has_token_types(config):
        tokenizer.model_input_names = [name for name in names if name != "token_type_ids"]


def _has_token_types(config: PreTrainedConfig) -> bool:
    types = getattr(config, "type_vocab_size", None)
    if types is not None:
        return types > 1
    try:
        forward = AutoModel._model_mapping[type(config)].forward
    except KeyError:
        return False
    return "token_type_ids" in inspect.signature(forward).parameters


def problems_of_tokens(tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """No tokens but special ones, as transformers makes a tokenizer where its files are missing; and added tokens that
    could never be distinguished, or that tokenizing would look for without end."""
    special = tokenizer.all_special_tokens
    if set(tokenizer.get_vocab()) <= set(special):
        yield f"its tokenizer knows no words ({', '.join(special)} alone): its tokenizer.json or vocabulary is missing"
    if not tokenizer.is_fast:
        return
    for token in tokenizer.added_tokens_decoder.values():
        if not token.content or (token.normalized and not normalised(tokenizer, token.content)):
            yield f"its normalizer turns the added token {token.content!a} into nothing"
    yield from problems_of_ids(tokenizer, tokenizer.added_tokens_encoder)


def problems_of_ids(tokenizer: PreTrainedTokenizerBase, tokens: Iterable[str]) -> Iterator[str]:
    """Tokens that have the id of another one."""
    vocabulary = tokenizer.get_vocab()
    by_id: dict[int, list[str]] = defaultdict(list)
    for token, number in vocabulary.items():
        by_id[number].append(token)
    for token in tokens:
        others = [other for other in by_id[vocabulary[token]] if other != token]
        if others:
            yield f"the added token {token!a} has the id {vocabulary[token]}, which is that of {others[0]!a}"


def normalised(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """A text as a fast tokenizer sees it."""
    normalizer = tokenizer.backend_tokenizer.normalizer
    return normalizer.normalize_str(text) if normalizer else text
