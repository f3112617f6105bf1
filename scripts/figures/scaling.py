"""How speed changes with row length, width and depth."""

from __future__ import annotations

from pathlib import Path

from figures.common import fresh
from figures.trainer import MODEL, our_speed, reference_config, train_tokenizer
from mlm_pretrain import telemetry
from mlm_pretrain.config import Config

LENGTHS = (128, 256, 512, 1024, 2048, 4096)
WIDTHS = (192, 768)
LAYERS = (3, 12)
HEAD = 64
"""Width of an attention head, at most."""


def scaling(minutes: float, folder: Path, data: Path | None) -> dict[str, float]:
    """Real tokens a second of our loop against the tokens of a row, the width and the number of layers.

    The reference setting (see `throughput`) with one number changed; the width changes with heads of 64 and the
    feed-forward layers in proportion. Each step has the same tokens: as many rows fewer as rows are longer. Our
    defaults, AdamW; each setting once, in a new process, for an equal share of --minutes, the first five steps (of
    which compiling is the longest part) left out; a long step may take more than its share, and what each run tries
    before its first step takes half a minute and more. length_128 is the reference setting itself.
    """
    base = reference_config(folder, data)
    tokenizer = train_tokenizer(base)
    settings = {
        **{f"length_{length}": _of_length(base, length) for length in LENGTHS},
        **{f"width_{width}": _of_width(base, width) for width in WIDTHS},
        **{f"layers_{layers}": _of_shape(base, {"num_hidden_layers": layers}) for layers in LAYERS},
    }
    seconds = 60 * minutes / len(settings)
    speeds = {}
    for name, config in settings.items():
        speeds[name] = fresh(our_speed, config, tokenizer, seconds).tokens_per_second
        telemetry.say(f"{name}: {speeds[name]:,.0f} tokens/s")  # a run that is cut has said something
    return speeds


def _of_length(config: Config, length: int) -> Config:
    tokens = config.stream.sequence_length * config.training.global_batch_size
    stream = config.stream.model_copy(update={"sequence_length": length})
    training = config.training.model_copy(update={"global_batch_size": max(tokens // length, 1)})
    return config.model_copy(update={"stream": stream, "training": training})


def _of_width(config: Config, width: int) -> Config:
    reference = MODEL["config"]
    return _of_shape(
        config,
        {
            "hidden_size": width,
            "num_attention_heads": max(width // HEAD, 1),
            "intermediate_size": reference["intermediate_size"] * width // reference["hidden_size"],
        },
    )


def _of_shape(config: Config, keys: dict[str, int]) -> Config:
    model = config.model.model_copy(update={"config": {**config.model.config, **keys}})
    return config.model_copy(update={"model": model})
