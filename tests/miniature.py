"""A finished run in miniature: random weights, a real tokenizer, records as the stages write them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    PreTrainedTokenizerFast,
)

from mlm_pretrain.config_file import make_config
from mlm_pretrain.io.whole import write_json
from mlm_pretrain.run import RunDirectory
from tests.hub_server import HubServer, hub_server

TEXT = "return the shape of an array ` | a first text , second one somewhat longer . put to be tagged here classified"
RESULTS: dict[str, Any] = {
    "heldout": {
        "loss": 3.2168,
        "perplexity": 24.9481,
        "accuracy": 0.4127,
        "top5_accuracy": 0.6093,
        "masked_tokens": 12345,
        "documents": 300,
        "by_source": {"files:/home/somebody/corpus": {"loss": 3.1}, "installed_docs": {"loss": 3.3}},
    },
    "tasks": {
        "library": {
            "task": "classification",
            "metric": "accuracy",
            "pretrained": 0.7131,
            "pretrained_std": 0.0112,
            "scratch": 0.5523,
            "scratch_std": 0.0219,
            "bag_of_words": 0.6004,
            "majority": 0.1317,
            "seeds": [0, 1, 2],
            "train_examples": 417,
            "test_examples": 823,
            "learning_rate": 3e-4,
        }
    },
    "seconds": {"pretrain": 150.2},
    "pretraining": {
        "steps": 1203,
        "tokens": 2401234,
        "tokens_per_second": 16017.4,
        "parameters": 4812345,
        "sources": {"installed_docs": {"documents": 70123, "bytes": 40_400_000, "dropped": {"empty": 37}}},
        "precision": "bf16",
        "device": "cpu",
        "seconds": 150.1,
    },
    "fill_mask": [{"text": "return the [MASK] of | an `array`", "predictions": [{"token": "shape", "score": 0.3149}]}],
    "versions": {"python": "3.11.9", "torch": "2.13.0", "mlm_pretrain": "0.1.0"},
}
REPORT = {"vocab_size": 27, "bytes_per_token": 4.1237, "tokens_per_word": 1.61, "round_trip_exact": True}


def make_run(root: Path) -> RunDirectory:
    torch.manual_seed(0)
    run = RunDirectory(root)
    sources = [{"source": "files", "path": "/home/somebody/corpus"}, {"source": "hub", "path": "someone/some-text"}]
    tasks = [
        {"task": "classification", "name": "library", "train": "/home/somebody/train.jsonl"},
        {"task": "ner", "name": "entities", "path": "someone/some-entities"},
    ]
    publish = {"hub_model_id": "tester/mini", "language": "en", "license": "apache-2.0", "tags": ["docs"]}
    config = {"run": {"name": "mini", "output_dir": "/home/somebody/runs"}, "text": {"sources": sources}}
    run.write_config(make_config({**config, "tasks": tasks, "publish": publish}))
    run.record(RESULTS)
    write_json(run.tokenizer_report, REPORT)
    run.metrics.write_text('{"step": 1, "loss": 9.1}\n{"step": 2, "lo', encoding="utf-8")
    (run.root / "validation.jsonl").write_text('{"text": "private words"}\n', encoding="utf-8")
    run.checkpoint(2).mkdir(parents=True)
    (run.checkpoint(2) / "optimizer.safetensors").write_bytes(b"moments")
    _make_models(run)
    return run


def _make_models(run: RunDirectory) -> None:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: number for number, word in enumerate([*special, *dict.fromkeys(TEXT.split())])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = dict(zip(["pad_token", "unk_token", "cls_token", "sep_token", "mask_token"], special, strict=True))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=32, **names)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=len(vocabulary), max_position_embeddings=32, **size)
    folders = {
        run.model: BertForMaskedLM(config),
        run.task("library"): BertForSequenceClassification(BertConfig(**{**config.to_dict(), "num_labels": 3})),
        run.task("entities"): BertForTokenClassification(config),
    }
    for folder, model in folders.items():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / "optimizer.pt").write_bytes(b"moments")
        (folder / "training_text.txt").write_text("private words", encoding="utf-8")


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """Shared by the tests: read it, or take a copy (`copy_run`)."""
    return make_run(tmp_path_factory.mktemp("publish") / "mini")


@pytest.fixture
def copy_run(finished_run: RunDirectory, tmp_path: Path) -> Callable[[], RunDirectory]:
    def copy() -> RunDirectory:
        shutil.copytree(finished_run.root, tmp_path / "mini")
        return RunDirectory(tmp_path / "mini")

    return copy


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with hub_server() as server:
        yield server
