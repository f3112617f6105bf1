"""The figures of `scripts/bench.py` in a setting that takes seconds."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlm_pretrain.training import device

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))


def _here(function: Callable[..., Any], *arguments: Any) -> Any:
    """As `figures.common.fresh`, but without a new process, which imports for seconds."""
    function, arguments = pickle.loads(pickle.dumps((function, arguments)))
    return function(*arguments)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two layers and short rows in place of the reference setting; a round each, all in this process."""
    from figures import mfu, processes, scaling, short_documents, throughput, time_to_loss, trainer

    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    for model in (trainer.MODEL, trainer.BERT):
        monkeypatch.setitem(model, "config", shape)
    plain = {"bf16": False, "torch_compile": False}
    training = {"budget": {"steps": 1_000_000}, "global_batch_size": 8, "save_steps": None, **plain}
    sections = {
        "text": {"validation_fraction": 0.1},
        "tokenizer": {"vocab_size": 600},
        "stream": {"sequence_length": 48, "shuffle_window": "15KB", "packing_buffer": "4KB"},
        "training": training,
    }
    monkeypatch.setattr(trainer, "SECTIONS", sections)
    for module in (mfu, processes, short_documents, throughput):
        monkeypatch.setattr(module, "ROUNDS", 1)
    for module in (mfu, processes, scaling, short_documents, throughput, time_to_loss, trainer):
        monkeypatch.setattr(module, "fresh", _here)
    monkeypatch.setitem(device.PRODUCTS, "cpu", [(512, 512, 512)])
    monkeypatch.setattr(scaling, "LENGTHS", (48, 96))
    monkeypatch.setattr(scaling, "WIDTHS", (32,))
    monkeypatch.setattr(scaling, "LAYERS", (1,))
