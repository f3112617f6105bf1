"""The held-out pass: loss and accuracy on fixed masks, summed, whatever the batch size and the number of processes.

The masking is the same for every run, recipe and moment: 15 % of the tokens, 80/10/10, drawn from the number of the
row. So figures can be compared between steps and between recipes that mask otherwise; they can't be compared between
tokenizers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mlm_pretrain.config import ObjectiveConfig
from mlm_pretrain.console import bars
from mlm_pretrain.errors import UserError
from mlm_pretrain.models.masked_head import MaskedLogits, with_places
from mlm_pretrain.objectives.mlm import MaskedLM
from mlm_pretrain.objectives.random import RowRandom
from mlm_pretrain.runtime.bad_loss import Diverged, highest_loss
from mlm_pretrain.runtime.loss import Batch, to_device
from mlm_pretrain.runtime.processes import Processes
from mlm_pretrain.stream.loader import rows_of
from mlm_pretrain.stream.pack import Row, collate

MASKING = ObjectiveConfig()
MASK_SEED = 0


class HeldOutSet:
    """The held-out documents as packed rows."""

    def __init__(
        self, file: Path, tokenizer: PreTrainedTokenizerBase, sequence_length: int, names: Sequence[str], packing: bool
    ) -> None:
        """
        Args:
            file: `validation.jsonl`, rows of `{"text", "source"}`.
            names: the sources' names.

        Raises:
            UserError: the file is missing or has no documents.
        """
        try:
            # Only "\n" ends a row: text may hold the other line breaks of Unicode.
            rows = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
        except FileNotFoundError:
            raise UserError(f"{file}: missing; `mlm-pretrain tokenizer` writes it") from None
        except ValueError as error:
            raise UserError(f"{file}: damaged ({error}); `mlm-pretrain tokenizer --force` writes it again") from None
        if not rows:
            raise UserError(f"{file}: no held-out documents; set text.validation_fraction above 0")
        documents = [(row["text"], names.index(row["source"])) for row in rows]
        self.names = list(names)
        self.documents = len(documents)
        self._rows: list[Row] = rows_of(documents, tokenizer, sequence_length, packing)
        self._sequence_length = sequence_length
        self._pad_id = int(tokenizer.pad_token_id)
        self._objective = MaskedLM(MASKING, tokenizer, sequence_length)

    def __len__(self) -> int:
        return len(self._rows)

    def batches(self, size: int, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        """One process's share of the batches; each is the same whoever makes it."""
        for start in range(rank * size, len(self._rows), world_size * size):
            part = self._rows[start : start + size]
            rows = collate(part, self._sequence_length, self._pad_id, range(start, start + len(part)), step=0)
            masked = self._objective.corrupt(rows, RowRandom(MASK_SEED))
            yield with_places({name: torch.from_numpy(array) for name, array in masked.items()})


@torch.inference_mode()
def held_out_pass(
    forward: Callable[[Batch], Tensor],
    held_out: HeldOutSet,
    batch_size: int,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[Any]],
    processes: Processes | None = None,
) -> dict[str, Any]:
    """Score the held-out set.

    Args:
        forward: batch → logits [N, V] at its N label positions; the model is in evaluation mode, and is
            not the wrapper that waits for other processes.
        processes: they share the batches, and all get the figures; by default there is but this one.

    Returns:
        `loss` (nats per masked token), `perplexity`, `accuracy`, `top5_accuracy`, `masked_tokens`, `documents`, and
        `by_source` with loss, accuracies and masked tokens of each source.
    """
    processes = processes or Processes()
    # By source: summed loss, right at first guess, right within five, masked tokens.
    sums = torch.zeros(len(held_out.names), 4, dtype=torch.float64, device=device)
    with bars.progress(len(held_out), "held-out", unit="row", scale=False) as bar:
        for batch in held_out.batches(batch_size, processes.rank, processes.world_size):
            on_device = to_device(batch, device)
            with autocast():
                logits = forward(on_device)
            labelled = on_device["labels"] != -100
            labels = on_device["labels"][labelled]
            losses = torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none")
            guesses = logits.topk(min(5, logits.shape[-1]), dim=-1).indices == labels[:, None]
            figures = torch.stack([losses, guesses[:, 0], guesses.any(dim=-1), torch.ones_like(losses)], dim=-1)
            sums.index_add_(0, on_device["source_ids"][labelled].long(), figures.double())
            # The others are about as far.
            bar.update(min(len(batch["input_ids"]) * processes.world_size, len(held_out) - bar.n))
    summed = processes.sum(sums.flatten().tolist())
    rows = [summed[start : start + 4] for start in range(0, len(summed), 4)]
    by_source = {name: _figures(row) for name, row in zip(held_out.names, rows, strict=True) if row[3]}
    whole = _figures([sum(column) for column in zip(*rows, strict=True)])
    return {**whole, "documents": held_out.documents, "by_source": by_source}


def score_in_training(
    model: PreTrainedModel,
    held_out: HeldOutSet,
    batch_size: int,
    packing: bool,
    accelerator: Accelerator,
    processes: Processes,
) -> dict[str, Any]:
    """`held_out_pass` of a model in training, which is in training mode afterwards.

    Args:
        model: not the wrapper, as processes may have different numbers of batches.
    """
    model.eval()
    forward = MaskedLogits(model, packing)
    figures = held_out_pass(forward, held_out, batch_size, accelerator.device, accelerator.autocast, processes)
    forward.close()
    model.train()
    return figures


def check_loss(figures: dict[str, Any], vocabulary: int, what: str, remedy: str, max_loss: float | None = None) -> None:
    """
    Args:
        figures: of `held_out_pass`.
        vocabulary: number of tokens.
        what: is scored.
        max_loss: allowed, where it is above what is otherwise.

    Raises:
        Diverged: the loss is not finite, or far above what guessing gives.
    """
    if not figures["loss"] <= max(highest_loss(vocabulary), max_loss or 0.0):
        raise Diverged(
            f"{what}: its held-out loss is {figures['loss']:.4g} nats a masked token, where guessing gives "
            f"{math.log(vocabulary):.3g}; {remedy}"
        )


def _figures(sums: Sequence[float]) -> dict[str, Any]:
    loss, first, within_five, count = sums
    mean = loss / max(count, 1.0)
    return {
        "loss": mean,
        "perplexity": math.exp(min(mean, 700.0)),
        "accuracy": first / max(count, 1.0),
        "top5_accuracy": within_five / max(count, 1.0),
        "masked_tokens": int(count),
    }
