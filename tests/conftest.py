"""What the tests share: a small real corpus (docstrings of the standard library) and a tokenizer trained on it."""

from __future__ import annotations

import ast
import inspect
import json
import os
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Models of two layers are slower on two threads than on one; processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from transformers import PreTrainedTokenizerFast

from mlm_pretrain.config import Config, TokenizerConfig
from mlm_pretrain.config_file import make_config
from mlm_pretrain.io import cache
from mlm_pretrain.run import RunDirectory


def pytest_configure(config: pytest.Config) -> None:
    """Tiny models are trained on the CPU, whose sums don't depend on the machine; `-m gpu` is for the others."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What was measured here before tests nothing; processes that tests start inherit it."""
    os.environ[cache.VARIABLE] = str(tmp_path_factory.mktemp("cache"))


MODULES = ("fractions", "heapq", "random", "statistics", "textwrap", "zipfile/__init__", "zipfile")


def stdlib_docstrings() -> Iterator[str]:
    """A few hundred short documents of mixed length."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    for file in filter(Path.exists, (folder / f"{module}.py" for module in MODULES)):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node)
                if text and len(text) > 20:
                    yield inspect.cleandoc(text)


@pytest.fixture(scope="session")
def documents() -> list[str]:
    return sorted(set(stdlib_docstrings()))


@pytest.fixture(scope="session")
def corpus(documents: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documents in three jsonl files."""
    folder = tmp_path_factory.mktemp("corpus")
    for part in range(3):
        rows = (json.dumps({"text": text}) + "\n" for text in documents[part::3])
        (folder / f"part-{part}.jsonl").write_text("".join(rows), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tokenizer(documents: list[str]) -> PreTrainedTokenizerFast:
    from mlm_pretrain.text.tokenizing.tokenizer import train_tokenizer

    return train_tokenizer(TokenizerConfig(vocab_size=600), documents)


@pytest.fixture
def config(corpus: Path, tmp_path: Path) -> Config:
    """A run that takes seconds: two layers, short rows, windows and chunks small enough that many pass."""
    return tiny_config(corpus, tmp_path)


def tiny_config(corpus: Path, folder: Path, **sections: Any) -> Config:
    raw: dict[str, Any] = {
        "run": {"name": "tiny", "output_dir": str(folder)},
        "text": {"sources": [{"source": "files", "path": str(corpus)}], "validation_fraction": 0.1},
        "tokenizer": {"vocab_size": 600},
        "stream": {"sequence_length": 48, "shuffle_window": "15KB", "packing_buffer": "4KB"},
        "model": {
            "model_type": "modernbert",
            "config": {
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "intermediate_size": 48,
                "local_attention": 16,
            },
            "attn_implementation": "sdpa",  # of two runs, each would take what it finds to be faster
        },
        "training": {
            "budget": {"steps": 8},
            "global_batch_size": 8,
            "learning_rate": 3e-3,
            "bf16": False,
            "torch_compile": False,
            "logging_steps": 1,
            "save_steps": 4,
        },
    }
    for section, values in sections.items():
        raw[section] = {**raw.get(section, {}), **values} if isinstance(values, dict) else values
    return make_config(raw)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="session")
def finished_run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run that has gone through every stage, with one task (`weather`); not to be changed."""
    from mlm_pretrain import stages

    folder = tmp_path_factory.mktemp("finished")
    rows = [{"text": f"{word} {number}", "label": word} for word in ("rain", "snow") for number in range(12)]
    (folder / "weather.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = {"task": "classification", "name": "weather", "max_steps": 2, "seeds": [0], "bf16": False}
    config = tiny_config(
        corpus,
        folder,
        tasks=[{**task, "train": str(folder / "weather.jsonl")}],
        evaluation={"fill_mask": ["Return the [MASK] of the list."]},
    )
    return stages.run_all(config)


@pytest.fixture
def run(finished_run: RunDirectory, tmp_path: Path) -> RunDirectory:
    """A copy of the finished run, to be changed."""
    shutil.copytree(finished_run.root, tmp_path / "tiny")
    return RunDirectory(tmp_path / "tiny")
