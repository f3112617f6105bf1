"""The trackers of `training.report_to`, through Accelerate: what they are told at the start, and how they go on.

They get the numbers of `metrics.jsonl` under the same names and steps, and the config as hyperparameters, as it may be
published.
"""

from __future__ import annotations

import contextlib
import math
import os
from io import StringIO
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from mlm_pretrain.config import Config, dotted
from mlm_pretrain.config.public import public_config
from mlm_pretrain.console import telemetry
from mlm_pretrain.run import RunDirectory

PROJECT = "mlm_pretrain"
TRACKIO_PLACES = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")
"""Where a user has set one of these, Trackio sends what it is told there."""


def hyperparameters(config: Config) -> dict[str, Any]:
    """The config by dotted keys, as trackers take it: numbers, words and truth values; nothing that isn't set."""
    public, _ = public_config(config.model_dump(mode="json", exclude_none=True))
    return {key: value if isinstance(value, int | float | str) else str(value) for key, value in dotted(public).items()}


def numbers(record: dict[str, Any]) -> dict[str, float]:
    """What of a record trackers get: all but its place and what is no finite number, as the counts by source."""
    return {
        name: value
        for name, value in record.items()
        if isinstance(value, int | float) and math.isfinite(value) and name not in ("step", "time")
    }


def start(accelerator: Accelerator, config: Config, run: RunDirectory, step: int) -> None:
    """Open the trackers of a run.

    A run that is taken up goes on in the same records, and what they hold of steps that are done again is replaced:
    TensorBoard passes over it, Trackio's run is made anew from `metrics.jsonl`. Both write into the run directory
    (Trackio where `TRACKIO_DIR` says otherwise, there). What others do (Weights & Biases, MLflow) is left to them.

    Args:
        step: how far the run is; `metrics.jsonl` holds nothing behind it.
    """
    if not accelerator.log_with:
        return
    told = hyperparameters(config)
    trackio = {"name": config.run.name, "config": told, "embed": False, "auto_log_cpu": False}
    trackio["resume"] = "allow" if step else "never"
    options = {"tensorboard": {"purge_step": step + 1} if step else {}, "trackio": trackio}
    with contextlib.redirect_stdout(StringIO()):  # which is for results
        if "trackio" in config.training.report_to and telemetry.is_rank_zero():
            _prepare_trackio(config.run.name, run.trackers / "trackio", is_new=not step)
        accelerator.init_trackers(PROJECT, init_kwargs=options)
    for tracker in accelerator.trackers:
        if tracker.name == "trackio":
            records = telemetry.MetricsLog(run.metrics).read() if step and _is_local() else []
            for record in records:
                tracker.log(numbers(record), step=record["step"])
        elif not step:
            tracker.store_init_configuration(told)


def finish(accelerator: Accelerator) -> None:
    """Close the trackers; what they still hold is written."""
    with contextlib.redirect_stdout(StringIO()):
        for tracker in accelerator.trackers:
            if tracker.name != "trackio":
                tracker.finish()
            elif telemetry.is_rank_zero():
                import trackio

                trackio.finish()  # the tracker's own lets Trackio finish once more, and speak, as Python ends


def _prepare_trackio(name: str, folder: Path, is_new: bool) -> None:
    """Let Trackio write into a folder, unless `TRACKIO_DIR` names another, and forget what it has of this run."""
    if not _is_local():
        return
    # Read when Trackio is imported: a second run of a process goes where the first one went.
    os.environ.setdefault("TRACKIO_DIR", str(folder.absolute()))
    import trackio

    place = trackio.utils.TRACKIO_DIR
    place.mkdir(parents=True, exist_ok=True)
    # In a folder that runs share, a new one is beside those of its name, not in their place.
    if place == folder.absolute() or not is_new:
        with contextlib.suppress(ValueError):  # there is no such project yet
            for old in trackio.Api().runs(PROJECT):
                if old.name == name:
                    old.delete()
    telemetry.say(f"trackio: to look on, TRACKIO_DIR={place} trackio show --project {PROJECT}")


def _is_local() -> bool:
    return not any(os.environ.get(name) for name in TRACKIO_PLACES)
