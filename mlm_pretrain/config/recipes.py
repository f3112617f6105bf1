"""What a config leaves open about its recipe: chosen by the tokens of its budget and the size of its model.

`learning_rate` and `global_batch_size` (and `objective.mlm_probability` under `training.recipe: auto`) that nobody has
given are filled in when a `Config` is made. Between the rows of the tables, values are interpolated in logarithms;
beyond their ends those of the end hold. Rows that were measured here are those of `docs/measurements/recipes.md`; the
others are the published recipes of encoders, and were not measured here. What isn't in the tables has one value that
is good at every budget that was measured: AdamW, a warmup of 5 %, a rate that stays and falls in the last fifth.

A budget in steps says itself how many rows it wants, so that its batch stays as it is by default. One in minutes counts
as the tokens that a nominal machine makes of them: the shape of a run never follows the clock.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from mlm_pretrain.config.base import filled
from mlm_pretrain.config.presets import preset_names, read_preset
from mlm_pretrain.config.sections.training import ModelConfig
from mlm_pretrain.config.sections.whole import Sections

C = TypeVar("C", bound=Sections)
R = TypeVar("R", "ByTokens", "BySize")

RATE, ROWS, MASKED = "training.learning_rate", "training.global_batch_size", "objective.mlm_probability"
MOST = 10**6
"""Layers, or width: more is a mistake that is told elsewhere."""
HERE = "docs/measurements/recipes.md"


@dataclass(frozen=True)
class ByTokens:
    """What suits a budget of so many tokens, for a new model."""

    tokens: float
    batch_tokens: float
    """Tokens of a step: rows × their length."""
    mlm_probability: float
    source: str


@dataclass(frozen=True)
class BySize:
    """What suits an encoder of so many parameters, as `encoder_parameters` counts them."""

    parameters: float
    learning_rate: float
    source: str


BY_TOKENS = (
    ByTokens(0.8e6, 1_024, 0.4, HERE),
    ByTokens(2.2e6, 2_048, 0.4, HERE),
    ByTokens(37e9, 524_288, 0.3, "MosaicBERT, arXiv 2312.17482"),
    ByTokens(1.7e12, 4_718_592, 0.3, "ModernBERT-base, arXiv 2412.13663"),
)
"""From the last row that was measured here to the next the batch grows by tokens^0.57. For decoders 0.58 × tokens^0.571
was found (arXiv 2503.04715), from which no row here is further than a factor of 1.4."""
BY_SIZE = (
    BySize(10.6e6, 1e-3, HERE),
    BySize(156e6, 8e-4, "ModernBERT-base, arXiv 2412.13663"),
    BySize(352e6, 5e-4, "ModernBERT-large, arXiv 2412.13663"),
)
CONTINUED = BySize(0, 1e-4, "task-adaptive pretraining, arXiv 2004.10964")
"""For a checkpoint that is trained on (`model.path`), whatever its size; not measured here."""

CORE_FLOPS, GPU_FLOPS = 1.5e11, 1e14
"""Useful FLOP/s of a nominal core and a nominal GPU, for budgets in minutes."""


@dataclass(frozen=True)
class Devices:
    """What a budget in minutes is spent on, by kind and number."""

    gpus: int
    cores: int

    @property
    def flops(self) -> float:
        return self.gpus * GPU_FLOPS or self.cores * CORE_FLOPS


@dataclass(frozen=True)
class Recipe:
    """What was chosen for a config, and for what."""

    tokens: float
    """Of the whole budget."""
    parameters: float | None
    """Of the encoder, about; None for a checkpoint that is trained on."""
    values: dict[str, Any]
    """By dotted key, those that the config leaves open."""
    sources: tuple[str, ...]
    """Of the rows of the tables that are nearest."""


def recipe_of(config: Sections, devices: Devices | None = None) -> Recipe:
    """What the tables have for the keys that a config leaves open.

    Args:
        devices: for a budget in minutes; by default those of this machine.
    """
    length = config.stream.sequence_length
    # Under a budget in steps the rows are part of what may be spent.
    open_ = [key for key in open_keys(config) if key != ROWS or not config.training.budget.steps]
    size = None if config.model.path else encoder_parameters(config.model)
    tokens = _tokens(config, devices)
    values: dict[str, Any] = {}
    rows: list[ByTokens | BySize] = []
    if RATE in open_:
        rows.append(_nearest(BY_SIZE, "parameters", size) if size else CONTINUED)
        rate = _between(BY_SIZE, "parameters", "learning_rate", size) if size else CONTINUED.learning_rate
        values[RATE] = float(f"{rate:.1g}")
    if ROWS in open_ or MASKED in open_:
        rows.append(_nearest(BY_TOKENS, "tokens", tokens))
    if ROWS in open_:
        exponent = math.log2(_between(BY_TOKENS, "tokens", "batch_tokens", tokens) / length)
        # At least a row of every lane: text that ends needs it.
        values[ROWS] = max(2 ** round(max(exponent, 0)), config.stream.lanes)
    if MASKED in open_:
        # In steps of 5 %.
        values[MASKED] = round(20 * _between(BY_TOKENS, "tokens", "mlm_probability", tokens)) / 20
    return Recipe(tokens, size, values, tuple(dict.fromkeys(row.source for row in rows)))


def open_keys(config: Sections) -> list[str]:
    """The dotted keys of a recipe that nobody has given."""
    also = [MASKED] if config.training.recipe == "auto" and config.model.path is None else []
    given = {f"{name}.{key}" for name in ("training", "objective") for key in getattr(config, name).model_fields_set}
    return [key for key in (RATE, ROWS, *also) if key not in given]


def value_of(config: Sections, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(config, section), name)


def with_values(config: C, values: dict[str, Any]) -> C:
    """A config with these values by dotted key; keys that were open stay so."""
    sections: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        section, _, name = key.partition(".")
        sections.setdefault(section, {})[name] = value
    return filled(config, {name: filled(getattr(config, name), inner) for name, inner in sections.items()})


def with_recipe(config: C, devices: Devices | None = None) -> C:
    """A config with the tables' values for the keys that it leaves open."""
    return with_values(config, recipe_of(config, devices).values)


def origin(config: Sections, key: str, recipe: Recipe) -> str:
    """Where the value of a dotted key of a section is from: given, recipe, default, or as begun (by the run).

    Args:
        recipe: the config's.
    """
    section, _, name = key.partition(".")
    fields = type(getattr(config, section)).model_fields
    if name in getattr(config, section).model_fields_set:
        return "given"
    if key in open_keys(config) and value_of(config, key) != recipe.values.get(key, fields[name].default):
        return "as begun"
    return "recipe" if key in recipe.values else "default"


def in_words(config: Sections, devices: Devices | None = None) -> str:
    """The recipe of a config in a line: its values, where they are from, and for what the tables were asked."""
    recipe = recipe_of(config, devices)
    values = {key: value_of(config, key) for key in (RATE, ROWS, MASKED)}
    shown = ", ".join(
        f"{key.partition('.')[2]} {value} ({origin(config, key, recipe)})" for key, value in values.items()
    )
    if "(recipe)" not in shown:
        return shown
    nominal = " (nominal)" if config.training.budget.minutes else ""
    size = recipe.parameters
    model = f"an encoder of {size / 1e6:,.1f} M parameters" if size else "a checkpoint that is trained on"
    sources = ", ".join(source if source == HERE else f"{source}, not measured here" for source in recipe.sources)
    return f"{shown}; for {recipe.tokens / 1e6:,.1f} M tokens{nominal} and {model}: {sources}"


def encoder_parameters(model: ModelConfig) -> float:
    """About how many parameters an encoder has without its embeddings: 12 × layers × width² (arXiv 2001.08361).

    What isn't said is as in BERT-base. No library is asked: the tables need no more than the order of magnitude.
    """
    preset = read_preset(model.preset) if model.preset in preset_names() else {}
    keys = {**preset, **model.config}

    def number(default: int, *names: str) -> int:
        found = [keys[name] for name in names if isinstance(keys.get(name), int) and 0 < keys[name] < MOST]
        return found[0] if found else default

    layers = number(12, "num_hidden_layers", "n_layers", "num_layers")
    return 12.0 * layers * number(768, "hidden_size", "dim", "d_model") ** 2


def devices_here() -> Devices:
    """The GPUs that a launcher has started processes for, or this machine's cores."""
    import torch  # for what no config file can know

    cores = len(os.sched_getaffinity(0))
    if not torch.cuda.is_available():
        return Devices(0, cores)
    launched = os.environ.get("WORLD_SIZE", "1")
    return Devices(int(launched) if launched.isdecimal() else 1, cores)


def _tokens(config: Sections, devices: Devices | None) -> float:
    """Those of the whole budget."""
    budget, rows = config.training.budget, config.training.global_batch_size
    if budget.tokens:
        return float(budget.tokens)
    if budget.steps:
        per_step = list(rows.values())[-1] if isinstance(rows, dict) else rows
        return float(budget.steps * per_step * config.stream.sequence_length)
    flops = (devices or devices_here()).flops
    return 60 * (budget.minutes or 0) * flops / (6 * encoder_parameters(config.model))


def _nearest(rows: Sequence[R], key: str, value: float) -> R:
    return min(rows, key=lambda row: abs(math.log(getattr(row, key) / value)))


def _between(rows: Sequence[ByTokens | BySize], key: str, what: str, value: float) -> float:
    """Interpolated linearly between logarithms; beyond the ends, the end's."""
    known = [math.log(getattr(row, key)) for row in rows]
    wanted = [math.log(getattr(row, what)) for row in rows]
    place = min(max(math.log(value), known[0]), known[-1])
    after = next(number for number in range(1, len(rows)) if place <= known[number])
    share = (place - known[after - 1]) / (known[after] - known[after - 1])
    return math.exp(wanted[after - 1] + share * (wanted[after] - wanted[after - 1]))
