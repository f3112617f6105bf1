"""What trains: this machine, measured now, or a GPU by its data sheet."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass

import torch

from mlm_pretrain.config import OptimizerSection
from mlm_pretrain.errors import UserError, nearest
from mlm_pretrain.hardware.device import Precision, choose_precision, describe_device, fastest_matmul

DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# Dense 16-bit tensor-core FLOP/s with fp32 accumulation, bytes of memory, whether there is bf16. From NVIDIA's data
# sheets of the A100, H100, H200, L4, L40S, A10 and T4 (figures "with sparsity" halved); RTX 4090: the whitepaper of
# the Ada architecture.
GPUS: dict[str, tuple[float, float, bool]] = {
    "a10": (125e12, 24e9, True),
    "a100-40gb": (312e12, 40e9, True),
    "a100-80gb": (312e12, 80e9, True),
    "h100-pcie": (756e12, 80e9, True),
    "h100-sxm": (989e12, 80e9, True),
    "h200": (989e12, 141e9, True),
    "l4": (121e12, 24e9, True),
    "l40s": (362e12, 48e9, True),
    "rtx-4090": (165e12, 24e9, True),
    "t4": (65e12, 16e9, False),
}


@dataclass(frozen=True)
class Machine:
    """`count` devices of one kind."""

    name: str
    count: int
    kind: str
    """cpu or cuda."""
    precision: Precision
    rate: float
    """FLOP per second of one device's matrix products, in this precision."""
    rates: dict[str, float]
    """What was measured, by dtype; empty if nothing was."""
    origin: str
    memory: float
    """Bytes of one device."""

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.precision]


def data_sheet(settings: OptimizerSection, gpu: str, count: int) -> Machine:
    """GPUs by name, one of `GPUS`.

    Raises:
        UserError: the name isn't known, or there is no rate for the precision that the settings ask for.
    """
    if gpu not in GPUS:
        raise UserError(f"--gpu {gpu}: there are no figures of it{nearest(gpu, GPUS)}")
    rate, memory, has_bf16 = GPUS[gpu]
    precision: Precision = "fp16" if settings.fp16 else "bf16" if settings.bf16 and has_bf16 else "no"
    if precision == "no":
        key = "bf16" if has_bf16 else "fp16"
        raise UserError(f"--gpu {gpu}: there are figures for 16 bits only; set training.{key}=true to plan with them")
    return Machine(gpu, count, "cuda", precision, rate, {}, "data sheet, not measured", memory)


def this_machine(settings: OptimizerSection, count: int, precision: Precision | None = None) -> Machine:
    """This machine's first GPU, else its CPU.

    Args:
        count: of such devices.
        precision: what an earlier part of the run has chosen; by default what the settings give.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = precision or choose_precision(settings, device)
    if precision == "fp16" and device.type == "cpu":
        precision = "no"  # as a run does that goes on there
    dtypes = dict.fromkeys((torch.float32, torch.bfloat16, DTYPES[precision]))
    rates = {str(dtype).removeprefix("torch."): measured_once(dtype, device) for dtype in dtypes}
    rate = rates[str(DTYPES[precision]).removeprefix("torch.")]
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
    else:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(describe_device(device), count, device.type, precision, rate, rates, "measured now", float(memory))


@functools.cache
def measured_once(dtype: torch.dtype, device: torch.device) -> float:
    return fastest_matmul(dtype, device)
