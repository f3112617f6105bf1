"""Cards, and what goes to the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlm_pretrain.config import Config
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.training.processes import leave_to_rank_zero


def write_cards(config: Config) -> Path:
    """Write the cards of the run, its encoder and its tasks, from the records."""
    from mlm_pretrain.publish.card import write_cards as write

    run = RunDirectory.of(config)
    write(run)
    return run.card


def push(config: Config, *, repo_id: str | None = None, dry_run: bool = False) -> list[Any]:
    """Send the encoder and each task model to the Hub, private unless the config says otherwise.

    Raises:
        UserError: there is nothing to push, no repository is named, or the Hub can't be reached or refuses.
    """
    leave_to_rank_zero()
    from mlm_pretrain.publish import hub

    return hub.push(RunDirectory.of(config), config, dry_run=dry_run, repo_id=repo_id)
