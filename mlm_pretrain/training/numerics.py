"""The choices that the bits of a run depend on: made once, kept in the run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from mlm_pretrain import telemetry
from mlm_pretrain.config import Config
from mlm_pretrain.errors import UserError
from mlm_pretrain.models.packed_attention import describe_attention, supports_packing, use_document_attention
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.stream.batch_size import BatchSize
from mlm_pretrain.training import budget as budgets
from mlm_pretrain.training.device import Precision, describe_device, make_accelerator, settle_precision
from mlm_pretrain.training.processes import Processes
from mlm_pretrain.training.resume import Progress
from mlm_pretrain.training.short_rows import row_lengths
from mlm_pretrain.training.tuning import (
    Pass,
    Probe,
    compile_layers,
    fastest_attention,
    fastest_rows,
    is_worth_compiling,
)


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
) -> Numerics:
    """The numeric choices completed by how a step is made: attention, rows per forward pass, compiled layers.

    Args:
        attentions: what the model may use, where that is open.
        chosen: what `settle_numerics` has given.
        old: those that the run was begun with; they are kept where they can be, and what differs here is said.
        progress: how far the run is.
    """
    settings = config.training
    batch_size = BatchSize(settings.global_batch_size)

    def share_of(size: int) -> int:
        return -(-size // processes.world_size)

    share = share_of(batch_size.values[-1])
    rows = settings.per_device_train_batch_size or (old.micro_batch if old else 0)
    compiled = old.compiled if old else settings.torch_compile is True
    attention = chosen.attention

    def passes(rows: int) -> list[Pass]:
        """Those that are to come, ascending; what is left over of a step runs uncompiled."""
        lengths = row_lengths(config)
        steps = {max(begin, progress.step) for begin in (*batch_size.begins, *lengths.begins)}
        return sorted({(min(rows, share_of(batch_size.at(step))), lengths.at(step)) for step in steps})

    if processes.rank == 0:  # so that all have the same
        attention = fastest_attention(probe, attentions, share)
        rows = min(rows, share) if rows else fastest_rows(probe, share)
        if not old and settings.torch_compile == "auto":
            per_step = probe.seconds(rows) * share / rows
            step_tokens = batch_size.last * config.stream.sequence_length
            left = budgets.seconds_left(settings.budget, progress, per_step, step_tokens)
            compiled = is_worth_compiling(probe, passes(rows), left)
        elif compiled:
            compiled = compile_layers(probe, passes(rows))
    attention, rows, compiled = processes.broadcast((attention, rows, compiled))
    if processes.rank:
        probe.model.set_attn_implementation(attention)
        compiled = compiled and compile_layers(probe, passes(rows))
    telemetry.say(f"attention: {describe_attention(probe.model, probe.device, chosen.packing)}")
    settled = replace(chosen, attention=attention, micro_batch=rows, compiled=compiled)
    if old:
        warn_of_changes(old, settled)
    return settled


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
