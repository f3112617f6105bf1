"""The stages as plain functions: each reads its inputs from the run directory and leaves its outputs there.

A stage is up to date, and skipped, if its inputs have not changed and its output and results are there; `force=True`
runs it all the same. Each holds the run from its first look to its last word.

Pretraining uses all processes that a launcher has started. Whatever else is to be done, rank zero does alone: the
others wait for it before pretraining, and exit behind it.
"""

from __future__ import annotations

from mlm_pretrain.config import Config
from mlm_pretrain.config_file import as_begun
from mlm_pretrain.console import bars, spent, telemetry
from mlm_pretrain.console.outlook import looking_ahead
from mlm_pretrain.errors import Faults, UserError
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.runtime.processes import Processes, start
from mlm_pretrain.stages.check import check
from mlm_pretrain.stages.common import holding, is_up_to_date
from mlm_pretrain.stages.early import look_ahead
from mlm_pretrain.stages.expected import expected_seconds, note_seconds
from mlm_pretrain.stages.inputs import of_pretraining
from mlm_pretrain.stages.pretraining import evaluate, pretrain, pretrain_on
from mlm_pretrain.stages.publishing import push, report, write_cards
from mlm_pretrain.stages.tasks import finetune
from mlm_pretrain.stages.text import prepare, train_tokenizer, train_tokenizer_alone

__all__ = [
    "check",
    "evaluate",
    "finetune",
    "prepare",
    "pretrain",
    "push",
    "report",
    "run_all",
    "train_tokenizer",
    "write_cards",
]


def run_all(config: Config, began: float | None = None) -> RunDirectory:
    """Every stage in order; those that are up to date are skipped.

    Args:
        began: when the command began, by `time.monotonic`; by default now.

    Raises:
        UserError: as the stages do.
    """
    config = as_begun(config)
    processes = start(config)
    telemetry.say(f"run {config.run.name}: {RunDirectory.of(config).root}")
    if processes.rank:
        return _run_all(config, processes)
    run = RunDirectory.of(config)
    is_new = not run.checkpoints.exists()
    with holding(config), spent.counting(began) as beside, looking_ahead(expected_seconds(config)) as outlook:
        _run_all(config, processes)
        for stage, seconds in outlook.took.items():
            if stage != "pretrain" or is_new:
                note_seconds(config, stage, seconds)
        run.record_beside(beside.seconds)
    return run


def _look_ahead(config: Config) -> None:
    """Before hours of pretraining: refuse what would fail after them."""
    faults, run = Faults(), RunDirectory.of(config)
    with faults.noted():
        if is_up_to_date(run, of_pretraining(config)):
            return
    with faults.noted():
        look_ahead(config, config.tasks)
    faults.raise_all()


def _run_all(config: Config, processes: Processes) -> RunDirectory:
    if processes.rank == 0:
        with spent.on("looking at what is to come"):
            _look_ahead(config)
        train_tokenizer_alone(config, force=False)
    pretrain_on(config, processes, force=False)
    if RunDirectory.of(config).validation.stat().st_size:
        evaluate(config)
    else:
        telemetry.warn("evaluate: skipped, no text is held out; a larger text.validation_fraction holds some out")
    if config.tasks:
        finetune(config)
    run = RunDirectory.of(config)
    try:
        with bars.doing("writing the report"):
            report([run.root])
    except UserError as error:  # the run stands all the same
        telemetry.warn(str(error))
    return run
