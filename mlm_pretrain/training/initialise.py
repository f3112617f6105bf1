"""How a run's new model begins: from a sample of the run's own text, on rank zero, from which the others get it."""

from __future__ import annotations

import time
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mlm_pretrain.config import Config
from mlm_pretrain.config.batch_size import BatchSize
from mlm_pretrain.console import bars, spent, telemetry
from mlm_pretrain.models.initialisation.registered import INITIALISATIONS, RANDOM, chosen_initialisation
from mlm_pretrain.runtime.processes import Processes
from mlm_pretrain.stream.sample import sample_text

# What they rest on is in docs/measurements/cooccurrence.md.
MOST_TOKENS = 8_000_000
"""Of the sample."""
SHARE = 2
"""Tokens of the sample for each of the budget: counting one costs a fiftieth of training a small model on it."""
TOKENS_A_MINUTE = 1_500_000
"""Of the sample, in a budget of minutes."""


def initialise(
    config: Config, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, packing: bool, processes: Processes
) -> dict[str, Any]:
    """Let a new model begin as `model.init_embeddings` says. Other processes than rank zero get the weights later, when
    the model is wrapped for them.

    Returns:
        For the records: `method`, `sample_tokens`, `seconds`, and what the initialisation says of itself; empty if
        there was nothing to do.

    Raises:
        UserError: a source can't be read.
    """
    name = chosen_initialisation(config.model)
    if name == RANDOM:
        return {}
    facts: dict[str, Any] = {}
    if processes.rank == 0:
        started = time.monotonic()
        with spent.on("initialising"):
            sample = sample_text(
                config, tokenizer, packing=packing, tokens=sample_tokens(config), description=f"counting ({name})"
            )
        with bars.doing(f"initialising by {name}", "initialising"):
            facts = INITIALISATIONS[name](model, tokenizer, sample, config.run.seed)
        seconds = time.monotonic() - started
        facts = {"method": name, "sample_tokens": sample.tokens, **facts, "seconds": round(seconds, 3)}
        telemetry.say(f"embeddings begin from the {name} of {sample.tokens:,} tokens: {seconds:.1f} s")
    return processes.broadcast(facts)


def sample_tokens(config: Config) -> int:
    """How many tokens of text an initialisation is given: follows the config alone, and no clock."""
    budget, size = config.training.budget, BatchSize(config.training.global_batch_size)
    if budget.minutes:
        return min(MOST_TOKENS, int(budget.minutes * TOKENS_A_MINUTE))
    steps = budget.steps or 0
    tokens = budget.tokens or int(size.mean(steps) * steps * config.stream.sequence_length)
    return min(MOST_TOKENS, tokens * SHARE)
