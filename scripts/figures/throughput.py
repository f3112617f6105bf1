"""Pretraining beside `transformers.Trainer`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from figures.common import load, read_texts, repeated
from figures.loops import median_ratio, medians, time_loops, tokens_per_second
from figures.reference import BERT, our_speed, precision_here, reference, reference_config
from figures.session import Rounds, Session
from figures.setting import Bench
from figures.trainer import Peer, TimedTrainer, default_peer, filled_rows, trainer_speed, tuned_peer
from mlm_pretrain.config import Config
from mlm_pretrain.models.attention.packed import supports_packing
from mlm_pretrain.models.masked_head import MaskedLogits, with_places
from mlm_pretrain.objectives.base import OBJECTIVES
from mlm_pretrain.stream.loader import global_batches

ROWS = 4000
PLAIN: dict[str, Any] = {"bf16": False, "torch_compile": False}
"""Our loop without the choices that are faster: fp32, not compiled."""


def throughput(bench: Bench) -> dict[str, float]:
    """Real tokens a second of pretraining: our loop against `transformers.Trainer`, same text, rows and batch.

    The reference setting (ModernBERT, 6 layers × 384, 8,192 tokens in the vocabulary, 128 a row, 32 rows a batch) with
    AdamW; both sides' rows are full. ours: our defaults. trainer_default: a BERT of the same size under Trainer's
    defaults (fp32, full head) with `DataCollatorForLanguageModeling` on rows filled by concatenation, as run_mlm.py
    makes them. trainer_tuned: our model with what a knowing user sets: bf16 where it is faster here, the
    architecture's own head on masked positions only (`sparse_prediction`).
    loop_ours and loop_trainer compare the loops alone: the same BERT in fp32, not compiled, on the same batches, which
    our stream packs and masks for both, with the same attention mask, and the same head on masked positions; Trainer
    has them as its loader and its `compute_loss`. What is left is what a loop does round forward and backward.
    Each system has a process of its own, which waits while others are timed; in turn, in rounds; medians, and ratios
    of the same round. The clock leaves out each process's start, its first steps and a step after each pause.
    compile_seconds is what ours took before its first step to find its micro-batch and, where compiled is 1, to
    compile (less if this machine has done so before).
    """
    config, tokenizer = reference(bench, bench.data)
    length = config.stream.sequence_length
    with bench.budget.spending("preparing: rows"):
        rows = filled_rows(tokenizer, repeated(read_texts(bench.data), ROWS * length * 8), length, ROWS)
        tuned = tuned_peer(config, precision_here(config))
    whole = {"per_device_train_batch_size": config.training.global_batch_size}
    equal = {**BERT, "attn_implementation": "sdpa"}  # Trainer's
    plain = reference_config(bench.folder, bench.data, model=equal, training={**PLAIN, **whole})
    found = time_loops(
        bench.budget,
        {
            "ours": partial(Session, our_speed, config, tokenizer),
            "trainer_tuned": partial(Session, trainer_speed, tuned, tokenizer, rows),
            "trainer_default": partial(Session, trainer_speed, default_peer(config), tokenizer, rows),
            "loop_ours": partial(Session, our_speed, plain, tokenizer),
            "loop_trainer": partial(Session, _trainer_on_our_batches, plain, tokenizer),
        },
    )
    speeds = tokens_per_second(found)
    facts = found["ours"][0].facts
    return {
        **medians(speeds),
        "ratio_default": median_ratio(speeds["ours"], speeds["trainer_default"]),
        "ratio_tuned": median_ratio(speeds["ours"], speeds["trainer_tuned"]),
        "ratio_loop_only": median_ratio(speeds["loop_ours"], speeds["loop_trainer"]),
        "compiled": facts["compiled"],
        "compile_seconds": facts["before_seconds"],
    }


# -- the loops alone ---------------------------------------------------------------------------------------------


class _OnOurBatches(TimedTrainer):
    """A Trainer that takes its batches and its loss from us."""

    config: Config

    def get_train_dataloader(self) -> DataLoader:
        tokenizer, length = self.data_collator.tokenizer, self.config.stream.sequence_length
        self.objective = OBJECTIVES[self.config.objective.name](self.config.objective, tokenizer, length)
        packing = supports_packing(self.model)
        self.forward = MaskedLogits(self.model, packing)
        batches = _Stream(self.config, tokenizer, self.objective, packing=packing, num_workers=0)
        return DataLoader(batches, batch_size=None)

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **keys: Any) -> torch.Tensor:
        total, count, _ = self.objective.loss(self.forward, inputs)
        return total / count


class _Stream(IterableDataset):
    """The tensors of our global batches; arguments as of `global_batches`."""

    def __init__(self, *arguments: Any, **keys: Any) -> None:
        super().__init__()
        self._arguments, self._keys = arguments, keys

    def __iter__(self) -> Any:
        for batch in global_batches(*self._arguments, **self._keys):
            # As our loop does, so that no device is waited for.
            yield with_places(batch.tensors)


def _trainer_on_our_batches(rounds: Rounds, config: Config, tokenizer: Path) -> None:
    settings = config.training
    arguments = {
        "per_device_train_batch_size": settings.global_batch_size,
        "learning_rate": settings.learning_rate,
        "weight_decay": settings.weight_decay,
        "adam_beta2": settings.adam_beta2,
        "adam_epsilon": settings.adam_epsilon,
        "logging_steps": settings.logging_steps,
    }
    peer = Peer(config.model, arguments, config.stream.sequence_length)
    _OnOurBatches.config = config
    # Rows of their own there must be, though they aren't asked for.
    rows = [[load(tokenizer).cls_token_id]]
    trainer_speed(rounds, peer, tokenizer, rows, _OnOurBatches)
