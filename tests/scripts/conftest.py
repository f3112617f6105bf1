"""The figures of `scripts/bench.py` in a setting that takes seconds."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from mlm_pretrain.hardware import device

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))


@pytest.fixture(autouse=True)
def _compiled_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What `open_work` sets for the processes of a call is gone after the test."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))


class _Thread(threading.Thread):
    """In place of a process, which imports for seconds."""

    pid = os.getpid()

    def kill(self) -> None:
        assert not self.is_alive(), "a session ends when it is closed"


def _start(
    target: Callable[..., None], function: Callable[..., Any], arguments: tuple[Any, ...]
) -> tuple[_Thread, Connection]:
    ours, theirs = multiprocessing.Pipe()
    function, arguments = pickle.loads(pickle.dumps((function, arguments)))

    def run() -> None:
        with theirs:
            target(theirs, function, arguments)

    thread = _Thread(target=run)
    thread.start()
    return thread, ours


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures measure in threads of this process."""
    from figures import session

    monkeypatch.setattr(session, "_start", _start)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, here: None, corpus: Path) -> None:
    """Two layers and short rows in place of the reference setting."""
    from figures import budget, labelled, reference, scaling, short_documents, time_to_loss

    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    for model in (reference.MODEL, reference.BERT):
        monkeypatch.setitem(model, "config", shape)
    plain = {"bf16": False, "torch_compile": False}
    training = {"budget": {"steps": 1_000_000}, "global_batch_size": 8, "save_steps": None, **plain}
    sections = {
        "text": {"validation_fraction": 0.1},
        "tokenizer": {"vocab_size": 600},
        "stream": {"sequence_length": 48, "shuffle_window": "15KB", "packing_buffer": "4KB"},
        "training": training,
    }
    monkeypatch.setattr(reference, "SECTIONS", sections)
    for bound in ("LEAST_SECONDS", "MOST_SECONDS"):
        monkeypatch.setattr(budget, bound, 0.05)
    monkeypatch.setattr(time_to_loss, "LEAST_SECONDS", 0.6)
    monkeypatch.setattr(short_documents, "MEGABYTES", 0.1)
    monkeypatch.setattr(labelled, "ENCODER_SECONDS", 1)
    monkeypatch.setattr(reference, "source_section", lambda data: {"source": "files", "path": str(data or corpus)})
    monkeypatch.setitem(device.PRODUCTS, "cpu", [(512, 512, 512)])
    monkeypatch.setattr(scaling, "LENGTHS", (48, 96))
    monkeypatch.setattr(scaling, "WIDTHS", (32,))
    monkeypatch.setattr(scaling, "LAYERS", (1,))
    monkeypatch.setattr(scaling, "MORE_LENGTHS", ())
