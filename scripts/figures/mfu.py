"""How much of the machine's arithmetic pretraining uses."""

from __future__ import annotations

import statistics
from pathlib import Path

from figures.common import load
from figures.reference import our_speed, precision_here, reference
from figures.session import Session, fresh
from figures.setting import Bench, device_here
from mlm_pretrain.config import Config
from mlm_pretrain.hardware.device import fastest_matmul
from mlm_pretrain.hardware.machine import DTYPES
from mlm_pretrain.models.build import make_model_config
from mlm_pretrain.models.flops import count_flops, meta_model


def mfu(bench: Bench) -> dict[str, float]:
    """Model FLOPs utilisation of our loop: its FLOP/s by that of the fastest matrix product (PaLM, arXiv 2204.02311).

    mfu = real tokens a second × FLOPs per token ÷ FLOP/s of the fastest of a fixed list of matrix products (squares and
    the shapes of encoders: `PRODUCTS` of `mlm_pretrain/hardware/device.py`), in the precision that the run has taken.
    Reference setting as in `throughput`, our defaults with AdamW. FLOPs per token are those of
    `mlm_pretrain/models/flops.py`: the matrix products of forward and backward, attention over whole rows, the head at
    masked positions only; nothing for what is computed twice, for padding, or for the optimizer.
    Products and training in turn, in rounds: the median of the speeds, the fastest product. The clock as in
    `throughput`.
    """
    config, tokenizer = reference(bench, bench.data)
    flops = fresh(flops_per_token, config, tokenizer)
    precision = precision_here(config)
    with bench.budget.spending("starting, compiling: ours"):
        ours = Session(our_speed, config, tokenizer)
    with ours:
        seconds = bench.budget.window(1, ours.first.step_seconds)
        found = bench.budget.in_turn(
            {
                "products": lambda _: fresh(_rate, precision),
                "ours": lambda _: ours(seconds),
            }
        )
    best = max(found["products"])
    tokens = statistics.median(speed.tokens_per_second for speed in found["ours"])
    return {
        "mfu": tokens * flops / best,
        "tokens_per_s": tokens,
        "flops_per_token": flops,
        "matmul_flops": best,
        "bf16": float(precision == "bf16"),
        "compiled": ours.first.facts["compiled"],
    }


def flops_per_token(config: Config, tokenizer: Path) -> float:
    """Of training, with as many labels a row as the mask rate gives on average."""
    length, rate = config.stream.sequence_length, config.objective.mlm_probability
    assert isinstance(rate, float), "the rate is constant here"
    model = meta_model(make_model_config(config.model, load(tokenizer), length))
    return count_flops(model, length, round(rate * length)).training


def _rate(precision: str) -> float:
    """FLOP/s of the fastest product."""
    return fastest_matmul(DTYPES[precision], device_here())
