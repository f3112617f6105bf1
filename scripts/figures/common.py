"""What the figures share: text, tokenizers and streams of batches."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from figures.session import fresh
from figures.setting import Bench
from mlm_pretrain.config import Config, SourceConfig, TokenizerConfig
from mlm_pretrain.config_file import make_config
from mlm_pretrain.errors import UserError
from mlm_pretrain.objectives.base import OBJECTIVES
from mlm_pretrain.stream.loader import GlobalBatch, global_batches
from mlm_pretrain.text.mixture import documents, open_source
from mlm_pretrain.text.tokenizing.tokenizer import load_tokenizer, train_tokenizer

MAX_TEXT = 200_000_000
"""Bytes of the user's own text that are read at most."""


# -- text --------------------------------------------------------------------------------------------------------


def source_section(data: Path | None) -> dict[str, Any]:
    """The user's files as a source, or the documentation strings of the installed packages."""
    return {"source": "files", "path": str(data)} if data else {"source": "installed_docs"}


def read_texts(data: Path | None, max_bytes: int = MAX_TEXT) -> list[str]:
    """The documents of a source in its own order, as many as fit.

    Raises:
        UserError: there are none, or the files can't be read.
    """
    source = SourceConfig.model_validate(source_section(data))
    texts: list[str] = []
    dropped: Counter[str] = Counter()
    for row in open_source(source):
        for read in documents(row, source, dropped):
            texts.append(read.text)
            max_bytes -= len(read.text.encode())
        if max_bytes <= 0:
            break
    if not texts:
        raise UserError(f"--data: {data} has no documents")
    return texts


def repeated(texts: list[str], max_bytes: int) -> list[str]:
    """So many bytes of documents in random order, over and over where there are too few."""
    chosen: list[str] = []
    random = np.random.default_rng(0)
    while True:
        for number in random.permutation(len(texts)):
            max_bytes -= len(texts[number].encode())
            if max_bytes < 0 and chosen:
                return chosen
            chosen.append(texts[number])


def sentences_of(texts: list[str]) -> list[str]:
    """Lines and sentences of 20 characters or more.

    Raises:
        UserError: there are fewer than a hundred.
    """
    parts = (part.strip() for text in texts for part in re.split(r"\n+|(?<=[.!?]) +", text))
    sentences = [part for part in parts if len(part) >= 20]
    if len(sentences) < 100:
        raise UserError(f"--data: {len(sentences)} sentences are too few to make figures of; give more text")
    return sentences


def resampled(texts: list[str], documents: int, size: int) -> Iterator[str]:
    """New documents of `size` characters or a little more, hardly two alike: random sentences of the given ones.

    One sentence in ten gets a word that is made of two halves of others, so that the number of distinct words grows
    with the text, as in real corpora.
    """
    sentences = sentences_of(texts)
    words = sorted({word for sentence in sentences for word in sentence.split()})
    random = np.random.default_rng(0)
    for _ in range(documents):
        parts: list[str] = []
        length = 0
        while length < size:
            # Drawn by the handful: a draw of one number costs as much as one of a thousand.
            for pick, first, second in random.integers(0, 2**31, size=(1 + size // 60, 3)).tolist():
                sentence = sentences[pick % len(sentences)]
                if pick // len(sentences) % 10 == 0:
                    left, right = words[first % len(words)], words[second % len(words)]
                    sentence += f" {left[: len(left) // 2]}{right[len(right) // 2 :]}."
                parts.append(sentence)
                length += len(sentence) + 1
                if length >= size:
                    break
        yield " ".join(parts)


def write_jsonl(texts: Iterable[str], path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as handle:
        handle.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    return path


# -- streams -----------------------------------------------------------------------------------------------------


def bench_config(folder: Path, sources: list[dict[str, Any]], **sections: dict[str, Any]) -> Config:
    """A run over these sources; nothing is held out."""
    raw: dict[str, Any] = {
        "run": {"name": "bench", "output_dir": str(folder)},
        "text": {"sources": sources, "validation_fraction": 0.0},
        "stream": {"sequence_length": 512},
        "training": {"global_batch_size": 64},
    }
    for section, values in sections.items():
        raw[section] = {**raw.get(section, {}), **values}
    return make_config(raw)


def one_epoch(path: Path) -> dict[str, Any]:
    """A file or folder as a source that is gone through once."""
    return {"source": "files", "path": str(path), "max_epochs": 1}


def make_tokenizer(bench: Bench, texts: list[str], vocab_size: int = 16384) -> Path:
    """The folder of a tokenizer that is trained on 10 MB of the texts."""
    chosen = repeated(texts, 10_000_000)
    digest = hashlib.sha256("\0".join(chosen).encode("utf-8", "surrogatepass")).hexdigest()
    # In a process of its own: it would leave threads behind.
    return bench.kept(
        "vocabulary",
        {"texts": digest, "vocab_size": vocab_size},
        lambda folder: fresh(_train, chosen, folder, vocab_size),
    )


def _train(texts: list[str], folder: Path, vocab_size: int) -> None:
    train_tokenizer(TokenizerConfig(vocab_size=vocab_size), texts).save_pretrained(folder)


def open_batches(config: Config, tokenizer: PreTrainedTokenizerFast, **where: Any) -> Iterator[GlobalBatch]:
    """The packed, masked batches of a run, until the text ends; arguments as of `global_batches`."""
    objective = OBJECTIVES[config.objective.name](config.objective, tokenizer, config.stream.sequence_length)
    for batch in global_batches(config, tokenizer, objective, packing=True, **where):
        if not batch.tokens:
            return
        yield batch


def text_tokens(batch: GlobalBatch) -> int:
    """Tokens of text in a batch: neither padding nor the two special tokens round each segment."""
    return batch.tokens - 2 * int(batch.tensors["segment_ids"].numpy().max(axis=1).sum())


def load(tokenizer: Path) -> PreTrainedTokenizerFast:
    return load_tokenizer(str(tokenizer))


def bare_tokenizer(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """The Rust tokenizer alone, for which a "[MASK]" that stands in the text is text, as it is for the stream."""
    tokenizer.backend_tokenizer.encode_special_tokens = True
    return tokenizer.backend_tokenizer


def run_stage(stage: Callable[[Config], Any], config: Config) -> None:
    """Run a stage, in a process of its own (`fresh`)."""
    stage(config)
