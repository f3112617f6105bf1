"""`encoder: frozen`: the features of every text are computed once, and the head alone is trained on them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.tasks.adaptation import Adaptation
from mlm_pretrain.tasks.adapter import Feature, TaskAdapter
from mlm_pretrain.tasks.inference import CPU_TOKENS, by_length
from mlm_pretrain.tasks.linear import fast_linear
from mlm_pretrain.training.loss import Batch, to_device

IN_MEMORY = 2 * 1024**3
"""Bytes of features that are kept in memory; more go to a file that is mapped into it."""

States = dict[int, Any]
"""By the `id` of a feature: the feature itself (which so keeps its id), and its states, float32 [tokens, hidden]."""
Reduction = Callable[[Tensor, Tensor], Tensor]
"""Hidden states [rows, tokens, hidden] and the mask [rows, tokens] → [rows, 1, hidden]."""


def _first(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden[:, :1]


def _mean(hidden: Tensor, mask: Tensor) -> Tensor:
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True)


class Frozen(Adaptation):
    """The head, and a pooler inside the encoder, are trained on the encoder's last hidden states.

    While it trains, a stub that takes the states as `inputs_embeds` stands in the encoder's place, so that the heads
    of all architectures work as they are. Where a head looks at the first token alone, or at the mean over the tokens,
    one vector a text is kept: that is tried, not listed. `finish` puts the encoder back.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        adapter: TaskAdapter,
        task: TaskConfig,
        accelerator: Accelerator,
        folder: Path,
        states: States | None = None,
    ) -> None:
        """
        Args:
            folder: for states beyond `IN_MEMORY`, in a file without a name that is gone with the process.
            states: of this encoder, from earlier runs.

        Raises:
            UserError: the optimizer is Muon, and no matrix of the encoder is left to it.
        """
        super().__init__(model)
        self._adapter = adapter
        self._task = task
        self._accelerator = accelerator
        self._folder = folder
        self._states: States = {} if states is None else states
        self._encoder = model.base_model
        self._encoder.requires_grad_(False)
        self._stub = _Stub(self._encoder)
        self._stub.requires_grad_(True)
        self._put(self._stub)
        self._reduction = self._find_reduction()

    def rows(self, features: Sequence[Feature]) -> Sequence[Feature]:
        """The rows with `inputs_embeds`, float32 [tokens or 1, hidden], and a mask of that length.

        Raises:
            UserError: no room for the states, or the head needs more than them.
        """
        lacking = [feature for feature in features if id(feature) not in self._states]
        if lacking:
            self._put(self._encoder)
            try:
                self._compute(lacking)
            finally:
                self._put(self._stub)
        rows = []
        for feature in features:
            _, states = self._states[id(feature)]
            rows.append({**feature, "inputs_embeds": states, "attention_mask": [1] * len(states)})
        return rows

    def finish(self) -> PreTrainedModel:
        self._put(self._encoder)
        return self.model

    def _put(self, encoder: nn.Module) -> None:
        setattr(self.model, self.model.base_model_prefix, encoder)

    def _compute(self, features: Sequence[Feature]) -> None:
        """Run the encoder over the rows, without dropout."""
        self.model.eval()
        captured: list[Tensor] = []
        hook = self._encoder.register_forward_hook(lambda _module, _inputs, output: captured.append(output[0]))
        kept = [1 if self._reduction else len(feature["input_ids"]) for feature in features]
        ends = np.cumsum(kept)
        room = self._room(int(ends[-1]))
        device = self._accelerator.device
        limit = CPU_TOKENS if device.type == "cpu" else None
        try:
            for numbers in by_length(features, self._task.per_device_eval_batch_size, limit):
                batch = to_device(self._adapter.collate([features[number] for number in numbers]), device)
                with torch.inference_mode(), fast_linear(self._encoder), self._accelerator.autocast():
                    # Through the whole model, which knows what its encoder takes.
                    logits = self._adapter.logits(self.model, batch)
                hidden = captured.pop().float()
                if self._reduction:
                    hidden = self._reduction(hidden, batch["attention_mask"])
                if not self._states:
                    self._check(hidden, batch, logits)
                for number, row in zip(numbers, hidden.cpu().numpy(), strict=True):
                    states = room[ends[number] - kept[number] : ends[number]]
                    states[:] = row[: kept[number]]
                    self._states[id(features[number])] = (features[number], states)
        finally:
            hook.remove()

    def _room(self, tokens: int) -> np.ndarray:
        """float32 [tokens, hidden] to be filled."""
        shape = (tokens, self.model.config.hidden_size)
        size = 4 * shape[0] * shape[1]
        if size <= IN_MEMORY:
            return np.empty(shape, np.float32)
        if size > shutil.disk_usage(self._folder).free:
            raise UserError(
                f"{self._folder}: encoder: frozen needs {size / 1e9:.1f} GB there for the features of {tokens} tokens; "
                "make room, or set max_train_samples or max_length"
            )
        with tempfile.TemporaryFile(dir=self._folder) as file:
            return np.memmap(file, np.float32, "w+", shape=shape)

    def _find_reduction(self) -> Reduction | None:
        """The one vector a text that the head gives the same logits on; None where it looks at the tokens."""
        self.model.eval()
        # Its own randomness: that of the run stays as it is. The padding is noise too, which no head may look at.
        generator = torch.Generator().manual_seed(0)
        device = self._accelerator.device
        hidden = torch.randn(3, 5, self.model.config.hidden_size, generator=generator).to(device)
        mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]], device=device)
        whole = self._head(hidden, mask)
        # A head of zeros tells nothing.
        if whole.ndim != 2 or torch.allclose(whole[0], whole[1]):
            return None
        for reduction in (_first, _mean):
            vector = self._head(reduction(hidden, mask), mask[:, :1])
            if torch.allclose(whole, vector, rtol=1e-5, atol=1e-6):
                return reduction
        return None

    @torch.no_grad()
    def _head(self, hidden: Tensor, mask: Tensor) -> Tensor:
        return self._adapter.logits(self.model, {"inputs_embeds": hidden, "attention_mask": mask})

    def _check(self, hidden: Tensor, batch: Batch, logits: Tensor) -> None:
        """
        Raises:
            UserError: the head gives other logits on the states than in the whole model.
        """
        mask = batch["attention_mask"][:, : hidden.shape[1]]
        hidden = hidden * mask.unsqueeze(-1)
        self._put(self._stub)
        with torch.inference_mode(), self._accelerator.autocast():
            alone = self._head(hidden, mask)
        self._put(self._encoder)
        seen = mask.bool() if logits.ndim > 2 else slice(None)
        tolerance = 1e-4 if self._accelerator.mixed_precision == "no" else 5e-2
        alone, logits = alone[seen], logits[seen]
        if not torch.allclose(alone, logits, rtol=tolerance, atol=tolerance * float(logits.abs().max())):
            raise UserError(
                f"task '{self._task.name}': the head of a {type(self.model).__name__} takes more than the encoder's "
                "last hidden states, so it can't be frozen; take encoder: lora or full"
            )


class _Stub(nn.Module):
    """Hands on the hidden states that it gets, through the encoder's own pooler where there is one."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        for name, child in encoder.named_children():
            if "pooler" in name:
                self.add_module(name, child)

    def forward(self, *_: None, inputs_embeds: Tensor, **inputs: Any) -> BaseModelOutputWithPooling:
        """
        Args:
            inputs_embeds: float32 [rows, tokens, hidden]
        """
        pooler, activation = (self._modules.get(name) for name in ("pooler", "pooler_activation"))
        pooled = None
        if pooler is not None:
            # ALBERT's is a bare matrix for the first token.
            pooled = activation(pooler(inputs_embeds[:, 0])) if activation is not None else pooler(inputs_embeds)
        return BaseModelOutputWithPooling(last_hidden_state=inputs_embeds, pooler_output=pooled)
