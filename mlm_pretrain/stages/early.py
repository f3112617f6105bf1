"""What can be known before any work is done: names, and the data of tasks that come after hours of pretraining."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mlm_pretrain.config import Config, OptimizerSection, TaskConfig
from mlm_pretrain.console import telemetry
from mlm_pretrain.errors import UserError
from mlm_pretrain.io.digests import check_folder
from mlm_pretrain.models.build import made_by, model_keys
from mlm_pretrain.models.loading import Checkpoint
from mlm_pretrain.run import RunDirectory


def check_names(config: Config) -> None:
    """Look up all that pretraining names.

    Raises:
        UserError: there is no such objective, source, initialisation, optimizer, schedule, preset or architecture.
    """
    from mlm_pretrain.models.initialisation.registered import INITIALISATIONS, chosen_initialisation
    from mlm_pretrain.objectives.base import OBJECTIVES
    from mlm_pretrain.text.sources import SOURCES

    for source in config.text.sources:
        SOURCES[source.source]
    OBJECTIVES[config.objective.name]
    INITIALISATIONS[chosen_initialisation(config.model)]
    _check_recipe("training.", config.training)
    if not config.model.path:
        model_keys(config.model)


def check_task_names(tasks: Sequence[TaskConfig]) -> None:
    """
    Raises:
        UserError: there is no such task, optimizer or schedule.
    """
    from mlm_pretrain.tasks.kinds.registered import TASKS

    for task in tasks:
        TASKS[task.task]
        _check_recipe(f"task '{task.name}': ", task)


def look_at_tasks(config: Config, tasks: Sequence[TaskConfig]) -> None:
    """Read the labelled data of tasks, and open the checkpoints that they start from.

    Of each split, the first `tasks.materials.MOST` rows are read; the installed documentation is taken as it is.

    Raises:
        UserError: a file, column, label or name isn't there, or rows can't be used.
    """
    with telemetry.ahead():
        _look_at_tasks(config, tasks)


def _look_at_tasks(config: Config, tasks: Sequence[TaskConfig]) -> None:
    from mlm_pretrain.tasks.data.installed_docs import check_kind
    from mlm_pretrain.tasks.data.materials import look_at
    from mlm_pretrain.tasks.fit.setup import make_adapter

    run = RunDirectory.of(config)
    for task in tasks:
        if task.source == "installed_docs":
            check_kind(task.task)
            continue
        telemetry.say(f"{task.name}: looking at its data before anything is trained")
        materials = look_at(task)
        origin = task.origin
        # What this run makes isn't there yet.
        if materials and origin and not Path(origin.path).resolve().is_relative_to(run.root.resolve()):
            check_folder(origin.path)
            encoder = task_checkpoint(config, run, task)
            encoder.check()
            make_adapter(task, encoder, materials)


def task_checkpoint(config: Config, run: RunDirectory, task: TaskConfig) -> Checkpoint:
    """What the task starts from, and whether its code may run."""
    if (origin := task.origin) is None:
        return made_by(run, config.model)
    number = [each.name for each in config.tasks].index(task.name)
    consent = f"tasks.{number}.model={{path: {origin.path}, trust_remote_code: true}}"
    return Checkpoint(origin.path, origin.revision, origin.trust_remote_code, consent)


def _check_recipe(place: str, settings: OptimizerSection) -> None:
    from mlm_pretrain.runtime.optim import OPTIMIZERS
    from mlm_pretrain.runtime.schedule import factor_at

    try:
        OPTIMIZERS[settings.optim]
        factor_at(settings, 0.5, total_steps=1)
    except UserError as error:
        raise UserError(f"{place}{error}") from None
