"""Cards, and what goes to the Hub."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlm_pretrain.config import Config
from mlm_pretrain.console import bars
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.runtime.processes import leave_to_rank_zero
from mlm_pretrain.stages.common import check_output


def write_cards(config: Config) -> Path:
    """Write the cards of the run, its encoder and its tasks, from the records."""
    from mlm_pretrain.cards.card import write_cards as write

    run = RunDirectory.of(config)
    with bars.doing("writing the cards"):
        write(run)
    return run.card


def report(runs: Sequence[str | Path], out: Path | None = None) -> Path:
    """One page on runs beside each other, see `report.page.write_report`.

    Raises:
        UserError: there is no such run, or the page can't be written.
    """
    leave_to_rank_zero()
    from mlm_pretrain.report.page import write_report

    return write_report(runs, out)


def push(
    config: Config,
    *,
    repo_id: str | None = None,
    dry_run: bool = False,
    checkpoints: bool = False,
    tag: str | None = None,
    further: Sequence[Any] = (),
) -> list[Any]:
    """Send the encoder and each task model to the Hub, private unless the config says otherwise.

    Args:
        repo_id: the encoder's repository, over `publish.hub_model_id`.
        dry_run: list what would be sent, and send nothing.
        checkpoints: send the checkpoints that stand too, each to a revision of the encoder's repository.
        tag: the name of a release.
        further: other repositories, see `hub.push.Further`.

    Raises:
        UserError: there is nothing to push, no repository is named, or the Hub can't be reached or refuses.
    """
    leave_to_rank_zero()
    from mlm_pretrain.hub import push as hub
    from mlm_pretrain.hub.files import has_models

    run = RunDirectory.of(config)
    # A run that has nothing but checkpoints may be at work: they wait in the outbox, which has a lock of its own.
    with run.locked() if has_models(run) else contextlib.nullcontext():
        if run.model.is_dir():
            check_output(run, "pretrain", run.model)
        for folder in run.task_folders():
            check_output(run, f"finetune {folder.name}", folder)
        return hub.push(
            run, config, dry_run=dry_run, repo_id=repo_id, checkpoints=checkpoints, tag=tag, further=further
        )
