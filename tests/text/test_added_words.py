"""Words added to a vocabulary: ids of their own, also where the vocabulary has holes, and words that can't be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken
from tokenizers.normalizers import BertNormalizer
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from mlm_pretrain.config import ModelConfig, TokenizerConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.models.build import build_model, make_model_config
from mlm_pretrain.models.encoder import check_vocabulary, load_config
from mlm_pretrain.models.ids import vocabulary_size
from mlm_pretrain.runtime.ending import one_line
from mlm_pretrain.stream.pack import Segmenter
from mlm_pretrain.text.tokenizing.tokenizer import load_tokenizer, train_tokenizer


@pytest.fixture(scope="module")
def uncased(documents: list[str]) -> PreTrainedTokenizerFast:
    return train_tokenizer(TokenizerConfig(vocab_size=600, algorithm="wordpiece", lowercase=True), documents)


@pytest.fixture
def with_holes(uncased: PreTrainedTokenizerFast, tmp_path: Path) -> Path:
    """A BERT checkpoint whose vocab.txt has three lines twice, so that three ids have no token."""
    lines = sorted(uncased.get_vocab(), key=uncased.get_vocab().__getitem__)
    for number in (120, 121, 400):
        lines[number] = lines[number + 7]
    folder = tmp_path / "holes"
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    BertForMaskedLM(BertConfig(vocab_size=len(lines), max_position_embeddings=64, **sizes)).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    return folder


def test_a_vocabulary_with_holes_has_its_highest_id_and_one(with_holes: Path) -> None:
    tokenizer = load_tokenizer(with_holes)
    assert (len(tokenizer), vocabulary_size(tokenizer)) == (597, 600)
    assert make_model_config(ModelConfig(preset="nano"), tokenizer, 48).vocab_size == 600
    build_model(ModelConfig(path=str(with_holes)), tokenizer, 48)
    small = json.loads((with_holes / "config.json").read_text()) | {"vocab_size": 598}
    (with_holes / "config.json").write_text(json.dumps(small))
    with pytest.raises(UserError, match="has ids up to 599, the model 598 embeddings"):
        check_vocabulary(with_holes, load_config(with_holes), tokenizer)


def test_added_words_have_ids_of_their_own_also_in_what_is_exported(with_holes: Path, tmp_path: Path) -> None:
    grown = load_tokenizer(with_holes, ["portmanteau", "Spreehafen"])
    model = build_model(ModelConfig(path=str(with_holes)), grown, 48)
    model.save_pretrained(tmp_path / "out")
    grown.save_pretrained(tmp_path / "out")
    exported = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert AutoModelForMaskedLM.from_pretrained(tmp_path / "out").config.vocab_size == 602
    for tokenizer in (grown, exported, load_tokenizer(tmp_path / "out")):
        ids = list(tokenizer.get_vocab().values())
        assert len(ids) == len(set(ids)) and max(ids) == 601
        for number, word in enumerate(("portmanteau", "spreehafen"), start=600):
            assert tokenizer(f"the {word} !", add_special_tokens=False).input_ids[1:-1] == [number]
    before = load_tokenizer(with_holes)
    for text in ("return the shape of an array", "two  lines\nof text."):
        assert grown(text).input_ids == before(text).input_ids


@pytest.mark.parametrize("word", ["\u200c", "\u00ad", "\u200b\u200d", "", "   ", "\t\n"])
def test_a_word_of_which_nothing_is_left_is_refused_by_name(
    word: str, uncased: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    uncased.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"tokenizer\.add_tokens: of .* the tokenizer's normalizer leaves nothing"):
        load_tokenizer(tmp_path, ["portmanteau", word])


def test_a_word_that_is_no_token_of_its_own_is_refused_by_name(
    uncased: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    uncased.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"tokenizer\.add_tokens: '(Oder|ODER)' would not be one token"):
        load_tokenizer(tmp_path, ["Oder", "ODER"])  # to an uncased tokenizer the same


def test_a_tokenizer_whose_added_word_has_anothers_id_is_refused(with_holes: Path, tmp_path: Path) -> None:
    """As transformers itself adds them."""
    tokenizer = AutoTokenizer.from_pretrained(with_holes)
    tokenizer.add_tokens(["portmanteau"])
    tokenizer.save_pretrained(tmp_path / "damaged")
    with pytest.raises(UserError, match="the added token 'portmanteau' has the id 597, which is that of"):
        load_tokenizer(tmp_path / "damaged")


def test_an_added_token_of_which_nothing_is_left_is_refused_before_it_is_used(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    tokenizer.save_pretrained(tmp_path)
    broken = AutoTokenizer.from_pretrained(tmp_path)
    broken.backend_tokenizer.normalizer = BertNormalizer()
    broken.backend_tokenizer.add_tokens([AddedToken("\u200c")])
    broken.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"its normalizer turns the added token '\\u200c' into nothing"):
        load_tokenizer(tmp_path)
    # What would have come of it, a panic of the library that is no Exception, is one line too.
    with pytest.raises(BaseException, match="bad split") as raised:
        broken.backend_tokenizer.encode("b£ £5")
    assert not isinstance(raised.value, Exception)
    assert "the tokenizer's library gave up (AddedVocabulary bad split)" in str(one_line(raised.value))
    # In the processes that tokenise, too: they hand on nothing but an Exception.
    with pytest.raises(UserError, match="the tokenizer's library gave up"):
        Segmenter(broken, 48)(["b£ £5"])
