"""What `run` looks at before its work, alone: what is wrong with a config, and which stages have to run."""

from __future__ import annotations

from mlm_pretrain.config import Config
from mlm_pretrain.config_file import as_begun
from mlm_pretrain.errors import UserError
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.runtime.processes import leave_to_rank_zero
from mlm_pretrain.stages.common import check_output, why_not
from mlm_pretrain.stages.early import look_ahead
from mlm_pretrain.stages.inputs import Dependence, table


def check(config: Config) -> str:
    """Look at everything that a run will need, and at what of it is there; nothing is written.

    Returns:
        A line a stage: its name, whether it is up to date or why not, and its output.

    Raises:
        UserError: what is wrong, each fault a line.
    """
    leave_to_rank_zero()
    config = as_begun(config)
    look_ahead(config, config.tasks)
    run = RunDirectory.of(config)
    rows = [(depends.stage, _state(run, depends), str(depends.output)) for depends in table(config)]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(f"{stage:<{widths[0]}}  {state:<{widths[1]}}  {output}" for stage, state, output in rows)


def _state(run: RunDirectory, depends: Dependence) -> str:
    if reason := why_not(run, depends):
        return f"to do: {reason}"
    try:
        check_output(run, depends.stage, depends.output)
    except UserError as error:
        return f"damaged: {error}"
    return "up to date"
