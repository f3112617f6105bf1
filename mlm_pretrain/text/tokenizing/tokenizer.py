"""Tokenizers: train one, load one, and read from a vocabulary where words begin.

All three algorithms share one pre-tokenization where they can: a word is letters with their marks, digits, or a run
of symbols, each with the space before it, so that no token crosses a word's edge. The first word of a text gets the
space that it lacks: "Paris" has one token, at the start of a text, within it, and as a word of pre-split input
(`is_split_into_words=True`), so `["in", "Paris"]` and `"in Paris"` have the same ids. Decoding drops that space
again. A text that begins with a space loses it; everything else comes back as it was normalised (byte-level BPE and
Unigram; WordPiece keeps no spaces).
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from mlm_pretrain.config import TokenizerConfig
from mlm_pretrain.console import bars, telemetry
from mlm_pretrain.errors import UserError
from mlm_pretrain.models.loading import Checkpoint, Place
from mlm_pretrain.text.tokenizing.added_words import add_words
from mlm_pretrain.text.tokenizing.vocabulary import (
    WordTables,
    ordinary_token_ids,
    special_token_ids,
    vocabulary_fingerprint,
    word_start_tables,
)

__all__ = [
    "SPECIAL_TOKENS",
    "WordTables",
    "load_tokenizer",
    "ordinary_token_ids",
    "special_token_ids",
    "train_tokenizer",
    "vocabulary_fingerprint",
    "word_start_tables",
]

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""Their places here are their ids."""

# GPT-2's pattern, with two changes: combining marks and joiners (Hindi, Persian …) belong to their letters, and
# within a run of symbols (emoji sequences) to the symbols. Runs are cut, because the Unigram trainer fails on very
# long ones.
WORDS = (
    r"'(?:[sdmt]|ll|ve|re)(?![\p{L}\p{M}])"
    r"| ?[\p{L}\p{M}\x{200c}\x{200d}]{1,64}"
    r"| ?\p{N}{1,64}"
    r"| ?[^\s\p{L}\p{M}\p{N}][^\s\p{L}\p{N}]{0,63}"
    r"|\s{1,64}(?!\S)|\s{1,64}"
)
# An alphabet may fill this share of a WordPiece or Unigram vocabulary; rarer characters are unknown, or bytes.
ALPHABET_SHARE = 1 / 4
ALPHABET_SAMPLE = 20_000_000  # characters
FEED = 1_000_000  # characters that are handed to the trainer at a time
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def train_tokenizer(config: TokenizerConfig, texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Train a tokenizer; memory grows with the number of distinct words in `texts`, so bound the sample.

    `[PAD]=0, [UNK]=1, [CLS]=2, [SEP]=3, [MASK]=4`; one text becomes `[CLS] A [SEP]`, two `[CLS] A [SEP] B [SEP]`
    with token types 0 and 1. `model_max_length` is left to the caller. Warns where the text supports fewer tokens
    than `config.vocab_size`. The same texts give the same tokenizer, except that the Unigram trainer breaks ties at
    random.

    Raises:
        UserError: there is no text.
    """
    stream = _with_progress(text for text in texts if text.strip())
    first = next(stream, None)
    if first is None:
        raise UserError("tokenizer: there is no text to train on; check text.sources and their text_column")
    train = {"bpe": _train_bpe, "wordpiece": _train_wordpiece, "unigram": _train_unigram}[config.algorithm]
    backend = train(config, itertools.chain([first], stream))
    if backend.get_vocab_size() < config.vocab_size:
        telemetry.warn(
            f"tokenizer: the text supports {backend.get_vocab_size():,} tokens of the {config.vocab_size:,} "
            "asked for; give more text or a smaller tokenizer.vocab_size"
        )
    return _wrap(backend)


def load_tokenizer(path: Place, add_tokens: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """Load a fast tokenizer from a folder or the Hub, and add words to its vocabulary.

    `bos_token` and `eos_token` stand in for a missing `cls_token` and `sep_token`. An added word is matched as a
    whole word only, where its script has spaces.

    Raises:
        UserError: nothing that loads is there, it isn't a fast tokenizer, it lacks a token that masked language
            modelling needs, or a word can't be added.
    """
    tokenizer = Checkpoint.of(path).tokenizer()
    if not tokenizer.is_fast:
        raise UserError(f"{path}: not a fast tokenizer; convert it to a tokenizer.json, or train one here")
    for name, substitute in (("cls_token", "bos_token"), ("sep_token", "eos_token")):
        if getattr(tokenizer, name) is None and getattr(tokenizer, substitute) is not None:
            setattr(tokenizer, name, getattr(tokenizer, substitute))
    missing = [
        name for name in ("pad_token", "mask_token", "cls_token", "sep_token") if getattr(tokenizer, name) is None
    ]
    if missing:
        raise UserError(
            f"{path}: this tokenizer has no {' and no '.join(missing)}; add with "
            f"tokenizer.add_special_tokens({{'{missing[0]}': …}}) and save it, or train one here"
        )
    add_words(tokenizer, add_tokens)
    return tokenizer


def _wrap(backend: Tokenizer) -> PreTrainedTokenizerFast:
    pad, unk, cls, sep, mask = SPECIAL_TOKENS
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=pad,
        unk_token=unk,
        cls_token=cls,
        sep_token=sep,
        mask_token=mask,
        padding_side="right",
        clean_up_tokenization_spaces=False,
        # No token_type_ids: many models refuse them.
        model_input_names=["input_ids", "attention_mask"],
    )


def _special_tokens() -> list[AddedToken]:
    # "the [MASK]" has a mask in place of " word": it takes the space before it.
    return [AddedToken(token, special=True, lstrip=token == "[MASK]") for token in SPECIAL_TOKENS]


def _train_bpe(config: TokenizerConfig, texts: Iterator[str]) -> Tokenizer:
    """Byte-level BPE (Sennrich et al., arXiv 1508.07909; GPT-2): no text is unknown."""
    backend = Tokenizer(models.BPE())
    backend.normalizer = _normalizer(config)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            # Only for the space before the first word: ByteLevel's own option would also add one after each [MASK].
            pre_tokenizers.Metaspace(replacement=" ", prepend_scheme="first", split=False),
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=_special_tokens(),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(_batched(texts), trainer)
    # Offsets are those of the word, without the space before it.
    trimmed = processors.ByteLevel(add_prefix_space=True, trim_offsets=True, use_regex=False)
    backend.post_processor = processors.Sequence([trimmed, _template()])
    return backend


def _train_wordpiece(config: TokenizerConfig, texts: Iterator[str]) -> Tokenizer:
    """WordPiece as BERT has it (arXiv 1810.04805); a word with a character outside the alphabet is unknown."""
    unicode = _normalizer(config.model_copy(update={"lowercase": False, "strip_accents": False}))
    bert = normalizers.BertNormalizer(lowercase=config.lowercase, strip_accents=config.strip_accents)
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.Sequence([unicode, bert])
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    alphabet, texts = _limit_alphabet(config.vocab_size, backend.normalizer, texts)

    def stands_within_words(character: str) -> bool:
        text = backend.normalizer.normalize_str(f"a{character}")
        return [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(text)] == [text]

    # Every character that can continue a word gets its ## token. Left to itself the trainer finds them, some, in
    # random order.
    continuing = [AddedToken(f"##{character}") for character in alphabet if stands_within_words(character)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=[*_special_tokens(), *continuing],
        show_progress=False,
    )
    trained = Tokenizer(backend.model)
    trained.normalizer, trained.pre_tokenizer = backend.normalizer, backend.pre_tokenizer
    trained.train_from_iterator(_batched(texts), trainer)
    backend.model = models.WordPiece(trained.get_vocab(), unk_token="[UNK]")
    backend.add_special_tokens(_special_tokens())
    backend.decoder = decoders.WordPiece()
    backend.post_processor = _template()
    return backend


def _train_unigram(config: TokenizerConfig, texts: Iterator[str]) -> Tokenizer:
    """Unigram (Kudo, arXiv 1804.10959); characters outside its alphabet become bytes, as in SentencePiece."""
    backend = Tokenizer(models.Unigram())
    backend.normalizer = _normalizer(config)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False),
        ]
    )
    room = config.vocab_size - len(BYTES)
    _, texts = _limit_alphabet(room, backend.normalizer, texts)
    trainer = trainers.UnigramTrainer(
        vocab_size=room, special_tokens=_special_tokens(), unk_token="[UNK]", show_progress=False
    )
    backend.train_from_iterator(_batched(texts), trainer)
    pieces = json.loads(backend.to_str())["model"]["vocab"][len(SPECIAL_TOKENS) :]
    # The trainer's threads sum in random order, and equally likely pieces come in random order: undone here.
    vocabulary = sorted(((piece, round(score, 6)) for piece, score in pieces), key=lambda pair: (-pair[1], pair[0]))
    unlikely = [(token, vocabulary[-1][1]) for token in (*SPECIAL_TOKENS, *BYTES)]
    backend.model = models.Unigram([*unlikely, *vocabulary], unk_id=1, byte_fallback=True)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.post_processor = _template()
    return backend


def _normalizer(config: TokenizerConfig) -> normalizers.Normalizer:
    steps: list[normalizers.Normalizer] = []
    if config.strip_accents:
        steps += [normalizers.NFD(), normalizers.StripAccents()]
    if config.normalization is not None:
        steps.append({"nfc": normalizers.NFC, "nfkc": normalizers.NFKC}[config.normalization]())
    if config.lowercase:
        steps.append(normalizers.Lowercase())
    return normalizers.Sequence(steps)


def _template() -> processors.TemplateProcessing:
    return processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(token, SPECIAL_TOKENS.index(token)) for token in ("[CLS]", "[SEP]")],
    )


def _limit_alphabet(
    vocab_size: int, normalizer: normalizers.Normalizer, texts: Iterator[str]
) -> tuple[list[str], Iterator[str]]:
    """The most frequent characters, and the texts, normalised, without any others.

    Each character takes a place in the vocabulary, so they may fill a share of it only. They are read from the first
    texts; the sample is spread evenly over the sources.
    """
    head, size, counts = [], 0, Counter[str]()
    for text in texts:
        head.append(normalizer.normalize_str(text))
        counts.update(head[-1])
        size += len(text)
        if size >= ALPHABET_SAMPLE:
            break
    by_frequency = sorted(counts, key=lambda character: (-counts[character], character))
    alphabet = sorted(by_frequency[: int(vocab_size * ALPHABET_SHARE)])
    rare = re.compile(f"[^ {re.escape(''.join(alphabet))}]")
    rest = (normalizer.normalize_str(text) for text in texts)
    return alphabet, (rare.sub(" ", text) for text in itertools.chain(head, rest))


def _batched(texts: Iterator[str]) -> Iterator[list[str]]:
    """Lists of texts, which the trainer works on in parallel."""
    batch, size = [], 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= FEED:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _with_progress(texts: Iterable[str]) -> Iterator[str]:
    with bars.progress(None, "tokenizer: reading", unit="char") as bar:
        for text in texts:
            bar.update(len(text))
            yield text
