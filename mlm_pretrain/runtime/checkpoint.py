"""Checkpoints that are whole or not there, and hold nothing that needs unpickling.

    checkpoints/step-00001200/
        config.json, model.safetensors, tokenizer…   loads with plain `from_pretrained`
        optimizer.safetensors, random.safetensors    tensors of the optimizer, and of each process's random generators
        trainer_state.json                           everything else: counters, stream, numeric choices, config
        manifest.json                                size and SHA-256 of every file above; written last

A checkpoint is written beside its place under a hidden name, every file and the folder are fsynced, and it is renamed
in one step; older ones are removed only then.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mlm_pretrain.console import telemetry
from mlm_pretrain.errors import UserError
from mlm_pretrain.io.digests import find_fault
from mlm_pretrain.io.whole import write_folder
from mlm_pretrain.run import checkpoints_in

TRAINER_STATE = "trainer_state.json"
OPTIMIZER = "optimizer.safetensors"
RANDOM = "random.safetensors"


def save_checkpoint(
    target: Path,
    save_model: Callable[[Path], None],
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    random: dict[str, Tensor],
    keep: int | None,
) -> None:
    """Write a checkpoint, then remove the oldest ones beyond `keep` (None keeps all).

    Args:
        target: `checkpoints/step-…`.
        save_model: writes model and tokenizer into a folder.
        state: plain JSON data.
        random: the states of all processes' random generators, from `random_state` and `joined_random`.
    """

    def fill(folder: Path) -> None:
        save_model(folder)
        tensors, plain = _split_optimizer(optimizer)
        save_file(tensors, folder / OPTIMIZER)
        save_file(random, folder / RANDOM)
        text = json.dumps({**state, "optimizer": plain}, indent=1, allow_nan=False)
        (folder / TRAINER_STATE).write_text(text, encoding="utf-8")

    write_folder(target, fill, manifest=True)
    if keep is not None:
        # A damaged one may be of a later step than this: it is not what is kept.
        for old in [path for path in checkpoints_in(target.parent) if path.name <= target.name][:-keep]:
            shutil.rmtree(old)


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint; each newer one that is skipped is named with what is wrong with it."""
    for path in reversed(checkpoints_in(folder)):
        fault = find_fault(path)
        if fault is None:
            return path
        telemetry.warn(f"{path}: skipped: {fault}")
    return None


def recorded_identity(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint that tells what run it is of, and what it tells; reads no more of it than that."""
    for path in reversed(checkpoints_in(folder)):
        if find_fault(path, [TRAINER_STATE]) is None:
            return path, read_state(path)["identity"]
    return None


def remove_leftovers(folder: Path) -> None:
    """Remove what killed saves have left beside the checkpoints."""
    for path in folder.glob(".step-*"):
        if re.fullmatch(r"\.step-\d{8,}\.(tmp|old)", path.name) and path.is_dir():
            shutil.rmtree(path)


def read_state(checkpoint: Path) -> dict[str, Any]:
    return json.loads((checkpoint / TRAINER_STATE).read_text(encoding="utf-8"))


def restore_optimizer(checkpoint: Path, optimizer: torch.optim.Optimizer, plain: dict[str, Any]) -> None:
    """Give an optimizer the state of a checkpoint; its settings (rates, betas) stay its own.

    Raises:
        UserError: the checkpoint is of other parameters.
    """
    whole = optimizer.state_dict()
    state: dict[int, dict[str, Any]] = {}
    for key, tensor in load_file(checkpoint / OPTIMIZER).items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = tensor
    for key, value in plain.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value
    parameters = [number for group in whole["param_groups"] for number in group["params"]]
    if state and sorted(state) != sorted(parameters):
        raise UserError(f"{checkpoint}: its optimizer has {len(state)} parameters, the model {len(parameters)}")
    optimizer.load_state_dict({**whole, "state": state})


def random_state() -> dict[str, str]:
    """The states of this process's random generators, as JSON data: in base 64, by kind."""
    states = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return {kind: base64.b64encode(state.numpy().tobytes()).decode() for kind, state in states.items()}


def joined_random(states: Sequence[dict[str, str]]) -> dict[str, Tensor]:
    """The random states of all processes, by `<kind>.<rank>`."""
    return {
        f"{kind}.{rank}": torch.frombuffer(bytearray(base64.b64decode(state)), dtype=torch.uint8)
        for rank, part in enumerate(states)
        for kind, state in part.items()
    }


def restore_random(checkpoint: Path, rank: int) -> None:
    """Take this process's random generators up; they stay as they are where the run had fewer processes."""
    states = load_file(checkpoint / RANDOM)
    if f"torch.{rank}" in states:
        torch.set_rng_state(states[f"torch.{rank}"])
    if f"cuda.{rank}" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states[f"cuda.{rank}"])


def _split_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state of each parameter by `<number>.<name>`: tensors, and plain values."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for number, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"{number}.{name}"] = value.detach().cpu().contiguous()
            else:
                plain[f"{number}.{name}"] = value
    return tensors, plain
