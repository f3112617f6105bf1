"""`encoder: lora`: low-rank adapters in the encoder's layers (Hu et al., arXiv 2106.09685), by PEFT."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from mlm_pretrain.config import EncoderOrigin, TaskConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.models.low_rank import old_name_is_known, peft_library
from mlm_pretrain.tasks.fit.tuning.adaptation import Adaptation


class LowRank(Adaptation):
    """The adapters, the head and a pooler are trained.

    With `lora.merge: true` the finished folder is that of a plain model. Else it is an adapter for PEFT:

        adapter_config.json, adapter_model.safetensors   the adapters and the head
        config.json                                      of the whole model: labels, and what the task notes there

    An adapter doesn't hold the encoder; `base_model_name_or_path` names it: a Hub repository by its id, a folder as
    seen from where the command runs, or by its last name alone where it lies elsewhere. To load it:

        config = AutoConfig.from_pretrained(folder)
        encoder = AutoModelForSequenceClassification.from_pretrained(path_of_the_encoder, config=config)
        model = PeftModel.from_pretrained(encoder, folder)
    """

    def __init__(self, model: PreTrainedModel, task: TaskConfig, origin: EncoderOrigin) -> None:
        """
        Raises:
            UserError: PEFT is missing, or `lora.target_modules` names nothing in the encoder.
        """
        peft = peft_library()
        super().__init__(model)
        self._merge = task.lora.merge
        config = peft.LoraConfig(
            **task.lora.model_dump(exclude={"merge"}),
            modules_to_save=_heads(model),  # `all-linear` passes these over
        )
        try:
            with old_name_is_known():
                # Puts the adapters into `model` itself.
                self._wrapper: Any = peft.get_peft_model(model, config)
        except ValueError:
            modules = model.base_model.named_modules()
            linear = {name.split(".")[-1] for name, module in modules if isinstance(module, nn.Linear)}
            raise UserError(
                f"task '{task.name}': lora.target_modules: {task.lora.target_modules} are no layers of a "
                f"{type(model).__name__} that can be adapted; there are {', '.join(sorted(linear))}, or all-linear"
            ) from None
        # PEFT has noted where the weights lie on this machine.
        config.base_model_name_or_path, config.revision = _portable(origin.path), origin.revision

    def finish(self) -> PreTrainedModel:
        """A copy with the adapters merged into the encoder's weights: W + lora_alpha/r · B A."""
        merged: PreTrainedModel = copy.deepcopy(self._wrapper).merge_and_unload()
        return merged

    def save(self, folder: Path) -> None:
        if self._merge:
            super().save(folder)
            return
        # The embeddings are the encoder's; to find that out, PEFT would ask the Hub.
        self._wrapper.save_pretrained(folder, save_embedding_layers=False)
        (folder / "README.md").unlink()  # a form with nothing filled in but the path of the encoder
        config = copy.deepcopy(self.model.config)
        config.architectures = [type(self.model).__name__]
        config.save_pretrained(folder)


def _heads(model: PreTrainedModel) -> list[str]:
    """The modules that are trained whole: all beside the encoder, and its pooler, which masked language modelling
    doesn't train."""
    heads = [name for name, child in model.named_children() if name != model.base_model_prefix]
    poolers = [name for name, _ in model.base_model.named_children() if "pooler" in name]
    with_weights = (*heads, *(f"{model.base_model_prefix}.{name}" for name in poolers))
    return [name for name in with_weights if any(True for _ in model.get_submodule(name).parameters())]


def _portable(path: str) -> str:
    """How a published folder names the encoder: a Hub id as it is, a local folder without the way to it."""
    folder = Path(path)
    if not folder.is_absolute():
        return path
    here = Path.cwd()
    return str(folder.relative_to(here)) if folder.is_relative_to(here) else folder.name
