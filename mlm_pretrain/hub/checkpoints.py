"""Checkpoints as revisions of the encoder's repository: branch `step-00020000` holds what the run was after that step.

What is to be sent waits in the run's `outbox/`, a folder a checkpoint. Its files are hard links, so that they stay
there when the checkpoint itself is pruned, and cost no room before that. Whatever has been sent leaves the outbox;
what a killed process has left in it, the next part of the run sends, or `push`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from mlm_pretrain.cards.card import render_encoder_card
from mlm_pretrain.config import PublishConfig
from mlm_pretrain.console.telemetry import MetricsLog, warn
from mlm_pretrain.errors import UserError
from mlm_pretrain.hub.files import Repository, model_files
from mlm_pretrain.io.digests import MANIFEST, find_fault
from mlm_pretrain.io.locks import held
from mlm_pretrain.io.paths import inside
from mlm_pretrain.io.whole import write_text
from mlm_pretrain.records.facts import read_facts
from mlm_pretrain.run import RunDirectory, checkpoints_in, step_of

TRAINER_STATE = "trainer_state.json"
_CARD = "README.md"


class Outbox:
    """The checkpoints of a run that are still to be sent: `outbox/step-<8 digits>/`."""

    def __init__(self, run: RunDirectory) -> None:
        """
        Raises:
            UserError: a symlink leads out of the run.
        """
        self._root = run.root
        self.folder = inside(run.root, run.outbox)

    def add(self, checkpoint: Path) -> None:
        """Keep a checkpoint's publishable files for sending, whole or not at all.

        Raises:
            UserError: the disk is nearly full, so that checkpoints that are pruned had better be gone; a symlink leads
                out of the run.
            OSError: the disk refuses.
        """
        target = self.folder / checkpoint.name
        if target.exists():
            return
        names = [*model_files(checkpoint, self._root), TRAINER_STATE, MANIFEST]
        for name in names:
            inside(self._root, checkpoint / name)
        size = sum((checkpoint / name).stat().st_size for name in names)
        if shutil.disk_usage(checkpoint).free < 2 * size:
            raise UserError(f"{self.folder}: the disk is nearly full, so {checkpoint.name} is not kept for sending")
        beside = self.folder / f".{checkpoint.name}.{os.getpid()}.tmp"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        for name in names:
            try:
                os.link(checkpoint / name, beside / name)
            except OSError:  # a filesystem without hard links
                shutil.copyfile(checkpoint / name, beside / name)
        beside.rename(target)

    def entries(self) -> list[Path]:
        """By step.

        Raises:
            UserError: a symlink leads out of the run.
        """
        return _by_step(self.folder, self._root)

    def remove(self, entry: Path) -> None:
        shutil.rmtree(entry, ignore_errors=True)

    def clean(self) -> None:
        """Remove what killed processes had not put in whole; the outbox is locked."""
        for path in self.folder.glob(".step-*.tmp"):
            if f".{os.getpid()}." not in path.name:
                shutil.rmtree(path, ignore_errors=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """
        Raises:
            UserError: another process is sending.
        """
        with held(self.folder / ".lock", f"{self.folder}: another process is sending these checkpoints"):
            yield


def standing_checkpoints(run: RunDirectory) -> list[Path]:
    """By step.

    Raises:
        UserError: a symlink leads out of the run.
    """
    return _by_step(run.checkpoints, run.root)


def _by_step(folder: Path, root: Path) -> list[Path]:
    return [inside(root, path) for path in checkpoints_in(folder)]


def whole(folders: Iterable[Path], root: Path) -> list[Path]:
    """Those of which nothing that would be sent is missing or damaged; the others are reported.

    Args:
        root: of the run.
    """
    kept = []
    for folder in folders:
        fault = find_fault(folder, [*model_files(folder, root), "config.json", "model.safetensors", TRAINER_STATE])
        if fault:
            warn(f"{folder}: not sent: {fault}")
        else:
            kept.append(folder)
    return kept


def checkpoint_repository(run: RunDirectory, folder: Path, publish: PublishConfig) -> Repository:
    """What is sent of a checkpoint (or of its entry in the outbox), with a card of its own."""
    card = str(_card(run, folder, publish)).encode()
    return Repository(str(publish.hub_model_id), model_files(folder, run.root) | {_CARD: card}, revision=folder.name)


def write_card(run: RunDirectory, entry: Path, publish: PublishConfig) -> None:
    """Put the card beside the weights: it stands here before anything is sent."""
    write_text(entry / _CARD, str(_card(run, entry, publish)))


def _card(run: RunDirectory, folder: Path, publish: PublishConfig) -> ModelCard:
    """The encoder's metadata without its results, and what is known of this step."""
    progress = json.loads((folder / TRAINER_STATE).read_text(encoding="utf-8"))["progress"]
    data = render_encoder_card(read_facts(run, publish)).data
    for key in ("model_name", "eval_results", "metrics"):
        setattr(data, key, None)
    step, name = step_of(folder), publish.hub_model_id
    figures = _figures(run, step)
    lines = [f"- {label}: {figures[key]:.4f}" for key, label in _FIGURES.items() if figures.get(key) is not None]
    known = "\n".join(lines) or "Nothing was measured at this step."
    body = f"""\
# {str(name).split("/")[-1]}, step {step:,}

The encoder `{name}` on the way: after {step:,} steps and {progress["tokens"]:,} tokens of its pretraining. What it was
trained on, and how, the card on `main` tells, which stands there from the end of the training on.

{known}

```python
from transformers import AutoModelForMaskedLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}", revision="{folder.name}")
model = AutoModelForMaskedLM.from_pretrained("{name}", revision="{folder.name}")
```
"""
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}")


_FIGURES = {
    "loss": "training loss (nats a masked token, over the steps since the record before)",
    "heldout_loss": "held-out loss (nats a masked token)",
    "heldout_accuracy": "held-out accuracy",
}


def _figures(run: RunDirectory, step: int) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for record in MetricsLog(run.metrics).read():
        if record.get("step") == step:
            figures |= record
    return figures
