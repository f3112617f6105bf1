"""Pretraining, and the score of what it has made."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from mlm_pretrain.config import Config, recipes
from mlm_pretrain.config.base import filled
from mlm_pretrain.config_file import as_begun
from mlm_pretrain.console import telemetry
from mlm_pretrain.io.digests import check_folder
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.runtime.interrupts import Interrupts
from mlm_pretrain.runtime.processes import Processes, leave_to_rank_zero, start
from mlm_pretrain.stages.common import (
    check_encoder,
    check_fill_mask,
    check_output,
    holding,
    is_up_to_date,
    refuse_other_run,
    skipped,
    stage,
)
from mlm_pretrain.stages.early import check_names
from mlm_pretrain.stages.inputs import of_evaluation, of_pretraining, of_tokenizer, versions
from mlm_pretrain.stages.publishing import write_cards
from mlm_pretrain.stages.text import prepare_alone, train_tokenizer_alone


def pretrain(config: Config, *, force: bool = False) -> Path:
    """Pretrain the model, going on from the newest complete checkpoint where there is one.

    Returns:
        `model/`, for `AutoModelForMaskedLM.from_pretrained`.

    Raises:
        UserError: bad input, a checkpoint of another run, a bad loss, or another process has died.
        Interrupted: a signal, Ctrl-C or the end of the launcher asked to stop; a checkpoint is written.
        SystemExit: this process is not rank zero, and is not needed any more.
    """
    return pretrain_on(config, start(config), force)


def pretrain_on(config: Config, processes: Processes, force: bool) -> Path:
    config = _agreed(config, processes)
    if processes.rank == 0:
        with holding(config) as run:
            _lead_pretraining(config, run, processes, force)
            processes.go_on_alone()
            write_cards(config)
        return run.model
    if processes.broadcast():
        from mlm_pretrain.training.loop import pretrain as train

        with Interrupts() as interrupts:
            train(config, RunDirectory.of(config), processes=processes, interrupts=interrupts)
    processes.go_on_alone()  # for which the others end
    raise AssertionError("rank zero alone is left")


def _agreed(config: Config, processes: Processes) -> Config:
    """The config with rank zero's recipe: another machine may have other cores, or not see what the run has."""
    config = as_begun(config)
    told = processes.broadcast(config.model_dump(mode="json", include={"training", "objective"}))
    if processes.rank == 0:
        return config
    return filled(config, {name: type(getattr(config, name)).model_validate(part) for name, part in told.items()})


def _lead_pretraining(config: Config, run: RunDirectory, processes: Processes, force: bool) -> None:
    """What rank zero does; the others wait to be told whether there is anything to train."""
    from mlm_pretrain.hub.background import send_left, sending

    if start := config.model.path or config.model.init_from:
        check_folder(start)
    depends = of_pretraining(config)
    if not force and is_up_to_date(run, depends):
        skipped("pretrain", run.model)
        processes.broadcast(False)
        send_left(run, config.publish)
        return
    check_names(config)
    refuse_other_run(config, run)
    if not is_up_to_date(run, of_tokenizer(config)):
        train_tokenizer_alone(config, force=False)
    # A folder that runs may share is written by nobody but the verb `prepare`.
    if config.stream.prepared is True:
        prepare_alone(config, force=False)
    from mlm_pretrain.training.loop import pretrain as train

    # Outermost: what is still being sent at the end is waited for as one who presses Ctrl-C expects.
    # Signals are the outer context: the launcher's, when another process has died, may not cut the last note short.
    with (
        sending(run, config.publish) as on_save,
        Interrupts() as interrupts,
        stage(run, "pretrain", depends.inputs),
    ):
        run.write_config(config)
        _note_recipe(config, run)
        processes.broadcast(True)
        figures = train(config, run, processes=processes, interrupts=interrupts, on_save=on_save)
        run.record({"pretraining": figures, "versions": versions()})


def _note_recipe(config: Config, run: RunDirectory) -> None:
    """Say what was chosen for what the config leaves open, and record it; what a run was begun with stays recorded."""
    telemetry.say(f"recipe: {recipes.in_words(config)}")
    recipe, keys = recipes.recipe_of(config), recipes.open_keys(config)
    if all(recipes.origin(config, key, recipe) != "as begun" for key in keys):
        run.record({"recipe": None})  # else the two would be merged
        run.record({"recipe": asdict(recipe) if recipe.values else None})


def evaluate(config: Config, *, force: bool = False) -> dict[str, Any]:
    """Score `model/` on the held-out documents.

    Returns:
        loss (nats per masked token), perplexity, accuracies, by source too.

    Raises:
        UserError: there is no model yet, or no held-out text.
    """
    leave_to_rank_zero()
    config = as_begun(config)
    check_encoder(RunDirectory.of(config))
    with holding(config) as run:
        depends = of_evaluation(config)
        if not force and is_up_to_date(run, depends):
            skipped("evaluate", run.results)
            return run.read_results()["heldout"]
        from mlm_pretrain.evaluation import masked_lm

        check_fill_mask(config)
        check_output(run, "tokenizer", run.tokenizer)
        with stage(run, "evaluate", depends.inputs):
            run.write_config(config, ["evaluation"])
            results = masked_lm.evaluate(config, run)
            run.record(results)
        write_cards(config)
    telemetry.show(masked_lm.format_figures(results["heldout"]))
    return results["heldout"]
