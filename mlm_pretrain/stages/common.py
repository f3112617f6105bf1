"""What the stages share: their records, and when an output stands."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from mlm_pretrain import telemetry
from mlm_pretrain.config import Config
from mlm_pretrain.errors import UserError
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.training.ending import noted_end


@contextlib.contextmanager
def stage(run: RunDirectory, name: str, inputs: str) -> Iterator[None]:
    with run.stage(name, inputs), noted_end(run, name):
        yield


def refuse_other_run(config: Config, run: RunDirectory) -> None:
    """Before anything is overwritten: refuse to put another run in the place of one that has checkpoints.

    Raises:
        UserError: names the first key that differs from the run's own.
    """
    if not run.checkpoints.is_dir():
        return
    from mlm_pretrain.text.mixture import fingerprint_corpus
    from mlm_pretrain.training.checkpoint import recorded_identity
    from mlm_pretrain.training.resume import SHARDS, VOCABULARY, identity, refuse_changes

    recorded = recorded_identity(run.checkpoints)
    if recorded is not None:
        saved, old = recorded
        corpus = fingerprint_corpus(config.text)
        refuse_changes(saved, old, identity(config, old[VOCABULARY], corpus, old.get(SHARDS)))


def check_fill_mask(config: Config) -> None:
    for text in config.evaluation.fill_mask:
        if text.count("[MASK]") != 1:
            raise UserError(f"evaluation.fill_mask: write [MASK] once in '{text}'")


def skipped(stage: str, output: Path) -> Path:
    telemetry.say(f"{stage}: stands ({output})")
    return output


def tokenizer_stands(run: RunDirectory, inputs: str) -> bool:
    return run.stands("tokenizer", inputs, run.tokenizer) and run.validation.exists()
