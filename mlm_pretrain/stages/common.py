"""What the stages share: who holds the run, when an output is up to date, and whether it is what was written."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from mlm_pretrain.config import Config
from mlm_pretrain.console import outlook, telemetry
from mlm_pretrain.errors import UserError
from mlm_pretrain.io.digests import DAMAGED, check_folder, is_as_written
from mlm_pretrain.io.whole import refuse_link
from mlm_pretrain.records.facts import refuse_links_out
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.runtime.ending import noted_end


@contextlib.contextmanager
def holding(config: Config) -> Iterator[RunDirectory]:
    """Hold a run from a verb's first look at it to its last word: nothing is written by who doesn't hold it.

    Raises:
        UserError: another process is at work in it, something is where a stage's folder has to go, or a symlink leads
            out of the run.
    """
    run = RunDirectory.of(config)
    with run.locked():
        for folder in (run.tokenizer, run.model, *(run.task(task.name) for task in config.tasks)):
            refuse_link(folder)
        refuse_links_out(run)
        yield run


@contextlib.contextmanager
def stage(run: RunDirectory, name: str, inputs: str, files: Collection[Path] = ()) -> Iterator[None]:
    with outlook.stage(name), run.stage(name, inputs, files), noted_end(run, name):
        yield


def is_up_to_date(run: RunDirectory, name: str, inputs: str, output: Path, *results: str) -> bool:
    """Whether a stage has finished on these inputs, and its output and its results are there.

    Args:
        results: the key of its results in `results.json`, each part below the one before.

    Raises:
        UserError: the output is not what the stage has written.
    """
    if run.note(name).get("inputs") != inputs or not output.exists():
        return False
    there: Any = run.read_results()
    for key in results:
        there = there.get(key) if isinstance(there, dict) else None
    if there is None:
        return False
    check_output(run, name, output)
    return True


def check_output(run: RunDirectory, name: str, output: Path) -> None:
    """Refuse what a stage has left if it is damaged, or of before it was begun again.

    Raises:
        UserError: names the file.
    """
    command = f"`mlm-pretrain {name.split()[0]} {run.root}"
    note = run.note(name)
    if "begun" in note:
        raise UserError(
            f"{output}: was made before {name} was begun again at {note['begun']}, which has not finished; "
            f"{command}` finishes it"
        )
    check_folder(output, f"{command} --force` writes it again")
    for file, digest in note.get("files", {}).items():
        path = run.root / file
        if not path.is_file() or not is_as_written(path, digest):
            what = DAMAGED if path.is_file() else "missing"
            raise UserError(f"{path}: {what}; {command} --force` writes it again")


def check_encoder(run: RunDirectory) -> None:
    """
    Raises:
        UserError: the run has no model yet, or it is damaged, or being made anew.
    """
    if not (run.model / "config.json").is_file():
        raise UserError(f"{run.model}: no model; `mlm-pretrain pretrain` writes it")
    check_output(run, "pretrain", run.model)


def refuse_other_run(config: Config, run: RunDirectory) -> None:
    """Before anything is overwritten: refuse to put another run in the place of one that has checkpoints.

    Raises:
        UserError: names the first key that differs from the run's own.
    """
    if not run.checkpoints.is_dir():
        return
    from mlm_pretrain.runtime.checkpoint import recorded_identity
    from mlm_pretrain.text.mixture import fingerprint_corpus
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
    telemetry.say(f"{stage}: up to date, skipped ({output})")
    return output


def has_tokenizer(run: RunDirectory, inputs: str) -> bool:
    """Whether the tokenizer stage is up to date.

    Raises:
        UserError: what it has written is damaged.
    """
    return run.validation.exists() and is_up_to_date(run, "tokenizer", inputs, run.tokenizer, "text")
