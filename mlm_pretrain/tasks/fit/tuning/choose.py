"""How the encoder is used: trained whole, through low-rank adapters (`lora`), or frozen (`frozen`)."""

from __future__ import annotations

from pathlib import Path

from accelerate import Accelerator
from transformers import PreTrainedModel

from mlm_pretrain.config import EncoderOrigin, TaskConfig
from mlm_pretrain.tasks.adapter import TaskAdapter
from mlm_pretrain.tasks.fit.tuning.adaptation import Adaptation, States


def adapt(
    model: PreTrainedModel,
    adapter: TaskAdapter,
    task: TaskConfig,
    accelerator: Accelerator,
    origin: EncoderOrigin,
    folder: Path,
    states: States | None = None,
) -> Adaptation:
    """Make a model trainable as `task.encoder` says.

    Args:
        model: with the head of the task, in float32, on the device of `accelerator`.
        origin: where the encoder's weights are from; an adapter's folder names it.
        folder: frozen: for features that are too large for the memory.
        states: frozen: the features of this encoder, kept from run to run; what is lacking is added.

    Raises:
        UserError: PEFT is missing or finds no module of `lora.target_modules`; or the encoder can't be frozen.
    """
    if task.encoder == "lora":
        from mlm_pretrain.tasks.fit.tuning.lora import LowRank

        return LowRank(model, task, origin)
    if task.encoder == "frozen":
        from mlm_pretrain.tasks.fit.tuning.frozen import Frozen

        return Frozen(model, adapter, task, accelerator, folder, states)
    return Adaptation(model)
