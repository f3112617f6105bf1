"""Logits at the masked positions only.

The head of a masked language model costs as much as several layers and is of use at one position in seven. A hook on
the encoder's output keeps those positions, so that the model's own head, whatever its class, sees no others. No
model class is changed, and nothing of it is saved with the weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mlm_pretrain.models.attention.packed import document_starts, model_inputs


class MaskedLogits:
    """Calls a model on a masked batch: batch → logits [N, V] at its N label positions, row by row.

    The label positions are `label_positions` where a batch has them, [B, k] within the rows (static shapes) or flat
    (`with_places`), else those whose `labels` [B, L] are not -100.

    Args:
        model: the model itself; the hook is on it until `close`.
        packing: whether rows hold several documents.
        call: what to call in the model's place: the wrapper that Accelerate made of it.
    """

    def __init__(self, model: PreTrainedModel, packing: bool, call: nn.Module | None = None) -> None:
        self._model = model
        self._call = call or model
        self._packing = packing
        self._positions: Tensor | None = None
        self._hook = model.base_model.register_forward_hook(self._keep_positions)

    def __call__(self, batch: dict[str, Tensor]) -> Tensor:
        self._positions = label_positions(batch)
        try:
            logits = self._call(**model_inputs(self._model, batch, self._packing)).logits
        finally:
            self._positions = None
        return logits.reshape(-1, logits.shape[-1])

    def close(self) -> None:
        self._hook.remove()

    def _keep_positions(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        if self._positions is None:
            return output
        hidden = output[0]
        kept = hidden.reshape(-1, hidden.shape[-1])[self._positions].unsqueeze(0)
        if isinstance(output, tuple):
            return (kept, *output[1:])
        output.last_hidden_state = kept
        return output


def with_places(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The batch with what depends on its data in number: `label_positions` and `label_ids`, flat, int64 [N], and
    `document_starts`.

    To be called on the CPU: a device would have to be waited for.
    """
    positions = label_positions(batch)
    ids = batch["label_ids"].reshape(-1) if "label_ids" in batch else batch["labels"].reshape(-1)[positions]
    starts = document_starts(batch["segment_ids"])
    return {**batch, "label_positions": positions, "label_ids": ids, "document_starts": starts}


def label_positions(batch: dict[str, Tensor]) -> Tensor:
    """Positions in the flattened batch [B · L] that the loss is about; int64 [N], in row order."""
    positions = batch.get("label_positions")
    if positions is None:
        return (batch["labels"].reshape(-1) != -100).nonzero().squeeze(1)
    if positions.ndim == 1:
        return positions
    rows, length = batch["input_ids"].shape
    first = torch.arange(rows, device=positions.device) * length
    return (positions + first[:, None]).reshape(-1)
