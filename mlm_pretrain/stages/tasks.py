"""Fine-tuning, and what finished task models are used for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlm_pretrain.config import Config, TaskConfig
from mlm_pretrain.config_file import as_begun
from mlm_pretrain.errors import UserError
from mlm_pretrain.io.digests import check_folder
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.runtime.processes import leave_to_rank_zero
from mlm_pretrain.stages.common import check_encoder, holding, is_up_to_date, skipped, stage
from mlm_pretrain.stages.early import check_task_names, look_at_tasks, task_checkpoint
from mlm_pretrain.stages.inputs import of_task
from mlm_pretrain.stages.publishing import write_cards


def finetune(
    config: Config,
    name: str | None = None,
    *,
    force: bool = False,
    sweep: bool = False,
    train_fractions: Sequence[float] = (),
) -> dict[str, Any]:
    """Fine-tune the run's encoder (or a task's own `model`) on one task, or on all.

    Args:
        name: of the task; None takes all.
        sweep: first look for each task's best learning rate and number of epochs, as its `sweep` says.
        train_fractions: shares of the training set to train on too, in place of the tasks' own.

    Returns:
        The results by task name, as in `results.json` under `tasks`.

    Raises:
        UserError: there is no such task, no encoder yet, or its data can't be read.
        Interrupted: a signal, Ctrl-C or the end of the launcher asked to stop; the same call goes on.
    """
    leave_to_rank_zero()
    config = as_begun(config)
    if not config.tasks:
        example = "tasks: [{task: classification, name: topic, train: topics.jsonl}]"
        raise UserError(f"tasks: the config names no task; an example: {example}")
    chosen = [config.task(name)] if name else config.tasks
    if train_fractions:
        chosen = [task.model_copy(update={"train_fractions": list(train_fractions)}) for task in chosen]
    if any(not task.origin for task in chosen):
        check_encoder(RunDirectory.of(config))
    check_task_names(chosen)
    with holding(config) as run:
        # The first is looked at where it is trained.
        look_at_tasks(config, [task for task in chosen[1:] if not run.task(task.name).exists()])
        for task in chosen:
            _finetune_one(config, run, task, force, sweep)
        write_cards(config)
        return run.read_results().get("tasks", {})


def _finetune_one(config: Config, run: RunDirectory, task: TaskConfig, force: bool, sweep: bool) -> None:
    if task.origin:
        check_folder(task.origin.path)
    depends = of_task(config, task)
    standing = run.read_results().get("tasks", {}).get(task.name, {})
    # A sweep and a learning curve are asked for beside the task; what is there without them is not thrown away.
    lacking = (sweep and "sweep" not in standing) or _lacks(standing, task.train_fractions)
    if not force and not lacking and is_up_to_date(run, depends):
        skipped(depends.stage, depends.output)
        return
    if standing:
        look_at_tasks(config, [task])  # else a slip of the pen would put its settings beside results of others
    from mlm_pretrain.tasks.fit.finetune import finetune as train

    with stage(run, depends.stage, depends.inputs):
        run.write_config(config, ["tasks"], task=task.name)
        result = train(
            task,
            task_checkpoint(config, run, task),
            run.task(task.name),
            held_out_fraction=config.text.validation_fraction,
            sweep=sweep,
            inputs=depends.inputs,
        )
        run.record_task(task.name, result)


def _lacks(figures: dict[str, Any], fractions: Sequence[float]) -> bool:
    """Whether a learning curve lacks one of these shares."""
    there = {point["fraction"] for point in figures.get("learning_curve", [])}
    return any(share not in there for share in fractions if share < 1)
