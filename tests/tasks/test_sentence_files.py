"""A sentence-transformers folder's own word: pooling, layers, length, case and prompts are followed, or refused."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, PreTrainedTokenizerFast

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.models.loading import Checkpoint
from mlm_pretrain.tasks.fit.finetune import finetune
from mlm_pretrain.tasks.fit.setup import prepare
from mlm_pretrain.tasks.inference.sentence_files import read_recipe
from mlm_pretrain.tasks.inference.sentence_vectors import POOLINGS
from mlm_pretrain.tasks.serve.embed import Encoder, embed
from tests.models.checkpoints import pickle_that_writes, tiny_checkpoint
from tests.tasks.conftest import SENTENCES, make_tokenizer, separable_texts

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its imports
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Dense, Normalize, Transformer
    from sentence_transformers.models import Pooling as TheirPooling

TEXTS = [*SENTENCES, "", "Berlin", "THE RIVER Spree", "the " * 90, " two  blanks "]


@pytest.fixture(scope="module")
def wordpiece() -> PreTrainedTokenizerFast:
    return make_tokenizer("wordpiece")


@pytest.fixture(scope="module")
def wordpiece_encoder(wordpiece: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wordpiece") / "encoder"
    tiny_checkpoint(folder, "bert", wordpiece, masked_lm=False)
    return folder


def theirs_and_ours(folder: Path, out: Path, **given: Any) -> tuple[np.ndarray, np.ndarray]:
    theirs = SentenceTransformer(str(folder), device="cpu").encode(TEXTS, batch_size=3)
    encoder = Encoder(folder, **given)
    return np.asarray(theirs), encoder(TEXTS, 4)


def sentence_folder(
    folder: Path, encoder: Path, *after: torch.nn.Module, pooling: Any = "mean", **transformer: Any
) -> Path:
    """As the library itself writes it."""
    first = Transformer(str(encoder), **transformer)
    pooled = TheirPooling(first.get_embedding_dimension(), pooling_mode=pooling)
    SentenceTransformer(modules=[first, pooled, *after], device="cpu").save(str(folder))
    return folder


@pytest.mark.parametrize("pooling", [*POOLINGS, ("cls", "mean")])
def test_every_pooling_is_that_of_the_library(pooling: Any, wordpiece_encoder: Path, tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path / "s", wordpiece_encoder, pooling=pooling, max_seq_length=20)
    theirs, ours = theirs_and_ours(folder, tmp_path)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    assert ours.shape[1] == (64 if isinstance(pooling, tuple) else 32)


@pytest.mark.parametrize("model_type", ["bert", "roberta", "modernbert", "distilbert", "electra", "deberta-v2"])
def test_layers_length_and_case_are_those_of_the_library(
    model_type: str, wordpiece: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    tiny_checkpoint(tmp_path / "encoder", model_type, wordpiece, masked_lm=False)
    torch.manual_seed(1)
    after = [Dense(32, 24), Dense(24, 8, bias=False, activation_function=torch.nn.Identity()), Normalize()]
    folder = sentence_folder(tmp_path / "s", tmp_path / "encoder", *after, max_seq_length=17, do_lower_case=True)
    theirs, ours = theirs_and_ours(folder, tmp_path)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    assert ours.shape == (len(TEXTS), 8)
    # What we write of it is the same again, to the library and to us.
    encoder = Encoder(folder)
    assert encoder.max_length == 17
    encoder.save(tmp_path / "again")
    theirs, ours = theirs_and_ours(tmp_path / "again", tmp_path)
    np.testing.assert_allclose(theirs, encoder(TEXTS, 4), rtol=0, atol=1e-5)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def by_hand(folder: Path, encoder: Path, pooling: str = "cls_token") -> Path:
    """A folder of the years before version 3."""
    shutil.copytree(encoder, folder)
    kinds = [("Transformer", ""), ("Pooling", "1_Pooling")]
    modules = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (kind, path) in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    names = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
    settings = {f"pooling_mode_{name}": name == pooling for name in names}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **settings}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 12, "do_lower_case": False}))
    return folder


def test_old_folders_and_what_is_said_of_them(
    wordpiece_encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, texts = by_hand(tmp_path / "old", wordpiece_encoder), tmp_path / "texts.txt"
    theirs, ours = theirs_and_ours(folder, tmp_path)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    texts.write_text("one\ntwo\n")
    embed(folder, texts, tmp_path / "a.npy")
    said = capsys.readouterr().err
    assert "old: pooling cls, not normalised, 12 tokens, as its sentence-transformers files say" in said
    assert "warning" not in said
    embed(folder, texts, tmp_path / "b.npy", pooling="max", normalize=True, max_length=20)
    said = capsys.readouterr().err
    assert "pooling: max, as asked; the files of" in said and "say cls" in said
    assert "normalize: True, as asked" in said and "max_length: 20, as asked" in said
    # A flag that says the same as the files needs no word.
    embed(folder, texts, tmp_path / "c.npy", pooling="cls", normalize=False)
    assert "as asked" not in capsys.readouterr().err
    assert np.array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "c.npy"))
    # Without such files nothing is said, and the mean is taken.
    embed(wordpiece_encoder, texts, tmp_path / "d.npy")
    assert "sentence-transformers" not in capsys.readouterr().err


def test_prompts(wordpiece_encoder: Path, tmp_path: Path) -> None:
    folder = by_hand(tmp_path / "s", wordpiece_encoder, "mean_tokens")
    prompts = {"prompts": {"query": "the train: ", "document": ""}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    theirs, ours = theirs_and_ours(folder, tmp_path)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    library = SentenceTransformer(str(folder), device="cpu")
    other = Encoder(folder, prompt_name="document")(TEXTS, 4)
    np.testing.assert_allclose(other, library.encode(TEXTS, prompt_name="document"), rtol=0, atol=1e-5)
    assert not np.allclose(other, ours)
    with pytest.raises(UserError, match="no prompt 'passage'; it has document, query"):
        Encoder(folder, prompt_name="passage")


def test_what_is_not_known_is_refused_by_name(wordpiece_encoder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"

    def refused(change: dict[str, Any], match: str, pooling: dict[str, Any] | None = None) -> None:
        folder = by_hand(tmp_path / "s", wordpiece_encoder)
        modules = json.loads((folder / "modules.json").read_text())
        modules.append({"idx": 2, "name": "2", "path": "2_More", "type": "sentence_transformers.models.Dense"} | change)
        (folder / "modules.json").write_text(json.dumps(modules))
        (folder / "2_More").mkdir()
        dense = {"in_features": 32, "out_features": 8, "activation_function": "torch.nn.modules.activation.Tanh"}
        (folder / "2_More" / "config.json").write_text(json.dumps(dense | (pooling or {})))
        pickle_that_writes(folder / "2_More" / "pytorch_model.bin", mark)
        (folder / "own.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass More: pass\n")
        with pytest.raises(UserError, match=match):
            Encoder(folder)
        shutil.rmtree(folder)

    refused({}, r"its weights are pickled \(2_More/pytorch_model.bin\)")
    refused(
        {"type": "sentence_transformers.models.LSTM"}, "modules.json: module sentence_transformers.models.LSTM isn't"
    )
    refused({"type": "own.More"}, "modules.json: module own.More isn't known here")
    refused({"path": "../.."}, "which is outside of")
    refused({}, "activation_function own.More isn't known", {"activation_function": "own.More"})
    refused({}, "Dense layer 2_More isn't known", {"use_residual": True})
    folder = by_hand(tmp_path / "s", wordpiece_encoder)
    (folder / "modules.json").write_text("{")
    with pytest.raises(UserError, match=r"modules\.json: no JSON"):
        Encoder(folder)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("file", "content", "match"),
    [
        ("modules.json", [1, 2], "modules.json: not as sentence-transformers writes it"),
        ("modules.json", {}, "modules.json: not as sentence-transformers writes it"),
        ("1_Pooling/config.json", None, "1_Pooling/config.json, which modules.json names, is missing"),
        ("1_Pooling/config.json", [], "1_Pooling/config.json: not as sentence-transformers"),
        ("1_Pooling/config.json", {"pooling_mode": 5}, "pooling 5 isn't known"),
        ("sentence_bert_config.json", [], "sentence_bert_config.json: not as sentence-transformers"),
        ("sentence_bert_config.json", {"max_seq_length": "30"}, "max_seq_length '30' isn't known"),
        ("sentence_bert_config.json", {"max_seq_length": 0}, "max_seq_length 0 isn't known"),
        ("sentence_bert_config.json", {"max_seq_length": 2}, "no room for new tokens in windows of max_length 2"),
        ("config_sentence_transformers.json", {"prompts": ["find: "]}, "not as sentence-transformers"),
        ("config_sentence_transformers.json", {"prompts": {"find": 5}}, "not as sentence-transformers"),
        ("config_sentence_transformers.json", {"default_prompt_name": "find"}, "default_prompt_name 'find'"),
    ],
)
def test_a_damaged_or_missing_file_is_named(
    file: str, content: Any, match: str, wordpiece_encoder: Path, tmp_path: Path
) -> None:
    folder = by_hand(tmp_path / "s", wordpiece_encoder)
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(json.dumps(content))
    with pytest.raises(UserError, match=match):
        Encoder(folder)


def test_a_layer_that_is_another_one_than_its_config_names_is_refused(wordpiece_encoder: Path, tmp_path: Path) -> None:
    for number, weights in enumerate([{"linear.weight": torch.zeros(8, 16)}, {"other": torch.zeros(8, 32)}, None]):
        folder = sentence_folder(tmp_path / str(number), wordpiece_encoder, Dense(32, 8))
        file = folder / "2_Dense" / "model.safetensors"
        if weights is None:
            file.write_bytes(b"version https://git-lfs.github.com/spec/v1")
        else:
            save_file(weights, file)
        with pytest.raises(UserError, match=r"2_Dense/model\.safetensors is not the layer that its config.json names"):
            Encoder(folder)
    file.unlink()
    with pytest.raises(UserError, match=r"2_Dense/model\.safetensors, which modules\.json names, is missing"):
        Encoder(folder)


def test_an_encoder_in_a_folder_of_its_own(wordpiece_encoder: Path, tmp_path: Path) -> None:
    folder = by_hand(tmp_path / "s", wordpiece_encoder)
    (folder / "0_Transformer").mkdir()
    for file in [*folder.glob("*.safetensors"), *folder.glob("*config.json"), *folder.glob("tokenizer.json")]:
        file.rename(folder / "0_Transformer" / file.name)
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([modules[0] | {"path": "0_Transformer"}, modules[1]]))
    recipe = read_recipe(Checkpoint.of(folder))
    assert recipe is not None and recipe.max_length == 12
    theirs, ours = theirs_and_ours(folder, tmp_path)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.skipif("MINILM" not in os.environ, reason="needs MINILM, a folder of all-MiniLM-L6-v2")
def test_a_published_checkpoint(tmp_path: Path) -> None:
    theirs, ours = theirs_and_ours(Path(os.environ["MINILM"]), tmp_path)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("model_type", "pooling"), [("modernbert", "mean_tokens"), ("bert", "mean_tokens")])
def test_a_probe_is_pooled_as_the_checkpoint_is_or_it_is_said(
    model_type: str,
    pooling: str,
    wordpiece: PreTrainedTokenizerFast,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny_checkpoint(tmp_path / "encoder", model_type, wordpiece, masked_lm=False)
    folder = by_hand(tmp_path / "s", tmp_path / "encoder", pooling)
    rows = separable_texts(24, seed=0)
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = TaskConfig(
        task="classification",
        name="toy",
        train=str(tmp_path / "train.jsonl"),
        encoder="frozen",
        seeds=[0],
        max_steps=2,
        bf16=False,
    )
    for given, length in ((None, 12), (20, 20)):
        recipe = task.model_copy(update={"max_length": given})
        assert prepare(recipe, Checkpoint.of(folder), 0.0, tmp_path).adapter.max_length == length
    capsys.readouterr()
    finetune(task, folder, tmp_path / "toy")
    said = capsys.readouterr().err
    config = AutoConfig.from_pretrained(tmp_path / "toy")
    if model_type == "modernbert":
        assert config.classifier_pooling == "mean" and "pooled by" not in said
    else:
        assert "frozen" in said and "pooled by mean, while the head of a bert classifier reads the first token" in said
