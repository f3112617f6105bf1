"""Tiny tokenizers of the three algorithms and tiny encoders, made on the spot."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SENTENCES = [
    "The river Spree flows through Berlin, and nobody minds.",
    "Nairobi is larger than Mombasa; people travel between them by train.",
    "don't stop: the naïve café at the corner opens at 7.30 a.m.",
    "Le garçon a mangé trois œufs à Paris hier soir.",
    "numbers 1 2 3 and words like unbelievable, internationalisation, antidisestablishment",
]


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are no work for two threads, which only wait for each other where the machine is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_tokenizer(algorithm: str) -> PreTrainedTokenizerFast:
    trainer: Any
    if algorithm == "bpe":
        inner = Tokenizer(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
        )
    elif algorithm == "wordpiece":
        inner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        inner.normalizer = normalizers.BertNormalizer()
        inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=SPECIAL, show_progress=False)
    else:
        inner = Tokenizer(models.Unigram())
        inner.pre_tokenizer = pre_tokenizers.Metaspace()
        inner.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=120, special_tokens=SPECIAL, unk_token="[UNK]", show_progress=False
        )
    inner.train_from_iterator(SENTENCES, trainer)
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
    )


@pytest.fixture(scope="session", params=["bpe", "wordpiece", "unigram"])
def any_tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return make_tokenizer(request.param)


@pytest.fixture(scope="session")
def bpe() -> PreTrainedTokenizerFast:
    return make_tokenizer("bpe")


def tiny_masked_lm(model_type: str, vocab_size: int) -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    common = {"vocab_size": vocab_size, "max_position_embeddings": 64, "pad_token_id": 0, **sizes}
    if model_type == "bert":
        return BertForMaskedLM(BertConfig(**common, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
    ids = {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
    return ModernBertForMaskedLM(ModernBertConfig(**common, **ids, local_attention=16))


@pytest.fixture(scope="session", params=["bert", "modernbert"])
def encoder(
    request: pytest.FixtureRequest, bpe: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A checkpoint of a masked language model with random weights."""
    folder = tmp_path_factory.mktemp(request.param)
    tiny_masked_lm(request.param, len(bpe)).save_pretrained(folder)
    bpe.save_pretrained(folder)
    return folder


def separable_texts(count: int, seed: int) -> list[dict[str, str]]:
    """Texts whose class is told by one word among fillers."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        label = ("good", "bad")[number % 2]
        words = rng.choices(["the", "river", "people", "at", "train", "soir"], k=rng.randint(1, 5))
        words.insert(rng.randrange(len(words)), {"good": "Berlin", "bad": "Mombasa"}[label])
        rows.append({"text": " ".join(words), "label": label})
    return rows


def separable_sentences(count: int, seed: int) -> list[tuple[list[str], list[str]]]:
    """Words and tags where the word tells the tag."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        tokens: list[str] = []
        tags: list[str] = []
        for _ in range(rng.randint(2, 6)):
            phrase = rng.choice([(["the"], ["O"]), (["train"], ["O"]), (["Berlin", "Spree"], ["B-LOC", "I-LOC"])])
            tokens += phrase[0]
            tags += phrase[1]
        rows.append((tokens, tags))
    return rows


def conll(sentences: list[tuple[list[str], list[str]]]) -> str:
    return "\n".join("".join(f"{word}\t{tag}\n" for word, tag in zip(*each, strict=True)) for each in sentences)
