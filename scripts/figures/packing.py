"""How full rows are, and that nothing is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from figures.common import (
    bare_tokenizer,
    bench_config,
    load,
    make_tokenizer,
    one_epoch,
    open_batches,
    read_texts,
    repeated,
    sentences_of,
    write_jsonl,
)
from figures.session import fresh
from figures.setting import Bench

MEGABYTES = 6
"""Of either corpus, for each whole minute."""
BOOK = 400_000  # characters


def packing(bench: Bench) -> dict[str, float]:
    """Share of real tokens in rows of 512, over one epoch of the text, its end included.

    short: each sentence or line is a document. long: documents as long as books; with --data they are the user's
    files as they are, else the documentation of one package after another, 400,000 characters a document. Both are of
    6 MB for each whole minute.
    lost_tokens: how often a token of the text, tokenised document by document, is missing in the batches or there too
    often, summed over the vocabulary (special tokens and masks undone); 0 if none is lost. A document that reading
    divides, because it is long, counts as its parts; lost_characters is what they lack of the whole, blanks apart.
    """
    texts = read_texts(bench.data)
    size = MEGABYTES * 1_000_000 * bench.minutes
    as_they_are = bench.data is not None
    corpora = {"short": repeated(sentences_of(texts), size), "long": _books(texts, size, as_they_are)}
    tokenizer = make_tokenizer(bench, texts)
    figures: dict[str, float] = {}
    lost_tokens = lost_characters = 0
    for name, documents in corpora.items():
        path = write_jsonl(documents, bench.folder / name / "documents.jsonl")
        with bench.budget.spending(f"{name} documents"):
            parts = read_texts(path)
            lost_characters += abs(_characters(documents) - _characters(parts))
            figures[f"fill_{name}"], missing = fresh(_pass, path, parts, tokenizer, bench.folder)
        lost_tokens += missing
    return figures | {"lost_tokens": float(lost_tokens), "lost_characters": float(lost_characters)}


def _characters(texts: list[str]) -> int:
    """But blanks."""
    return sum(sum(map(len, text.split())) for text in texts)


def _books(texts: list[str], size: int, as_they_are: bool) -> list[str]:
    if as_they_are:
        return repeated(texts, size)
    whole = "\n\n".join(texts)[:size]
    return [whole[start : start + BOOK] for start in range(0, len(whole), BOOK)]


def _pass(path: Path, documents: list[str], tokenizer_folder: Path, folder: Path) -> tuple[float, int]:
    """(share of real tokens, tokens too few or too many) of one epoch."""
    tokenizer = load(tokenizer_folder)
    config = bench_config(folder, [one_epoch(path)])
    bare, size = bare_tokenizer(load(tokenizer_folder)), len(tokenizer)
    expected = np.zeros(size, dtype=np.int64)
    for start in range(0, len(documents), 1000):
        encodings = bare.encode_batch_fast(documents[start : start + 1000], add_special_tokens=False)
        expected += np.bincount(np.concatenate([each.ids for each in encodings]).astype(np.int64), minlength=size)
    found = np.zeros(size, dtype=np.int64)
    real = room = 0
    for batch in open_batches(config, tokenizer, num_workers=0):
        ids = _unmasked(batch.tensors)
        found += np.bincount(ids.numpy(), minlength=size)
        real += batch.tokens
        # Rows of padding alone stand behind the end of the text.
        room += int((batch.tensors["segment_ids"] > 0).any(dim=1).sum()) * config.stream.sequence_length
    special = [tokenizer.cls_token_id, tokenizer.sep_token_id]
    found[special] = expected[special] = 0
    return real / room, int(np.abs(found - expected).sum())


def _unmasked(tensors: dict[str, Any]) -> torch.Tensor:
    """The ids of the text before masking, in one row."""
    ids = torch.where(tensors["labels"] >= 0, tensors["labels"], tensors["input_ids"])
    return ids[tensors["segment_ids"] > 0]
