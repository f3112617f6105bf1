"""`encoder: frozen`: a linear probe, trained on features that are computed once."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedModel

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.runtime.loss import to_device
from mlm_pretrain.tasks.adapter import IGNORE_INDEX, Feature, TaskAdapter
from mlm_pretrain.tasks.fit.tuning.adaptation import Adaptation, States
from mlm_pretrain.tasks.inference.linear import fast_linear
from mlm_pretrain.tasks.inference.logits import CPU_TOKENS, by_length

IN_MEMORY = 2 * 1024**3
"""Bytes of features that are kept in memory; more go to a file that is mapped into it."""
SLOPE, SHIFT = 0.3, 0.5
"""Hidden layers of a head become SLOPE · x + SHIFT (those without a bias SLOPE · x): there tanh, GELU and ReLU are
nearly linear for states of the usual size, and bfloat16 still tells them apart."""
SMALLEST_DEVIATION = 1e-3
"""Of a dimension's mean: what varies less is standardised as if it varied so much. bfloat16 rounds more coarsely."""
FULL_DECAY = 1000
"""Labels up to which `weight_decay` holds in full; for more it is in inverse proportion to their number, as in a
logistic regression, whose penalty stands beside the sum of the losses."""


class Frozen(Adaptation):
    """Of the head, the output layer alone is trained: a linear classifier of the encoder's last hidden states.

    A head's hidden layers, and a pooler inside the encoder, would stand between the two; they are drawn at random, or
    come from another objective, and a probe through them is worse (`configs/RECIPES.md`). So they become a small
    multiple of the identity. What then reaches the output layer is kept for every row, and standardised over the
    training rows, for rates that suit every encoder. `finish` moves the standardisation into the layer's weights: the
    model is a plain one of its class.
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
            UserError: the head doesn't end in a linear layer.
        """
        self._whole = model.requires_grad_(False)
        self._adapter = adapter
        self._task = task
        self._accelerator = accelerator
        self._folder = folder
        self._states: States = {} if states is None else states
        self._output = self._output_layer()
        self._straighten()
        self.probe = _Probe(self._output, model.config)
        super().__init__(self.probe)

    def learn(self, features: Sequence[Feature]) -> None:
        """Take the mean (where the layer has a bias) and the deviation of the training vectors, and count the labels.

        Raises:
            UserError: the states are so large that the head's hidden layers make most of them alike.
        """
        count = labels = 0
        total = np.zeros((2, self._output.in_features))
        for row in self.rows(features):
            states = row["inputs_embeds"].reshape(-1, self._output.in_features).astype(np.float64)
            count += len(states)
            labels += 1 if row["inputs_embeds"].ndim == 1 else sum(label != IGNORE_INDEX for label in row["labels"])
            total += states.sum(0), (states**2).sum(0)
        self.weight_decay_factor = FULL_DECAY / max(labels, FULL_DECAY)
        mean, square = total / count
        deviation = np.sqrt(np.maximum(square - mean**2, 0.0))
        if count > 1 and (deviation < 1e-6).mean() > 0.5:
            raise self._refusal("gets almost the same states for all training texts")
        # `finish` subtracts mean / deviation from the bias: more than this, and float32 keeps nothing of the logits.
        deviation = np.maximum(deviation, SMALLEST_DEVIATION * np.abs(mean))
        deviation[deviation < 1e-6] = 1.0
        if self._output.bias is None:
            mean[:] = 0.0
        self.probe.mean.copy_(torch.from_numpy(mean))
        self.probe.deviation.copy_(torch.from_numpy(deviation))

    def rows(self, features: Sequence[Feature]) -> Sequence[Feature]:
        """The rows with their states as `inputs_embeds`.

        Raises:
            UserError: no room for the states, or the head does more than its output layer with them.
        """
        lacking = [feature for feature in features if id(feature) not in self._states]
        if lacking:
            self._compute(lacking)
        return [{**feature, "inputs_embeds": self._states[id(feature)][1]} for feature in features]

    @torch.no_grad()
    def finish(self) -> PreTrainedModel:
        trained = self.probe.output
        weight = trained.weight / self.probe.deviation
        self._output.weight.copy_(weight)
        if self._output.bias is not None:
            self._output.bias.copy_(trained.bias - weight @ self.probe.mean)
        return self._whole

    def _output_layer(self) -> nn.Linear:
        encoder = set(self._whole.base_model.modules())
        linear = [module for module in self._whole.modules() if isinstance(module, nn.Linear) and module not in encoder]
        if not linear or linear[-1].out_features != self._whole.config.num_labels:
            raise self._refusal("doesn't end in a linear layer")
        return linear[-1]

    @torch.no_grad()
    def _straighten(self) -> None:
        """Make the layers between the encoder and the output layer pass the hidden states on."""
        encoder = self._whole.base_model
        parts = [child for child in self._whole.children() if child is not encoder]
        parts += [child for name, child in encoder.named_children() if "pooler" in name]
        for module in (module for part in parts for module in part.modules()):
            if isinstance(module, nn.Linear) and module is not self._output:
                nn.init.eye_(module.weight).mul_(SLOPE)
                if module.bias is not None:
                    module.bias.fill_(SHIFT)

    def _compute(self, features: Sequence[Feature]) -> None:
        """Run the whole model over the rows, without dropout, and keep what its output layer gets."""
        self._whole.eval()
        captured: list[Tensor] = []
        hook = self._output.register_forward_pre_hook(lambda _module, inputs: captured.append(inputs[0]))
        lengths = [len(feature["input_ids"]) for feature in features]
        device = self._accelerator.device
        limit = CPU_TOKENS if device.type == "cpu" else None
        room: np.ndarray | None = None
        try:
            for numbers in by_length(features, self._task.per_device_eval_batch_size, limit):
                batch = to_device(self._adapter.collate([features[number] for number in numbers]), device)
                with torch.inference_mode(), fast_linear(self._whole), self._accelerator.autocast():
                    captured.clear()
                    logits = self._adapter.logits(self._whole, batch)
                    if not captured:
                        raise self._refusal("doesn't end in the linear layer that it has last")
                    hidden = captured[0]
                    if room is None:
                        self._check(hidden, logits)
                        # Heads of texts have pooled by then.
                        kept = lengths if hidden.ndim == 3 else [1] * len(features)
                        ends = np.cumsum(kept)
                        room = self._room(int(ends[-1]))
                for number, row in zip(numbers, hidden.float().cpu().numpy(), strict=True):
                    end = ends[number]
                    states = room[end - kept[number] : end] if row.ndim == 2 else room[end - 1]
                    states[:] = row[: kept[number]] if row.ndim == 2 else row
                    if not np.isfinite(states).all():
                        raise self._refusal("gets states that are not finite from this encoder")
                    self._states[id(features[number])] = (features[number], states)
        finally:
            hook.remove()

    def _room(self, vectors: int) -> np.ndarray:
        """float32 [vectors, hidden] to be filled."""
        shape = (vectors, self._output.in_features)
        size = 4 * shape[0] * shape[1]
        if size <= IN_MEMORY:
            return np.empty(shape, np.float32)
        if size > shutil.disk_usage(self._folder).free:
            raise UserError(
                f"{self._folder}: encoder: frozen needs {size / 1e9:.1f} GB there for {vectors} vectors of features; "
                "make room, or set max_train_samples or max_length"
            )
        with tempfile.TemporaryFile(dir=self._folder) as file:
            return np.memmap(file, np.float32, "w+", shape=shape)

    def _check(self, hidden: Tensor, logits: Tensor) -> None:
        """
        Raises:
            UserError: the logits are not those that the output layer makes of its input.
        """
        alone = nn.functional.linear(hidden, self._output.weight, self._output.bias).float()
        if alone.ndim > logits.ndim:  # EuroBERT's, by default
            raise self._refusal("pools behind its output layer", "set config: {classifier_pooling: mean}, or ")
        seen = logits.isfinite()  # heads of questions rule padding out
        if alone.shape != logits.shape or not torch.allclose(alone[seen], logits[seen], rtol=1e-3, atol=1e-5):
            raise self._refusal("doesn't end in a linear layer")

    def _refusal(self, fault: str, advice: str = "") -> UserError:
        head = f"the head of a {type(self._whole).__name__}"
        return UserError(
            f"task '{self._task.name}': encoder: frozen: {head} {fault}; {advice}take encoder: lora or full"
        )


class _Probe(nn.Module):
    """A linear layer over standardised states."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, output: nn.Linear, config: Any) -> None:
        super().__init__()
        self.config = config
        self.output = nn.Linear(
            output.in_features, output.out_features, output.bias is not None, device=output.weight.device
        )
        # The random weights of the model, and with them the run's seed.
        self.output.load_state_dict(output.state_dict())
        self.register_buffer("mean", torch.zeros_like(output.weight[0]))
        self.register_buffer("deviation", torch.ones_like(output.weight[0]))

    def forward(self, *, inputs_embeds: Tensor, **_: Any) -> SimpleNamespace:
        """
        Args:
            inputs_embeds: float32 [rows, hidden], or [rows, tokens, hidden]
        """
        # So small a product gains nothing by bfloat16.
        with torch.autocast(inputs_embeds.device.type, enabled=False):
            logits = self.output((inputs_embeds - self.mean) / self.deviation)
        # Heads of questions name the two apart.
        return SimpleNamespace(logits=logits, start_logits=logits[..., 0], end_logits=logits[..., -1])
