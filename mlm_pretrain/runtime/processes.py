"""What the processes of a run agree on: small sums and JSON over a CPU group, so that a GPU is never waited for.

Rank zero holds the run: it alone locks it, writes files and speaks. With one process everything here is the identity.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mlm_pretrain.config import Config
from mlm_pretrain.config.batch_size import BatchSize
from mlm_pretrain.console import telemetry
from mlm_pretrain.errors import UserError, first_line

if TYPE_CHECKING:
    from torch import Tensor

# Rank zero may train a tokenizer while the others wait.
PATIENCE = datetime.timedelta(days=30)
# For rank zero to have the last word after an error that all processes share; a launcher ends it with the first.
LAST_WORD = datetime.timedelta(seconds=5)
LOST = "another process of this run has ended, so all do; repeat the command to go on from the newest checkpoint"
# How gloo, NCCL and the store word a connection that is gone.
SIGNS_OF_LOSS = ("closed by peer", "reset by peer", "Broken pipe", "gloo/transport", "ncclRemoteError")
LAUNCHED_BY = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


class Processes:
    """The processes of a run, as one of them sees them; by default it is the only one.

    Every method is called by all of them, in the same order.

    Raises:
        UserError: another process has died.
    """

    def __init__(self, rank: int = 0, world_size: int = 1, group: Any = None) -> None:
        self.rank = rank
        self.world_size = world_size
        self._group = group

    def sum(self, values: Sequence[float]) -> list[float]:
        """The sums over all processes, in float64; exact for whole numbers below 2⁵³."""
        if self.world_size == 1:
            return [float(value) for value in values]
        import torch

        total = torch.tensor(values, dtype=torch.float64)
        with self.guarded():
            torch.distributed.all_reduce(total, group=self._group)
        return total.tolist()

    def gather(self, data: Any) -> list[Any]:
        """What each process gave, by rank; JSON data."""
        if self.world_size == 1:
            return [data]
        import torch

        mine = _as_bytes(data)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world_size)]
        with self.guarded():
            torch.distributed.all_gather(sizes, torch.tensor([len(mine)]), group=self._group)
            # All parts have to be of one size.
            padded = torch.zeros(int(max(sizes)), dtype=torch.uint8)
            padded[: len(mine)] = mine
            parts = [torch.empty_like(padded) for _ in sizes]
            torch.distributed.all_gather(parts, padded, group=self._group)
        return [_from_bytes(part[: int(size)]) for part, size in zip(parts, sizes, strict=True)]

    def broadcast(self, data: Any = None) -> Any:
        """What rank zero gives, on every process; JSON data."""
        if self.world_size == 1:
            return data
        import torch

        given = _as_bytes(data if self.rank == 0 else None)
        size = torch.tensor([len(given)])
        with self.guarded():
            torch.distributed.broadcast(size, 0, group=self._group)
            message = given if self.rank == 0 else torch.empty(int(size), dtype=torch.uint8)
            torch.distributed.broadcast(message, 0, group=self._group)
        return data if self.rank == 0 else _from_bytes(message)

    def wait(self) -> None:
        """Return when all processes are here, however long that takes."""
        if self.world_size > 1:
            import torch

            with self.guarded():
                torch.distributed.barrier(group=self._group)

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Tell the death of another process, wherever a collective of any library notices it, in one line."""
        try:
            yield
        except RuntimeError as error:
            if self.world_size > 1 and any(sign in str(error) for sign in SIGNS_OF_LOSS):
                raise UserError(f"{LOST} ({first_line(error)[:120]})") from None
            raise

    def go_on_alone(self) -> None:
        """Make rank zero a run of one process; the others exit here, with code 0."""
        if self.world_size > 1:
            import torch
            from accelerate.state import AcceleratorState, GradientState

            # One that is through may be gone before the others know that it was here.
            with contextlib.suppress(UserError):
                self.wait()
            torch.distributed.destroy_process_group()
            AcceleratorState._reset_state(reset_partial_state=True)
            GradientState._reset_state()
            leave_to_rank_zero()
            self.rank, self.world_size, self._group = 0, 1, None


def start(config: Config) -> Processes:
    """The processes that a launcher (`accelerate launch`, `torchrun`) has started for this run.

    Raises:
        UserError: they are too many for the run, or can't find each other.
    """
    world_size = telemetry.world_size()
    if world_size == 1:
        return Processes()
    for key, parts in (
        ("stream.lanes", config.stream.lanes),
        ("training.global_batch_size", BatchSize(config.training.global_batch_size).values[0]),
    ):
        if parts < world_size:
            raise UserError(f"{key}: {parts} is less than the number of processes, {world_size}; each needs one")
    if config.stream.lanes % world_size:
        telemetry.warn(
            f"stream.lanes: {config.stream.lanes} is no multiple of the number of processes, {world_size}: "
            "some have more rows of a step than others, which wait for them"
        )
    import torch
    from accelerate.state import PartialState

    here, devices = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
    if torch.cuda.is_available() and here > devices:
        raise UserError(f"{here} processes on a machine with {devices} GPU: start one for each GPU, or with --cpu")
    try:
        # Without a GPU, Accelerate sees several processes only where it is told that the CPU is wanted.
        PartialState(cpu=not torch.accelerator.is_available())
        group = torch.distributed.new_group(backend="gloo", timeout=PATIENCE)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"WORLD_SIZE is {world_size}, but its processes can't find each other ({first_line(error)[:200]}); start "
            "them with accelerate launch or torchrun, or unset WORLD_SIZE"
        ) from None
    return Processes(torch.distributed.get_rank(), torch.distributed.get_world_size(), group)


def leave_to_rank_zero() -> None:
    """For what one process does: the others exit with code 0, and rank zero goes on as if it were started alone."""
    if not telemetry.is_rank_zero():
        raise SystemExit(0)
    for name in LAUNCHED_BY:
        os.environ.pop(name, None)


def is_first_to_speak() -> bool:
    """Whether this process is the one to tell of the error that ends the run: the first that asks."""
    with contextlib.suppress(RuntimeError):  # the store may have ended with the process that held it
        store = _store()
        return store.add("mlm_pretrain/error", 1) == 1 if store else telemetry.is_rank_zero()
    return True


def leave_last_word_to_rank_zero() -> None:
    """Let rank zero end before the others, if it is about to: where one has ended in an error, launchers end all."""
    with contextlib.suppress(RuntimeError):
        store = _store()
        if store and telemetry.is_rank_zero():
            store.set("mlm_pretrain/ended", "")
        elif store:
            store.wait(["mlm_pretrain/ended"], LAST_WORD)


def _store() -> Any:
    """What the launcher's processes share; None if there is but one."""
    if telemetry.world_size() == 1:
        return None
    import torch

    return torch.distributed.distributed_c10d._get_default_store() if torch.distributed.is_initialized() else None


def _as_bytes(data: Any) -> Tensor:
    import torch

    return torch.frombuffer(bytearray(json.dumps(data).encode()), dtype=torch.uint8)


def _from_bytes(tensor: Tensor) -> Any:
    return json.loads(tensor.numpy().tobytes())
