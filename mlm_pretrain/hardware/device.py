"""The device of a run and the numeric choices made for it."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs

from mlm_pretrain import __version__
from mlm_pretrain.config import OptimizerSection
from mlm_pretrain.console import telemetry
from mlm_pretrain.errors import UserError
from mlm_pretrain.io.remembered import recall, remember

Precision = Literal["no", "bf16", "fp16"]

# (m, k, n) of the products A[m, k] · B[k, n] that are tried: squares, and typical ones of a step.
PRODUCTS = {
    "cpu": [*((size, size, size) for size in (512, 1024, 2048)), (4096, 384, 2048), (4096, 768, 3072)],
    "cuda": [*((size, size, size) for size in (2048, 4096, 8192)), (32768, 768, 3072), (16384, 1024, 4096)],
}

BESIDE_GPU = 4
"""Threads of a CPU operation in a process that trains on a GPU. What is left to the CPU there is so small that more
threads wait for each other, and for the loader's workers: with 16 a step took 311 ms, with 4 of them 212 (H100, a
12-layer model, 16 cores)."""


def make_accelerator(settings: OptimizerSection, precision: Precision | None = None, **kwargs: object) -> Accelerator:
    """An Accelerator that leaves accumulation and the division of losses to `training.loss`.

    Args:
        settings: `bf16` and `fp16` choose the precision where `precision` is None.
        precision: what an earlier part of the run has chosen.
        kwargs: handed on to `Accelerator`.
    """
    chosen = precision or settle_precision(settings)
    if chosen == "fp16" and _plain_accelerator().device.type == "cpu":
        telemetry.warn("this run was begun in fp16, which a CPU has not; it goes on in fp32 here")
        chosen = "no"
    # The model's buffers are constants: no process has to be told of them.
    kwargs.setdefault("kwargs_handlers", [DistributedDataParallelKwargs(broadcast_buffers=False)])
    # One process makes several (pretraining, then tasks), and Accelerate remembers the first one's precision.
    AcceleratorState._reset_state(reset_partial_state=False)
    accelerator = Accelerator(mixed_precision=chosen, gradient_accumulation_steps=1, **kwargs)
    if accelerator.device.type == "cuda" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(BESIDE_GPU, torch.get_num_threads()))
    return accelerator


def settle_precision(settings: OptimizerSection, precision: Precision | None = None) -> Precision:
    """What was chosen before, or else what the settings give on this device.

    Raises:
        UserError: fp16 was asked for on a CPU.
    """
    return precision or choose_precision(settings, _plain_accelerator().device)


def _plain_accelerator() -> Accelerator:
    AcceleratorState._reset_state(reset_partial_state=False)
    return Accelerator()


def choose_precision(settings: OptimizerSection, device: torch.device) -> Precision:
    """Settle `bf16: auto`: bf16 autocast if its matrix products are clearly faster, as measured here now or before.

    Raises:
        UserError: fp16 was asked for on a CPU.
    """
    if settings.fp16:
        if device.type == "cpu":
            raise UserError("training.fp16: needs a GPU; on a CPU use bf16: auto")
        return "fp16"
    if settings.bf16 != "auto":
        return "bf16" if settings.bf16 else "no"
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    return "bf16" if _bf16_is_faster(device) else "no"


def _bf16_is_faster(device: torch.device) -> bool:
    """Measured once on a machine, so that its runs are of one precision however busy it is."""
    here = machine(device)
    known = recall("precision", here).get("bf16_is_faster")
    if isinstance(known, bool):
        return known
    # Autocast costs casts of its own, so a small gain of the product alone is none of the step.
    faster = matmul_flops(torch.bfloat16, device) > 1.5 * matmul_flops(torch.float32, device)
    remember("precision", here, {"bf16_is_faster": faster})
    return faster


def matmul_flops(dtype: torch.dtype, device: torch.device, size: int = 1024, repeats: int = 6) -> float:
    """FLOP per second of a square matrix product, measured now; the fastest of several repeats."""
    left = torch.randn(size, size, device=device).to(dtype)
    best = float("inf")
    for _ in range(repeats):
        _wait(device)
        started = time.perf_counter()
        left @ left
        _wait(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def fastest_matmul(dtype: torch.dtype, device: torch.device, repeats: int = 4) -> float:
    """FLOP per second of the fastest of some matrix products, square ones and those of encoders, measured now.

    The denominator of model FLOPs utilisation: what this device does at best in this precision.
    """
    best = 0.0
    for m, k, n in PRODUCTS["cuda" if device.type == "cuda" else "cpu"]:
        left = torch.randn(m, k, device=device).to(dtype)
        right = torch.randn(k, n, device=device).to(dtype)
        for _ in range(repeats):
            _wait(device)
            started = time.perf_counter()
            left @ right
            _wait(device)
            best = max(best, 2 * m * k * n / (time.perf_counter() - started))
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def describe_device(device: torch.device) -> str:
    """The device in words, for records and cards."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"


def machine(device: torch.device) -> dict[str, Any]:
    """What times depend on besides what is timed: device, driver, cores and versions; plain data."""
    here: dict[str, Any] = {
        "device": describe_device(device),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "mlm_pretrain": __version__,
    }
    if device.type == "cuda":
        with contextlib.suppress(OSError):
            here["driver"] = Path("/sys/module/nvidia/version").read_text(encoding="ascii").strip()
    return here


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
