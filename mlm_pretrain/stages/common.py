"""What the stages share: who holds the run, when an output is up to date, and whether it is what was written."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from mlm_pretrain.config import Config
from mlm_pretrain.console import outlook, telemetry
from mlm_pretrain.errors import Faults, UserError
from mlm_pretrain.io.digests import DAMAGED, check_folder, is_as_written
from mlm_pretrain.io.whole import refuse_link
from mlm_pretrain.records.facts import refuse_links_out
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.runtime.ending import noted_end
from mlm_pretrain.stages.inputs import Dependence


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
    """Run a stage: its time, its end, and that it finished on these inputs are noted."""
    with outlook.stage(name), run.stage(name, inputs, files), noted_end(run, name):
        yield


def is_up_to_date(run: RunDirectory, depends: Dependence) -> bool:
    """Whether a stage has finished on these inputs, and its output and its results are there.

    Raises:
        UserError: the output is not what the stage has written.
    """
    if why_not(run, depends):
        return False
    check_output(run, depends.stage, depends.output)
    return True


def why_not(run: RunDirectory, depends: Dependence) -> str:
    """Why a stage has to run; empty if it is up to date, as far as can be seen without reading its output."""
    note = run.note(depends.stage)
    if not note:
        return "has not run"
    if note.get("inputs") != depends.inputs:
        return "has begun, and not finished" if "begun" in note else "what it depends on has changed"
    for output in (depends.output, *depends.files):
        if not output.exists():
            return f"{output.name} is missing"
    there: Any = run.read_results()
    for key in depends.results:
        there = there.get(key) if isinstance(there, dict) else None
    return "" if there is not None else "its results are missing"


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
    """
    Raises:
        UserError: a sentence doesn't have one [MASK].
    """
    faults = Faults()
    for text in config.evaluation.fill_mask:
        with faults.noted():
            if text.count("[MASK]") != 1:
                raise UserError(f"evaluation.fill_mask: write [MASK] once in '{text}'")
    faults.raise_all()


def skipped(stage: str, output: Path) -> Path:
    telemetry.say(f"{stage}: up to date, skipped ({output})")
    return output
