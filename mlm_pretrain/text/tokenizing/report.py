"""How a tokenizer does on text that it wasn't trained on."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from mlm_pretrain.console.telemetry import figure as number
from mlm_pretrain.console.telemetry import table
from mlm_pretrain.models.ids import vocabulary_size
from mlm_pretrain.text.tokenizing.vocabulary import ordinary_token_ids

EXAMPLES = 20
BATCH = 64


def tokenizer_report(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> dict[str, Any]:
    """Measure a tokenizer on held-out text; plain data that JSON can hold.

    Returns:
        `vocab_size`, `documents`, `bytes` (UTF-8), `tokens` (without [CLS] and the like), `bytes_per_token`,
        `tokens_per_word` (words are what white space separates), `unknown_rate` (share of the tokens),
        `round_trip_exact` and `round_trip_exact_raw` (share of the documents that decode to the normalised and to the
        raw text), `longest_tokens` (20), `unused` (number of tokens that the texts never use) and `unused_tokens`
        (the first 20 that are more than a character). Rates are None if there is no text.
    """
    ordinary = ordinary_token_ids(tokenizer)
    counts = np.zeros(vocabulary_size(tokenizer), dtype=np.int64)
    normalizer = tokenizer.backend_tokenizer.normalizer
    documents = size = words = exact = exact_raw = 0
    stream = iter(texts)
    while batch := list(itertools.islice(stream, BATCH)):
        # Literal "[MASK]"s of a text are text here. Long documents are meant to be long.
        ids = tokenizer(batch, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
        for text, row in zip(batch, ids, strict=True):
            decoded = tokenizer.decode(row, clean_up_tokenization_spaces=False)
            exact += decoded == (normalizer.normalize_str(text) if normalizer else text)
            exact_raw += decoded == text
            counts += np.bincount(row, minlength=len(counts))
            size += len(text.encode("utf-8", errors="replace"))
            words += len(text.split())
        documents += len(batch)
    tokens = int(counts.sum())
    unknown = 0 if tokenizer.unk_token_id is None else int(counts[tokenizer.unk_token_id])
    unused = ordinary[counts[ordinary] == 0]
    # By the stored form first, which is never much shorter than the decoded one.
    longest = sorted(tokenizer.convert_ids_to_tokens(ordinary.tolist()), key=len, reverse=True)[: 5 * EXAMPLES]
    decoded_longest = _decoded(tokenizer, tokenizer.convert_tokens_to_ids(longest))
    telling = (token for number in unused for token in _decoded(tokenizer, [int(number)]) if len(token.strip()) > 1)
    return {
        "vocab_size": len(tokenizer),
        "documents": documents,
        "bytes": size,
        "tokens": tokens,
        "bytes_per_token": _ratio(size, tokens),
        "tokens_per_word": _ratio(tokens, words),
        "unknown_rate": _ratio(unknown, tokens),
        "round_trip_exact": _ratio(exact, documents),
        "round_trip_exact_raw": _ratio(exact_raw, documents),
        "longest_tokens": sorted(decoded_longest, key=len, reverse=True)[:EXAMPLES],
        "unused": len(unused),
        "unused_tokens": list(itertools.islice(telling, EXAMPLES)),
    }


def format_report(report: dict[str, Any]) -> str:
    """The report as a small table."""

    def share(key: str) -> str:
        return number(report[key], ".2%")

    def figure(key: str) -> str:
        return number(report[key], ".2f")

    rows = [
        ("vocabulary", f"{report['vocab_size']:,}"),
        ("held-out documents", f"{report['documents']:,}"),
        ("held-out bytes", f"{report['bytes']:,}"),
        ("bytes per token", figure("bytes_per_token")),
        ("tokens per word", figure("tokens_per_word")),
        ("unknown tokens", share("unknown_rate")),
        ("documents that decode exactly", share("round_trip_exact")),
        ("… to the raw text", share("round_trip_exact_raw")),
        ("tokens not used here", f"{report['unused']:,}"),
    ]
    longest = " ".join(repr(token) for token in report["longest_tokens"][:5])
    return table(rows, header=("tokenizer", "")) + f"\nlongest tokens: {longest}"


def _decoded(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> list[str]:
    return [tokenizer.decode([number], clean_up_tokenization_spaces=False) for number in ids]


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
