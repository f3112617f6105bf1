"""What a masked language model costs, counted on the model itself without making its weights.

FLOPs are those of its matrix products, a multiply-add as two, as `torch.utils.flop_counter` sees them in a forward and
a backward pass on the `meta` device. No table of architectures is kept. Attention is counted over whole rows: neither
sliding windows nor the borders between the documents of a row are taken off, and what a kernel computes twice to save
memory is counted once, as is usual for model FLOPs utilisation (PaLM, arXiv 2204.02311, appendix B).
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForMaskedLM, PreTrainedConfig, PreTrainedModel

from mlm_pretrain.errors import UserError, first_line
from mlm_pretrain.models.masked_head import MaskedLogits
from mlm_pretrain.models.new import new_model

T = TypeVar("T")


@dataclass(frozen=True)
class TokenFlops:
    """FLOPs for a token of a row, by part and direction; the head's are spread over all tokens of the row."""

    encoder_forward: float
    encoder_backward: float
    head_forward: float
    head_backward: float

    @property
    def encoder(self) -> float:
        return self.encoder_forward + self.encoder_backward

    @property
    def head(self) -> float:
        return self.head_forward + self.head_backward

    @property
    def training(self) -> float:
        """Forward and backward, encoder and head."""
        return self.encoder + self.head


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters; what head and embeddings share counts as embeddings."""

    embeddings: int
    encoder: int
    head: int

    @property
    def total(self) -> int:
        return self.embeddings + self.encoder + self.head


def meta_model(
    config: PreTrainedConfig, attention: str | None = "eager", trust_remote_code: bool = False
) -> PreTrainedModel:
    """The masked language model of a transformers config, in training mode, with shapes and no weights.

    Args:
        attention: the implementation; eager attention is plain matrix products, which are all counted.
        trust_remote_code: whether code that the config names may run.

    Raises:
        UserError: the config makes no model.
    """
    try:
        with torch.device("meta"):
            # A copy: transformers sets the attention of the config that it is given, and a live model may own it.
            own = copy.deepcopy(config)
            model = new_model(AutoModelForMaskedLM, own, trust_remote_code, attn_implementation=attention)
    except (ValueError, TypeError, ZeroDivisionError, ImportError) as error:
        raise UserError(f"model.config: {config.model_type}: {first_line(error)}") from None
    return model.train()


def count_parameters(model: PreTrainedModel) -> Parameters:
    embeddings = {
        id(parameter): parameter.numel()
        for module in model.base_model.modules()
        if isinstance(module, nn.Embedding)
        for parameter in module.parameters()
    }
    total = sum(parameter.numel() for parameter in model.parameters())
    base = sum(parameter.numel() for parameter in model.base_model.parameters())
    return Parameters(sum(embeddings.values()), base - sum(embeddings.values()), total - base)


def count_flops(model: PreTrainedModel, sequence_length: int, labels: int) -> TokenFlops:
    """FLOPs of training on a row, by token.

    Args:
        model: from `meta_model`, with eager attention.
        sequence_length: tokens of the row, L.
        labels: positions of the row that have logits, as `MaskedLogits` leaves them to the head.

    Raises:
        UserError: the architecture's forward pass looks at values, or needs more than token ids.
    """
    ids = torch.zeros(1, sequence_length, dtype=torch.int64, device="meta")
    batch = {
        "input_ids": ids,
        "segment_ids": torch.ones_like(ids),
        "label_positions": torch.zeros(1, labels, dtype=torch.int64, device="meta"),
    }

    def encoder_pass(inputs: dict[str, Any]) -> tuple[int, int]:
        return _forward_backward(model, lambda: model.base_model(**inputs)[0])

    def whole_pass(inputs: dict[str, Any]) -> tuple[int, int]:
        # These inputs stand in for what `MaskedLogits` makes of the batch, which costs the same.
        forward = MaskedLogits(model, packing=False, call=_Settled(model, inputs))
        try:
            return _forward_backward(model, lambda: forward(batch))
        finally:
            forward.close()

    encoder, whole = (_with_some_mask(model, ids, count) for count in (encoder_pass, whole_pass))
    parts = (*encoder, whole[0] - encoder[0], whole[1] - encoder[1])
    return TokenFlops(*(flops / sequence_length for flops in parts))


class _Settled(nn.Module):
    """Calls a model on inputs that are settled, whatever it is given."""

    def __init__(self, model: PreTrainedModel, inputs: dict[str, Any]) -> None:
        super().__init__()
        self._call = lambda: model(**inputs)

    def forward(self, **_: Any) -> Any:
        return self._call()


def _forward_backward(model: PreTrainedModel, forward: Callable[[], Tensor]) -> tuple[int, int]:
    """FLOPs of both directions."""
    with FlopCounterMode(display=False) as ahead:
        output = forward()
    with FlopCounterMode(display=False) as back:
        output.sum().backward()
    model.zero_grad()
    return ahead.get_total_flops(), back.get_total_flops()


def _with_some_mask(model: PreTrainedModel, ids: Tensor, use: Callable[[dict[str, Any]], T]) -> T:
    """Use a model's inputs with the first kind of mask it takes: of some, some look at the values, which aren't there.

    Raises:
        UserError: it takes none.
    """
    length = ids.shape[1]
    masks = (None, ids.new_zeros(len(ids), 1, length, length, dtype=torch.float32), torch.ones_like(ids))
    problem = ""
    for mask in masks:
        try:
            return use({"input_ids": ids} if mask is None else {"input_ids": ids, "attention_mask": mask})
        except Exception as error:  # each architecture fails in its own way
            problem = first_line(error)
    raise UserError(
        f"model: {model.config.model_type} can't be counted without its weights ({problem}); "
        "pretrain some steps and read tokens_per_second in metrics.jsonl"
    )


# -- memory ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def weightless(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """A `meta_model` as if it stood on the CPU, so that optimizers and autocast take it; still nothing is allocated."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = model.to_empty(device="cpu")
        model.tie_weights()
        yield model.train()


def saved_bytes(
    model: PreTrainedModel, rows: int, sequence_length: int, dtype: torch.dtype, checkpointing: bool = False
) -> int:
    """Bytes that autograd keeps of the encoder's forward pass for the backward pass, the weights not counted.

    What autocast keeps of the weights in 16 bits is counted.

    Args:
        model: from `weightless`, and in its context.
        rows: of the micro-batch.
        dtype: of autocast; float32 is none.
        checkpointing: whether layers keep their inputs only (`training.gradient_checkpointing`).

    Raises:
        UserError: see `count_flops`.
    """
    if checkpointing:
        model.activation_checkpointing_enable()
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage  # held, so that no other gets its address
        return tensor

    def forward(inputs: dict[str, Any]) -> int:
        kept.clear()
        autocast = torch.autocast("cpu", dtype, enabled=dtype != torch.float32)
        with autocast, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = model.base_model(**inputs)
        size = sum(storage.nbytes() for storage in kept.values())
        del output
        return size

    return _with_some_mask(model, torch.zeros(rows, sequence_length, dtype=torch.int64), forward)


def optimizer_step(optimizer: torch.optim.Optimizer, model: PreTrainedModel) -> tuple[int, int]:
    """Bytes of an optimizer's state after its first step, and the FLOPs of the step's matrix products.

    Args:
        optimizer: of the parameters of `model`, which is from `weightless`; called in its context.
    """
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with FlopCounterMode(display=False) as counter:
        optimizer.step()
    tensors = (value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor))
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors), counter.get_total_flops()
