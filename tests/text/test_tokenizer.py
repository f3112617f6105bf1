"""Tokenizers: what is trained loads anywhere, gives text back, and tells where words begin."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, BertConfig, ModernBertConfig, PreTrainedTokenizerFast

from mlm_pretrain.config import TokenizerConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.text.tokenizing.report import format_report, tokenizer_report
from mlm_pretrain.text.tokenizing.tokenizer import (
    load_tokenizer,
    ordinary_token_ids,
    special_token_ids,
    train_tokenizer,
    vocabulary_fingerprint,
    word_start_tables,
)

ALGORITHMS = ["bpe", "wordpiece", "unigram"]
VOCABULARY = 700
MIXED = ["한국어 문장 하나", "नमस्ते दुनिया", "Äpfel und Öl"]
CHARACTERS = ("我们在北京学习他上海工作", "これはペンですそ本")


@pytest.fixture(scope="module")
def trained(documents: list[str]) -> dict[str, PreTrainedTokenizerFast]:
    # Sentences without spaces, in which no two characters go together more than others.
    draw = random.Random(0)
    sentences = ["".join(draw.choices(characters, k=9)) + "。" for characters in CHARACTERS for _ in range(60)]
    texts = [*documents, *MIXED * 20, *sentences]
    return {name: train_tokenizer(TokenizerConfig(algorithm=name, vocab_size=VOCABULARY), texts) for name in ALGORITHMS}


@pytest.fixture(params=ALGORITHMS)
def each(request: pytest.FixtureRequest, trained: dict[str, PreTrainedTokenizerFast]) -> PreTrainedTokenizerFast:
    return trained[request.param]


def words(tokenizer: PreTrainedTokenizerFast, text: str) -> list[str]:
    """The text's words, as the tables tell them from the ids."""
    ids = np.array([tokenizer(text, add_special_tokens=False)["input_ids"]])
    starts = word_start_tables(tokenizer).word_starts(ids, np.ones_like(ids))[0]
    groups = np.split(ids[0], np.flatnonzero(starts)[1:])
    return [tokenizer.decode(group).strip().removeprefix("##") for group in groups]


def test_special_tokens_have_fixed_ids_and_places(each: PreTrainedTokenizerFast) -> None:
    assert each.convert_tokens_to_ids(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]) == [0, 1, 2, 3, 4]
    assert len(each) == VOCABULARY
    one, other = (each(text, add_special_tokens=False)["input_ids"] for text in ("the name", "a type"))
    pair = each("the name", "a type", return_token_type_ids=True)
    assert pair["input_ids"] == [2, *one, 3, *other, 3]
    assert pair["token_type_ids"] == [0] * (len(one) + 2) + [1] * (len(other) + 1)
    assert each("the name")["input_ids"] == [2, *one, 3]
    assert set(each("the name")) == {"input_ids", "attention_mask"}
    assert special_token_ids(each) == [0, 1, 2, 3, 4]
    assert ordinary_token_ids(each).tolist() == list(range(5, VOCABULARY))


@pytest.mark.parametrize("config", [None, BertConfig(), ModernBertConfig()], ids=["alone", "bert", "modernbert"])
def test_a_saved_folder_loads_with_auto_tokenizer(
    each: PreTrainedTokenizerFast, config: BertConfig | ModernBertConfig | None, tmp_path: Path, documents: list[str]
) -> None:
    each.model_max_length = 64
    each.save_pretrained(tmp_path)
    each.model_max_length = 10**30
    if config is not None:  # AutoTokenizer looks at the model's config too
        config.save_pretrained(tmp_path)
    for again in (AutoTokenizer.from_pretrained(tmp_path), load_tokenizer(tmp_path)):
        assert again.model_max_length == 64
        assert again.padding_side == "right"
        assert again.model_input_names == ["input_ids", "attention_mask"]
        assert vocabulary_fingerprint(again) == vocabulary_fingerprint(each)
        assert again(documents[:50], verbose=False)["input_ids"] == each(documents[:50])["input_ids"]


@settings(max_examples=200)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁")))
@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
def test_text_comes_back_as_it_was_normalised(
    algorithm: str, text: str, trained: dict[str, PreTrainedTokenizerFast]
) -> None:
    tokenizer = trained[algorithm]
    normal = tokenizer.backend_tokenizer.normalizer.normalize_str(text).removeprefix(" ")
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == normal


def test_a_word_has_the_same_ids_wherever_it_stands(each: PreTrainedTokenizerFast) -> None:
    def ids(text: str | list[str]) -> list[int]:
        split = isinstance(text, list)
        return each(text, add_special_tokens=False, is_split_into_words=split)["input_ids"]

    assert ids("name") == ids("the name")[len(ids("the")) :]
    assert ids(["Return", "the", "name", ",", "or", "None", "."]) == ids("Return the name , or None .")


def test_offsets_are_those_of_the_words(each: PreTrainedTokenizerFast) -> None:
    text = "Return the name of it"
    encoded = each(text, return_offsets_mapping=True, add_special_tokens=False)
    first = {
        encoded.word_ids()[place]: start for place, (start, _) in reversed([*enumerate(encoded["offset_mapping"])])
    }
    pieces = [text[start:end] for start, end in encoded["offset_mapping"]]
    if type(each.backend_tokenizer.model).__name__ == "BPE":
        assert "".join(pieces) == text.replace(" ", "")
        assert sorted(first.values()) == [0, 7, 11, 16, 19]
    assert all(piece for piece in pieces)


def test_the_mask_stands_for_a_word_and_its_space(each: PreTrainedTokenizerFast) -> None:
    def ids(text: str) -> list[int]:
        return each(text, add_special_tokens=False)["input_ids"]

    rest = ids("the name is it.")[len(ids("the name is it")) :]
    assert ids("the [MASK].") == [*ids("the"), 4, *rest]
    assert ids("[MASK] name") == [4, *ids("the name")[len(ids("the")) :]]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_normalisation_options(algorithm: str, documents: list[str]) -> None:
    def normal(text: str, **options: object) -> str:
        config = TokenizerConfig.model_validate({"algorithm": algorithm, "vocab_size": 400, **options})
        return train_tokenizer(config, documents[:80]).backend_tokenizer.normalizer.normalize_str(text)

    text = "Cafe\u0301 ﬁne"
    assert normal(text) == "Café ﬁne"
    assert normal(text, normalization=None) == text
    assert normal(text, normalization="nfkc") == "Café fine"
    assert normal(text, lowercase=True) == "café ﬁne"
    assert normal(text, strip_accents=True, lowercase=True) == "cafe ﬁne"
    assert normal("Ünë", strip_accents=True, normalization=None) == "Une"


@pytest.mark.parametrize("algorithm", ["bpe", "wordpiece"])
def test_training_twice_gives_the_same_vocabulary(algorithm: str, documents: list[str]) -> None:
    config = TokenizerConfig(algorithm=algorithm, vocab_size=500)
    once, twice = (train_tokenizer(config, iter(documents)) for _ in range(2))
    assert vocabulary_fingerprint(once) == vocabulary_fingerprint(twice)
    other = train_tokenizer(config, documents[: len(documents) // 2])
    assert vocabulary_fingerprint(other) != vocabulary_fingerprint(once)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_too_little_text_is_said(algorithm: str, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = train_tokenizer(TokenizerConfig(algorithm=algorithm, vocab_size=5000), ["one two three", "two three"])
    assert len(tokenizer) < 5000
    assert f"supports {len(tokenizer):,} tokens of the 5,000" in capsys.readouterr().err
    with pytest.raises(UserError, match="no text to train on"):
        train_tokenizer(TokenizerConfig(algorithm=algorithm), ["", "  \n"])


def test_very_long_words_and_large_alphabets_are_no_obstacle() -> None:
    texts = ["-" * 50_000, "x" * 50_000, *("".join(map(chr, range(0x4E00 + i, 0x4E40 + i))) for i in range(0, 2000, 3))]
    for algorithm in ALGORITHMS:
        tokenizer = train_tokenizer(TokenizerConfig(algorithm=algorithm, vocab_size=600), texts)
        assert len(tokenizer) <= 600


# -- loading ------------------------------------------------------------------------------------------------------


def test_what_can_not_be_loaded_is_one_line(trained: dict[str, PreTrainedTokenizerFast], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such folder"):
        load_tokenizer(tmp_path / "missing")
    with pytest.raises(UserError, match="no folder, and no Hub repository whose files are in"):
        load_tokenizer("nobody/no-such-tokenizer")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no tokenizer there that loads"):
        load_tokenizer(tmp_path / "empty")
    damaged = tmp_path / "damaged"
    trained["bpe"].save_pretrained(damaged)
    (damaged / "tokenizer.json").write_text((damaged / "tokenizer.json").read_text()[:5000])
    with pytest.raises(UserError, match="no tokenizer there that loads"):
        load_tokenizer(damaged)


def test_missing_special_tokens_are_named_or_stood_in_for(tmp_path: Path) -> None:
    backend = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "<pad>": 2, "<mask>": 3, "a": 4}, unk_token="a"))
    named = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **named).save_pretrained(tmp_path / "no-mask")
    with pytest.raises(UserError, match=r"no-mask: this tokenizer has no mask_token; add with"):
        load_tokenizer(tmp_path / "no-mask")
    PreTrainedTokenizerFast(tokenizer_object=backend, mask_token="<mask>", **named).save_pretrained(
        tmp_path / "roberta"
    )
    tokenizer = load_tokenizer(tmp_path / "roberta")
    assert (tokenizer.cls_token_id, tokenizer.sep_token_id) == (0, 1)


def test_added_words_are_whole_tokens(each: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    each.save_pretrained(tmp_path)
    grown = load_tokenizer(tmp_path, add_tokens=["zyxomma", "art", "学习"])
    assert len(grown) == VOCABULARY + 3
    assert "zyxomma" in grown.tokenize("a zyxomma here")
    assert "art" in grown.tokenize("the art of") and "art" not in grown.tokenize("a start")
    assert VOCABULARY + 2 in grown("北京学习。")["input_ids"]
    assert words(grown, "a zyxomma, here")[-3:] == ["zyxomma", ",", "here"]
    assert vocabulary_fingerprint(grown) != vocabulary_fingerprint(each)


# -- words --------------------------------------------------------------------------------------------------------


def test_words_are_found_from_ids(each: PreTrainedTokenizerFast) -> None:
    assert words(each, "Hello, unquestionably foo_bar") == ["Hello", ",", "unquestionably", "foo", "_", "bar"]
    assert [word for word in words(each, "stop\nnow\tthen") if word] == ["stop", "now", "then"]
    assert words(each, "don't")[0] == "don"


@given(
    parts=st.lists(
        st.tuples(st.from_regex("[A-Za-zäöüß0-9]{1,12}", fullmatch=True), st.sampled_from([" ", ", ", " (", "-", "_"]))
    )
)
@settings(max_examples=100)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_no_word_is_split_and_none_joined(
    algorithm: str, parts: list[tuple[str, str]], trained: dict[str, PreTrainedTokenizerFast]
) -> None:
    text = "".join(word + between for word, between in parts) + "end"
    found = [word for word in words(trained[algorithm], text) if word]
    expected = re.findall(r"[^\W_]+|[^\w\s]|_", text)
    assert [word if seen != "[UNK]" else seen for word, seen in zip(expected, found, strict=True)] == found


def test_scripts_without_spaces_do_not_collapse(each: PreTrainedTokenizerFast) -> None:
    for text in ("我们在北京学习", "これはペンです"):
        assert len([word for word in words(each, text) if word]) >= 3
    assert words(each, "북경 이야기 하나")[-1] != "북경 이야기 하나"


def test_characters_cut_into_bytes_continue_their_word(trained: dict[str, PreTrainedTokenizerFast]) -> None:
    for algorithm in ("bpe", "unigram"):  # Cyrillic and these Han characters aren't in the alphabet
        assert words(trained[algorithm], "слово за словом") == ["слово", "за", "словом"]
        assert [word for word in words(trained[algorithm], "犬猫鳥") if word] == ["犬", "猫", "鳥"]


def test_documents_begin_words(trained: dict[str, PreTrainedTokenizerFast]) -> None:
    tokenizer = trained["bpe"]
    piece = tokenizer("unquestionably", add_special_tokens=False)["input_ids"][1:2]
    ids, segments = np.array([[*piece * 4]]), np.array([[1, 1, 2, 2]])
    assert word_start_tables(tokenizer).word_starts(ids, segments).tolist() == [[True, False, True, False]]


def test_tables_read_tokenizers_made_elsewhere() -> None:
    """Vocabularies in the styles of RoBERTa, XLM-R and BERT, without this package's pre-tokenizers."""
    byte_level = Tokenizer(models.BPE({"Ġthe": 0, "the": 1, ",": 2, "Ġ": 3, "Ċ": 4, "å": 5, "¸": 6}, []))
    byte_level.decoder, byte_level.pre_tokenizer = decoders.ByteLevel(), pre_tokenizers.ByteLevel()
    metaspace = Tokenizer(models.Unigram([("<unk>", 0.0), ("▁the", -1.0), ("the", -1.0), (",", -1.0), ("的", -1.0)], 0))
    wordpiece = Tokenizer(models.WordPiece({"[UNK]": 0, "the": 1, "##the": 2, ",": 3, "##カ": 4}, unk_token="[UNK]"))
    expected = {
        byte_level: ([1, 0, 1, 1, 1, 1, 0], [0, 0, 1, 0, 1, 0, 0]),
        metaspace: ([1, 1, 0, 1, 1], [1, 0, 0, 1, 1]),
        wordpiece: ([1, 1, 0, 1, 1], [1, 0, 0, 1, 1]),
    }
    for backend, (begins, ends) in expected.items():
        tables = word_start_tables(PreTrainedTokenizerFast(tokenizer_object=backend))
        assert tables.begins.astype(int).tolist() == begins
        assert tables.ends.astype(int).tolist() == ends


# -- report -------------------------------------------------------------------------------------------------------


def test_the_report_counts(each: PreTrainedTokenizerFast, documents: list[str]) -> None:
    texts = [*documents[::5], "A literal [MASK] is text."]
    report = json.loads(json.dumps(tokenizer_report(each, iter(texts))))
    ids = [each(text, add_special_tokens=False, split_special_tokens=True)["input_ids"] for text in texts]
    assert report["documents"] == len(texts)
    assert report["tokens"] == sum(map(len, ids))
    assert report["bytes_per_token"] == pytest.approx(sum(len(text.encode()) for text in texts) / report["tokens"])
    assert report["tokens_per_word"] == pytest.approx(report["tokens"] / sum(len(text.split()) for text in texts))
    assert report["unused"] == VOCABULARY - 5 - len({number for row in ids for number in row} - {*range(5)})
    assert len(report["longest_tokens"]) == 20 and 0 < len(report["unused_tokens"]) <= 20
    if type(each.backend_tokenizer.model).__name__ != "WordPiece":
        assert report["unknown_rate"] == 0 and report["round_trip_exact"] == report["round_trip_exact_raw"] == 1
    else:
        assert 0 < report["round_trip_exact"] < 1
    # Asking for literal specials is a matter of that call only.
    assert each("[MASK]", add_special_tokens=False)["input_ids"] == [4]
    assert "bytes per token" in format_report(report)


def test_a_report_on_nothing(trained: dict[str, PreTrainedTokenizerFast]) -> None:
    report = tokenizer_report(trained["bpe"], [])
    assert report["bytes_per_token"] is None and report["documents"] == 0
    assert "-" in format_report(report)
