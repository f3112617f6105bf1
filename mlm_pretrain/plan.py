"""What a config will cost and what its budget buys, before anything is trained; afterwards, plan beside what happened.

    expected tokens/s = devices × rate of matrix products × utilisation / FLOPs a token

FLOPs are counted on the model (`models/flops.py`); the rate is measured on this machine or stands in a data sheet
(`hardware/machine.py`). The utilisation is the run's own where it has trained on this device, else an assumption.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from mlm_pretrain.config import Budget, Config, Ramp
from mlm_pretrain.config.batch_size import BatchSize
from mlm_pretrain.config.recipes import Devices, in_words, with_recipe
from mlm_pretrain.config_file import as_begun
from mlm_pretrain.console import telemetry
from mlm_pretrain.errors import UserError
from mlm_pretrain.hardware.machine import Machine, data_sheet, this_machine
from mlm_pretrain.models import flops as counting
from mlm_pretrain.models.build import checkpoint_of, make_model_config
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.runtime.checkpoint import read_state, recorded_identity
from mlm_pretrain.runtime.optim import make_optimizer
from mlm_pretrain.text.extent import Extent, bytes_per_token, extents
from mlm_pretrain.text.tokenizing.tokenizer import SPECIAL_TOKENS, load_tokenizer

DTYPE_NAMES = {"no": "fp32", "bf16": "bf16", "fp16": "fp16"}
ASSUMED_UTILISATION = 0.3
"""Share of the matrix products' rate, where the run has measured none: an assumption, no measurement. Small models on
large GPUs, and text that comes too slowly, stay far below it."""
MICRO_BATCH_TOKENS = {"cpu": 8_192, "cuda": 32_768}
"""Of a forward pass, where neither the config nor the run itself says how many."""


@dataclass(frozen=True)
class Plan:
    model: str
    vocabulary: int
    vocabulary_origin: str
    parameters: counting.Parameters
    flops: counting.TokenFlops
    shares: dict[str, float]
    """Of a step's matrix products, in FLOPs, by part."""
    micro_batch: int
    """Rows per forward pass."""
    memory: dict[str, float]
    """Bytes on each device, by part."""
    machine: Machine
    utilisation: float
    utilisation_origin: str
    tokens_per_second: float
    tokens_per_step: float
    steps: float
    tokens: float
    seconds: float
    bytes_per_token: float
    bytes_per_token_origin: str
    sources: list[Extent]
    recipe: str
    """The values that shape steps, and where they are from."""

    def figures(self) -> dict[str, Any]:
        """All of it as plain data."""
        return asdict(self) | {"flops": {**asdict(self.flops), "training": self.flops.training}}


def plan(config: Config, gpu: str | None = None, gpus: int = 1, own_utilisation: bool = True) -> Plan:
    """Plan a config's pretraining. No weights are made; of `model.path` the transformers config alone is read.

    Args:
        gpu: a name in `training.machine.GPUS`; by default this machine, whose matrix products are measured now.
        gpus: how many of them.
        own_utilisation: whether to go by what the run has reached, where it has.

    Raises:
        UserError: the model can't be built or counted, a source's files aren't there, or the GPU isn't known.
    """
    devices = Devices(gpus, 0) if gpu else None
    config = as_begun(with_recipe(config, devices)) if gpu else config
    run, settings, length = RunDirectory.of(config), config.training, config.stream.sequence_length
    trained = _trained(run)
    kept = trained["precision"] if trained and own_utilisation else None
    machine = data_sheet(settings, gpu, gpus) if gpu else this_machine(settings, gpus, kept)
    architecture, vocabulary_origin = _architecture(config, run)
    rate = config.objective.mlm_probability
    labels = max(1, math.floor((rate.end if isinstance(rate, Ramp) else rate) * length + 1e-9))
    model = counting.meta_model(architecture, trust_remote_code=config.model.trust_remote_code)
    flops = counting.count_flops(model, length, labels)
    batch_size = BatchSize(settings.global_batch_size)
    rows = math.ceil(batch_size.values[-1] / gpus)
    own = trained if own_utilisation and trained and _is_of(trained, machine) else None
    chosen = settings.per_device_train_batch_size or (own or {}).get("micro_batch")
    micro_batch = max(1, min(chosen or MICRO_BATCH_TOKENS[machine.kind] // length, rows))
    memory, optimizer_flops = _memory(config, architecture, machine, micro_batch, labels)
    # How many steps tokens or minutes come to is not known yet; most of them have the rows of the last stage.
    steps = settings.budget.steps
    per_step = (batch_size.mean(steps) if steps else float(batch_size.last)) * length
    # Each device takes the optimizer's whole step.
    work = {"encoder": flops.encoder * per_step, "head": flops.head * per_step, "optimizer": optimizer_flops * gpus}
    if settings.gradient_checkpointing:
        work["recomputed"] = flops.encoder_forward * per_step
    per_step = trained["tokens"] / trained["steps"] if trained else per_step
    utilisation, origin, a_token = _utilisation(own, machine, flops, sum(work.values()) / per_step)
    speed = gpus * machine.rate * utilisation / a_token
    tokens = _tokens(settings.budget, per_step, speed)
    size, size_origin = bytes_per_token(run, trained or {})
    return Plan(
        model=architecture.model_type,
        vocabulary=architecture.vocab_size,
        vocabulary_origin=vocabulary_origin,
        parameters=counting.count_parameters(model),
        flops=flops,
        shares={part: cost / sum(work.values()) for part, cost in work.items()},
        micro_batch=micro_batch,
        memory=memory,
        machine=machine,
        utilisation=utilisation,
        utilisation_origin=origin,
        tokens_per_second=speed,
        tokens_per_step=per_step,
        steps=tokens / per_step,
        tokens=tokens,
        seconds=tokens / speed,
        bytes_per_token=size,
        bytes_per_token_origin=size_origin,
        sources=extents(config.text, run, tokens * size),
        recipe=in_words(config, devices),
    )


def _utilisation(
    trained: dict[str, Any] | None, machine: Machine, flops: counting.TokenFlops, work: float
) -> tuple[float, str, float]:
    """Utilisation, where it is from, and the FLOPs a token that it is of.

    What a run has measured is of the model's own FLOPs, by definition; the assumed one is of all `work`.
    """
    if trained:
        reached = trained["tokens_per_second"] * flops.training / (machine.rate * machine.count)
        return trained.get("mfu") or reached, f"this run's own, over {trained['steps']:,} steps", flops.training
    return ASSUMED_UTILISATION, "assumed, not measured", work


def _is_of(trained: dict[str, Any], machine: Machine) -> bool:
    """Whether a run has trained on this machine."""
    return (trained["device"], trained["processes"]) == (machine.name, machine.count)


def _tokens(budget: Budget, per_step: float, speed: float) -> float:
    if budget.minutes:
        return 60 * budget.minutes * speed
    return budget.tokens or (budget.steps or 0) * per_step


def _trained(run: RunDirectory) -> dict[str, Any] | None:
    """What the run's pretraining has done so far: its figures, or those of the newest record and checkpoint."""
    figures = run.read_results().get("pretraining")
    if not figures:
        recorded = recorded_identity(run.checkpoints) if run.checkpoints.is_dir() else None
        records = [record for record in telemetry.MetricsLog(run.metrics).read() if record.get("tokens_per_second")]
        if recorded and records:
            last = records[-1]
            speed = {"steps": last["step"], "tokens_per_second": last["tokens"] / max(last["seconds"], 1e-9)}
            figures = read_state(recorded[0])["numerics"] | last | speed
    whole = ("steps", "tokens", "tokens_per_second", "precision", "device")
    if not figures or not all(figures.get(key) for key in whole):
        return None
    return {"processes": 1, **figures}


# -- the model ---------------------------------------------------------------------------------------------------


class _Vocabulary:
    """What a model's config takes from a tokenizer, where there is none yet."""

    pad_token_id, cls_token_id, sep_token_id = (SPECIAL_TOKENS.index(name) for name in ("[PAD]", "[CLS]", "[SEP]"))

    def __init__(self, size: int) -> None:
        self._size = size

    def get_vocab(self) -> dict[str, int]:
        return {"the last": self._size - 1}


def _architecture(config: Config, run: RunDirectory) -> tuple[PreTrainedConfig, str]:
    """The transformers config, and where its vocabulary's size is from."""
    settings = config.model
    if settings.path is not None:
        checkpoint = checkpoint_of(settings)
        assert checkpoint is not None
        return checkpoint.config(**settings.config), "model.path"
    vocabulary: Any = _Vocabulary(config.tokenizer.vocab_size)
    origin = "tokenizer.vocab_size; tokenizer.path isn't read" if config.tokenizer.path else "tokenizer.vocab_size"
    if run.tokenizer.is_dir():
        vocabulary, origin = load_tokenizer(run.tokenizer), "the run's tokenizer"
    elif config.tokenizer.path and Path(config.tokenizer.path).is_dir():
        vocabulary = load_tokenizer(config.tokenizer.path, add_tokens=config.tokenizer.add_tokens)
        origin = "tokenizer.path"
    return make_model_config(settings, vocabulary, config.stream.sequence_length), origin


def _memory(
    config: Config, architecture: PreTrainedConfig, machine: Machine, rows: int, labels: int
) -> tuple[dict[str, float], float]:
    """Bytes by part on a device with this micro-batch, and the FLOPs of the optimizer's step."""
    settings = config.training
    attention = "eager" if config.model.attn_implementation == "eager" else "sdpa"
    try:
        model = counting.meta_model(architecture, attention, config.model.trust_remote_code)
    except UserError:  # without fused attention
        model = counting.meta_model(architecture, trust_remote_code=config.model.trust_remote_code)
    with counting.weightless(model) as stand_in:
        weights = sum(parameter.numel() * parameter.element_size() for parameter in stand_in.parameters())
        saved = counting.saved_bytes(
            stand_in, rows, config.stream.sequence_length, machine.dtype, settings.gradient_checkpointing
        )
        state, flops = counting.optimizer_step(make_optimizer(stand_in, settings), stand_in)
    # fp32: logits, log-softmax and gradient; in 16 bits the logits and their gradient stand there once more.
    a_logit = 12 if machine.dtype == torch.float32 else 16
    parts = {
        "weights": weights,
        "gradients": weights,
        "optimizer": state,
        "activations": saved,
        "logits": rows * labels * architecture.vocab_size * a_logit,
    }
    return {part: float(size) for part, size in parts.items()}, float(flops)


# -- in words ----------------------------------------------------------------------------------------------------


def describe(plan: Plan) -> str:
    """A plan as lines for the console."""
    machine, flops, parameters = plan.machine, plan.flops, plan.parameters
    rates = ", ".join(f"{name} {rate / 1e12:.3g}" for name, rate in machine.rates.items()) or f"{machine.rate / 1e12:g}"
    total = sum(plan.memory.values())
    lines = [
        ("model", f"{plan.model}, {plan.vocabulary:,} tokens in the vocabulary ({plan.vocabulary_origin})"),
        (
            "parameters",
            f"{parameters.total:,}: embeddings {parameters.embeddings:,}, encoder {parameters.encoder:,}, "
            f"head {parameters.head:,}",
        ),
        (
            "FLOPs a token",
            f"{flops.training / 1e6:,.1f} M: encoder {flops.encoder / 1e6:,.1f}, head {flops.head / 1e6:,.1f} "
            "(forward and backward)",
        ),
        ("where they go", ", ".join(f"{part} {share:.1%}" for part, share in plan.shares.items() if share)),
        ("machine", f"{machine.count} × {machine.name}, {DTYPE_NAMES[machine.precision]}"),
        ("TFLOP/s", f"{rates} ({machine.origin})"),
        ("memory", f"{total / 1e9:.2f} of {machine.memory / 1e9:.0f} GB, in rows of {plan.micro_batch} at a time"),
        ("", ", ".join(f"{part} {size / 1e9:.3f}" for part, size in plan.memory.items())),
        ("", "(activations: what autograd keeps with fused attention; buffers and fragments come on top)"),
        ("utilisation", f"{plan.utilisation:.1%} of the rate ({plan.utilisation_origin})"),
        ("expected", f"{plan.tokens_per_second:,.0f} tokens/s"),
        (
            "budget",
            f"{plan.steps:,.0f} steps, {plan.tokens:,.0f} tokens, {plan.seconds / 60:,.1f} minutes "
            f"({plan.tokens_per_step:,.0f} tokens a step)",
        ),
        ("recipe", plan.recipe),
        ("text", f"{plan.bytes_per_token:.2f} bytes a token ({plan.bytes_per_token_origin})"),
        *[("", _describe_source(source)) for source in plan.sources],
    ]
    return "\n".join(f"{label:<15}{text}" for label, text in lines)


def _describe_source(source: Extent) -> str:
    if source.bytes is None or source.epochs is None:
        return f"{source.name}: {source.origin}"
    return f"{source.name}: {source.epochs:.2f} epochs of {source.bytes / 1e6:,.1f} MB ({source.origin})"


def compare(plan: Plan, results: dict[str, Any]) -> list[tuple[str, float, float]]:
    """What was planned (with `own_utilisation=False`) beside what happened, of a run's `results.json`."""
    happened = results.get("pretraining", {})
    same = ("steps", "tokens", "seconds", "tokens_per_second")
    planned = {"parameters": plan.parameters.total, **{what: getattr(plan, what) for what in same}}
    planned["mfu"] = plan.utilisation
    return [(what, figure, happened[what]) for what, figure in planned.items() if happened.get(what) is not None]


def describe_comparison(rows: list[tuple[str, float, float]]) -> str:
    """A comparison as a table; planned is with the assumed utilisation, on the machine that planned."""
    figures = [
        (what.replace("_", " "), *(f"{value:,.{0 if value >= 100 else 3}f}" for value in pair)) for what, *pair in rows
    ]
    return telemetry.table(figures, ("", f"planned at {ASSUMED_UTILISATION:.0%}", "happened"))
