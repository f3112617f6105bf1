"""What can be known before any work is done: names, and the data of tasks that come after hours of pretraining."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mlm_pretrain.config import Config, OptimizerSection, TaskConfig
from mlm_pretrain.console import telemetry
from mlm_pretrain.errors import Faults, UserError
from mlm_pretrain.io.digests import check_folder
from mlm_pretrain.models.build import checkpoint_of, made_by, model_keys
from mlm_pretrain.models.loading import Checkpoint
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.stages.common import check_fill_mask


def look_ahead(config: Config, tasks: Sequence[TaskConfig]) -> None:
    """Look at everything that a run of all stages will need, and tell of all that is wrong together.

    Raises:
        UserError: as `check_text`, `check_names`, `check_task_names` and `look_at_tasks` do.
    """
    faults = Faults()
    for look in (check_text, check_names):
        with faults.noted():
            look(config)
    with faults.noted():
        check_task_names(tasks)
    with faults.noted():
        look_at_tasks(config, tasks)
    faults.raise_all()


def check_text(config: Config) -> None:
    """Find every source, and open the tokenizer and the checkpoint that the model begins with.

    Raises:
        UserError: a file, a dataset, a tokenizer or a checkpoint isn't there or can't be used; a sentence of
            `evaluation.fill_mask` has no [MASK].
    """
    from mlm_pretrain.text.sources import SOURCES, fingerprint_source

    faults = Faults()
    for source in config.text.sources:
        with faults.noted():
            SOURCES[source.source]
            fingerprint_source(source)
    with faults.noted():
        if (start := checkpoint_of(config.model)) is not None:
            start.check()
    with faults.noted():
        if config.tokenizer.path:
            Checkpoint(config.tokenizer.path, config.tokenizer.revision).tokenizer()
    with faults.noted():
        check_fill_mask(config)
    faults.raise_all()


def check_names(config: Config) -> None:
    """Look up all that pretraining names.

    Raises:
        UserError: there is no such objective, source, initialisation, optimizer, schedule, preset or architecture.
    """
    from mlm_pretrain.models.initialisation.registered import INITIALISATIONS, chosen_initialisation
    from mlm_pretrain.objectives.base import OBJECTIVES
    from mlm_pretrain.text.sources import SOURCES

    faults = Faults()
    for source in config.text.sources:
        with faults.noted():
            SOURCES[source.source]
    with faults.noted():
        OBJECTIVES[config.objective.name]
    with faults.noted():
        INITIALISATIONS[chosen_initialisation(config.model)]
    with faults.noted():
        _check_recipe("training.", config.training)
    with faults.noted():
        if not config.model.path:
            model_keys(config.model)
    faults.raise_all()


def check_task_names(tasks: Sequence[TaskConfig]) -> None:
    """
    Raises:
        UserError: there is no such task, optimizer or schedule.
    """
    from mlm_pretrain.tasks.kinds.registered import TASKS

    faults = Faults()
    for task in tasks:
        with faults.noted():
            TASKS[task.task]
        with faults.noted():
            _check_recipe(f"task '{task.name}': ", task)
    faults.raise_all()


def look_at_tasks(config: Config, tasks: Sequence[TaskConfig]) -> None:
    """Read the labelled data of tasks, and open the checkpoints that they start from.

    Of each split, the first `tasks.data.materials.MOST` rows are read; the installed documentation is taken as it is.

    Raises:
        UserError: a file, column, label or name isn't there, or rows can't be used.
    """
    faults = Faults()
    with telemetry.ahead():
        for task in tasks:
            with faults.noted():
                _look_at_task(config, task)
    faults.raise_all()


def _look_at_task(config: Config, task: TaskConfig) -> None:
    from mlm_pretrain.tasks.data.installed_docs import check_kind
    from mlm_pretrain.tasks.data.materials import look_at
    from mlm_pretrain.tasks.fit.setup import make_adapter

    if task.source == "installed_docs":
        check_kind(task.task)
        return
    telemetry.say(f"{task.name}: looking at its data before anything is trained")
    materials = look_at(task)
    run, origin = RunDirectory.of(config), task.origin
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
