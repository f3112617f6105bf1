"""What a place holds: a run with its encoder and its tasks' models, a folder with one model, or one of the Hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mlm_pretrain.config_file import load_config as load_run_config
from mlm_pretrain.errors import UserError
from mlm_pretrain.models.encoder import load_config
from mlm_pretrain.records.facts import refuse_links_out, task_folders
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.tasks.kinds.sequence import PAIRS
from mlm_pretrain.tasks.serve.finished import task_of

MASKED_LM = "masked_lm"
ENCODER = "encoder"
"""A model without any head that the page knows."""


@dataclass(frozen=True)
class Served:
    """A model of the page."""

    name: str
    path: str | Path
    kind: str
    """`masked_lm`, a task as `TASKS` names it, or `encoder`."""
    pair: bool | None = None
    """Whether it was trained on pairs of texts, where its config says so."""
    samples: tuple[str, ...] = ()
    """Texts to begin with."""


def find(places: Sequence[str | Path]) -> list[Served]:
    """The models of all places, encoders before tasks' models, each with a name of its own.

    Raises:
        UserError: a place holds no model.
    """
    found = [model for place in places for model in _models_of(place)]
    order = (MASKED_LM, ENCODER)
    found.sort(key=lambda model: order.index(model.kind) if model.kind in order else len(order))
    names = [model.name for model in found]
    return [replace(model, name=str(model.path)) if names.count(model.name) > 1 else model for model in found]


def _models_of(place: str | Path) -> list[Served]:
    run = RunDirectory(place)
    if not run.config.is_file() or (run.root / "config.json").is_file():
        return [_served(Path(place).resolve().name if Path(place).is_dir() else str(place), place)]
    refuse_links_out(run)
    config = load_run_config(run.config)
    models = []
    if (run.model / "config.json").is_file():
        models.append(replace(_served(config.run.name, run.model), samples=tuple(config.evaluation.fill_mask)))
    models += [_served(folder.name, folder) for folder in task_folders(run)]
    if not models:
        raise UserError(f"{run.root}: no model in this run yet; `mlm-pretrain run {run.root}` makes them")
    return models


def _served(name: str, path: str | Path) -> Served:
    config = load_config(path)
    pair = getattr(config, PAIRS, None)
    if (config.architectures or [""])[0].endswith("ForMaskedLM"):
        return Served(name, path, MASKED_LM, pair)
    try:
        return Served(name, path, task_of(config, path), pair)
    except UserError:
        return Served(name, path, ENCODER, pair)
