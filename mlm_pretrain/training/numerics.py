"""The choices that the bits of a run depend on: made once, kept in the run."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from mlm_pretrain.config import Config, fingerprint
from mlm_pretrain.config.batch_size import BatchSize
from mlm_pretrain.console import telemetry
from mlm_pretrain.errors import UserError
from mlm_pretrain.hardware.device import Precision, describe_device, machine, make_accelerator, settle_precision
from mlm_pretrain.models.attention.packed import describe_attention, supports_packing, use_document_attention
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.runtime.processes import Processes
from mlm_pretrain.training import budget as budgets
from mlm_pretrain.training.resume import Progress
from mlm_pretrain.training.short_rows import row_lengths
from mlm_pretrain.training.tuning.compiling import compile_layers
from mlm_pretrain.training.tuning.measured import TRIALS, Open, Tuning
from mlm_pretrain.training.tuning.probe import Pass, Probe
from mlm_pretrain.training.tuning.search import Tuner


@dataclass
class Numerics:
    """What a checkpoint records of them."""

    precision: Precision
    packing: bool
    attention: str
    device: str
    threads: int
    processes: int
    micro_batch: int = 0
    """Rows per forward pass; 0 is not settled yet."""
    compiled: bool = False
    """Whether the encoder's layers are."""
    torch: str = field(default_factory=lambda: str(torch.__version__))


def settle_numerics(
    config: Config, run: RunDirectory, model: PreTrainedModel, old: Numerics | None, processes: Processes
) -> tuple[Numerics, Accelerator]:
    """The numeric choices of a run but for those of `settle_step`, and the Accelerator that follows them.

    Args:
        old: those that the run was begun with; they are kept where they can be.

    Raises:
        UserError: a tracker isn't known or installed, or a precision can't be had.
    """
    settings = config.training
    logging: dict[str, Any] = {"log_with": settings.report_to or None, "project_dir": run.trackers}
    try:
        # Measured by one process, so that all take the same.
        precision = settle_precision(settings, old.precision if old else None) if processes.rank == 0 else None
        accelerator = make_accelerator(settings, processes.broadcast(precision), **logging)
    except UserError:
        raise
    except (ValueError, ImportError) as error:
        raise UserError(f"training.report_to: {error}") from None
    # Accelerate passes over those that it knows and doesn't find.
    found = {str(tracker) for tracker in accelerator.log_with}
    if missing := sorted({*settings.report_to} - {"all", *found}):
        raise UserError(
            f"training.report_to: not installed here: {', '.join(missing)}; pip install {' '.join(missing)}"
        )
    assert accelerator.num_processes == processes.world_size
    device = accelerator.device
    packing = old.packing if old else supports_packing(model)
    if settings.sequence_length_warmup and not packing:
        raise UserError(
            f"training.sequence_length_warmup: {model.config.model_type} takes no packed rows, and pieces of a row "
            "with one document would be padding; leave it out"
        )
    if packing and not old and not config.model.attn_implementation:
        half = accelerator.mixed_precision != "no"
        use_document_attention(model.to(device), device, config.stream.sequence_length, half)
    new = Numerics(
        precision=accelerator.mixed_precision,
        packing=packing,
        attention=model.config._attn_implementation,
        device=describe_device(device),
        threads=torch.get_num_threads(),
        processes=processes.world_size,
    )
    return new, accelerator


def settle_step(
    config: Config,
    probe: Probe,
    attentions: Sequence[str],
    chosen: Numerics,
    old: Numerics | None,
    processes: Processes,
    progress: Progress,
) -> tuple[Numerics, dict[str, Any] | None]:
    """The numeric choices completed by how a step is made: attention, rows per forward pass, compiled layers.

    Args:
        attentions: what the model may use, if that is open.
        chosen: what `settle_numerics` has given.
        old: those that the run was begun with; they are kept where they can be, and a line says what differs here.
        progress: how far the run is.

    Returns:
        The choices, and what was tried for them (`Tuning.record`); None for a run that is resumed.
    """
    asked = _asked(config, attentions, old, processes.world_size, progress)
    tuning = Tuning()
    if processes.rank == 0:  # so that all have the same
        if old:
            compiled = old.compiled and compile_layers(probe, asked.passes(asked.rows)) is not None
            tuning = Tuning(chosen.attention, asked.rows, compiled)
        else:
            tuning = Tuner(probe, asked, _what_times_depend_on(config, probe, chosen)).choose()
            compiled = tuning.compiled or config.training.torch_compile is True
            if compiled and not tuning.compiled:
                compiled = compile_layers(probe, asked.passes(tuning.rows)) is not None
            tuning.compiled = compiled
    attention, rows, compiled = processes.broadcast((tuning.attention, tuning.rows, tuning.compiled))
    if processes.rank:
        probe.model.set_attn_implementation(attention)
        compiled = compiled and compile_layers(probe, asked.passes(rows)) is not None
    telemetry.say(f"attention: {describe_attention(probe.model, probe.device, chosen.packing)}")
    settled = replace(chosen, attention=attention, micro_batch=rows, compiled=compiled)
    if old:
        warn_of_changes(old, settled)
        return settled, None
    if processes.rank == 0 and (line := tuning.describe()):
        telemetry.say(line)
    return settled, tuning.record()


def _asked(
    config: Config, attentions: Sequence[str], old: Numerics | None, world_size: int, progress: Progress
) -> Open:
    """What is open of a step; for a run that is resumed, how it was made before."""
    settings, length = config.training, config.stream.sequence_length
    batch_size, lengths = BatchSize(settings.global_batch_size), row_lengths(config)

    def share_of(size: int) -> int:
        return -(-size // world_size)

    def passes(rows: int) -> list[Pass]:
        """Those that are to come; what is left over of a step runs uncompiled."""
        steps = {max(begin, progress.step) for begin in (*batch_size.begins, *lengths.begins)}
        return sorted({(min(rows, share_of(batch_size.at(step))), lengths.at(step)) for step in steps})

    def seconds_left(a_row: float) -> float:
        step_seconds = a_row * share_of(batch_size.last)
        return budgets.seconds_left(settings.budget, progress, step_seconds, batch_size.last * length)

    share = share_of(batch_size.values[-1])
    rows = settings.per_device_train_batch_size or (old.micro_batch if old else 0)
    return Open(
        attentions=attentions,
        rows=min(rows, share),
        share=share,
        may_compile=settings.torch_compile == "auto",
        passes=passes,
        seconds_left=seconds_left,
        rows_left=None if settings.budget.minutes else seconds_left(1.0),
    )


def _what_times_depend_on(config: Config, probe: Probe, chosen: Numerics) -> dict[str, Any]:
    """The machine, and the shape of a pass; plain data."""
    # Their names for themselves change no time, nor do what labels are called.
    named = {"transformers_version", "architectures", "id2label", "label2id"}
    architecture = probe.model.config.to_dict().items()
    shape = {key: value for key, value in architecture if key not in named and not key.startswith("_")}
    return {
        "trials": TRIALS,
        "machine": machine(probe.device),
        "processes": chosen.processes,
        "model": type(probe.model).__name__,
        "config": fingerprint(json.loads(json.dumps(shape, default=str))),
        "vocabulary": probe.model.get_input_embeddings().num_embeddings,
        "attn_implementation": chosen.attention,
        "precision": chosen.precision,
        "packing": chosen.packing,
        "sequence_length": config.stream.sequence_length,
        "sequence_length_warmup": config.training.sequence_length_warmup,
        "global_batch_size": config.training.global_batch_size,
        "per_device_train_batch_size": config.training.per_device_train_batch_size,
        "gradient_checkpointing": config.training.gradient_checkpointing,
        "objective": fingerprint(config.objective),
    }


def default_workers(device: torch.device, lanes: int, world_size: int) -> int:
    """Loader workers of a process where the config leaves it open.

    On a CPU the model needs every core; beside a GPU, tokenising has the cores that the training processes leave. As
    the worker with most lanes is waited for, there are no more of them than that takes.
    """
    if device.type == "cpu":
        return 0
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    mine = -(-lanes // world_size)
    most = max(min(len(os.sched_getaffinity(0)) // beside - 1, mine), 1)
    return -(-mine // -(-mine // most))


def seed_process(seed: int, rank: int, step: int) -> None:
    """Seed what dropout draws from: differently on each process, since each has other rows."""
    torch.manual_seed(int(np.random.SeedSequence([seed, rank, step]).generate_state(1, np.uint64)[0]))


def warn_of_changes(old: Numerics, new: Numerics) -> None:
    """Say which numeric choices of the run don't hold here; weights will then differ in their last bits."""
    now = asdict(new)
    for key, value in asdict(old).items():
        if value != now[key]:
            telemetry.warn(f"this run was begun with {key} {value}, and goes on with {now[key]}: bits will differ")
