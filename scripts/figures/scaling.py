"""How speed changes with row length, width and depth."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from figures.reference import MODEL, our_speed, reference
from figures.session import Session
from figures.setting import Bench
from mlm_pretrain.config import Config
from mlm_pretrain.console import telemetry

LENGTHS = (128, 512, 2048)
WIDTHS = (192, 768)
LAYERS = (3, 12)
MORE_LENGTHS = (256, 1024, 4096)
"""Where there is time for them."""
HEAD = 64
"""Width of an attention head, at most."""
PASS = 65_536 if torch.cuda.is_available() else 4096
"""Tokens of a forward pass, at most."""


def scaling(bench: Bench) -> dict[str, float]:
    """Real tokens a second of our loop against the tokens of a row, the width and the number of layers.

    The reference setting (see `throughput`) with one number changed; the width changes with heads of 64 and the
    feed-forward layers in proportion. Each step has the same tokens: as many rows fewer as rows are longer. AdamW; not
    compiled, because every shape would take its half minute, and forward passes of 4,096 tokens at most (on a GPU
    65,536). Each setting once, in a process of its own, timed for an equal share of the time; the clock as in
    `throughput`. length_128 is the reference setting itself. First all settings of three lengths, then 256, 1,024 and
    4,096; those that there is no time for are missing.
    """
    base, tokenizer = reference(bench, bench.data, training={"torch_compile": False})
    settings: dict[str, Callable[[], Config]] = {
        **{f"length_{length}": partial(_of_length, base, length) for length in LENGTHS},
        **{f"width_{width}": partial(_of_width, base, width) for width in WIDTHS},
        **{f"layers_{layers}": partial(_of_shape, base, {"num_hidden_layers": layers}) for layers in LAYERS},
        **{f"length_{length}": partial(_of_length, base, length) for length in MORE_LENGTHS},
    }
    speeds: dict[str, float] = {}
    longest = 0.0
    for name, make in settings.items():
        began = bench.budget.elapsed()
        if bench.budget.left() < longest:
            telemetry.say(f"no time is left for {', '.join(each for each in settings if each not in speeds)}")
            break
        with bench.budget.spending(name):
            session = Session(our_speed, _in_passes(make()), tokenizer)
            with session:
                speeds[name] = session(bench.budget.window(len(settings))).tokens_per_second
        longest = max(longest, bench.budget.elapsed() - began)
        telemetry.say(f"{name}: {speeds[name]:,.0f} tokens/s")  # a run that is cut has said something
    return speeds


def _in_passes(config: Config) -> Config:
    rows = min(max(PASS // config.stream.sequence_length, 1), config.training.global_batch_size)
    return config.model_copy(
        update={"training": config.training.model_copy(update={"per_device_train_batch_size": rows})}
    )


def _of_length(config: Config, length: int) -> Config:
    tokens = config.stream.sequence_length * config.training.global_batch_size
    stream = config.stream.model_copy(update={"sequence_length": length})
    training = config.training.model_copy(update={"global_batch_size": max(tokens // length, 1)})
    return config.model_copy(update={"stream": stream, "training": training})


def _of_width(config: Config, width: int) -> Config:
    usual = MODEL["config"]
    return _of_shape(
        config,
        {
            "hidden_size": width,
            "num_attention_heads": max(width // HEAD, 1),
            "intermediate_size": usual["intermediate_size"] * width // usual["hidden_size"],
        },
    )


def _of_shape(config: Config, keys: dict[str, int]) -> Config:
    model = config.model.model_copy(update={"config": {**config.model.config, **keys}})
    return config.model_copy(update={"model": model})
