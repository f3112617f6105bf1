"""Fine-tuning: one loop for every task adapter, scored over seeds and against the same encoder without pretraining."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.run import write_folder

# Importing an adapter's module registers it.
from mlm_pretrain.tasks import classification, ner  # noqa: F401
from mlm_pretrain.tasks.adapter import TASKS, Feature, TaskAdapter, logits_of
from mlm_pretrain.tasks.data import LabelledData, complete, read_splits
from mlm_pretrain.tasks.encoder import (
    check_vocabulary,
    load_config,
    load_model,
    load_tokenizer,
    new_model,
    quiet,
    window_length,
)
from mlm_pretrain.telemetry import progress, say, world_size
from mlm_pretrain.training.device import make_accelerator
from mlm_pretrain.training.loss import backward_global_batch, optimizer_step
from mlm_pretrain.training.optim import make_optimizer, set_learning_rate
from mlm_pretrain.training.schedule import learning_rate_at

Figures = dict[str, Any]


@dataclass(frozen=True)
class _Setup:
    """What all runs of one task share; texts are tokenised once."""

    task: TaskConfig
    encoder: str | Path
    config: PretrainedConfig
    adapter: TaskAdapter
    data: LabelledData
    features: dict[str, list[Feature]]
    accelerator: Accelerator


@dataclass(frozen=True)
class _Run:
    """One training run and its scores."""

    model: PreTrainedModel
    validation: Figures
    test: Figures


def finetune(task: TaskConfig, encoder: str | Path, out: Path, *, held_out_fraction: float = 0.0) -> Figures:
    """Fine-tune an encoder on a task with every seed, score it, and export the best model.

    Args:
        task: data, recipe and seeds. With `scratch_learning_rates`, the same architecture is trained from random
            weights too: same budget and seeds, at whichever of these rates is best on validation with the first seed.
        encoder: any transformers checkpoint, a folder or a Hub repository, with its tokenizer.
        out: the folder that the model of the best seed (on validation) is written to, whole or not at all; it loads
            with `from_pretrained` and `transformers.pipeline`.
        held_out_fraction: installed_docs: share of the documents that pretraining doesn't see.

    Returns:
        Figures on the test set (or validation, where there is no test set: `test_is_validation`): `metric` names the
        headline metric, of which `pretrained`, `scratch` and `majority` are the means over the seeds, `…_std` the
        sample standard deviations, `…_seeds` the single values; `details` has all test metrics of the pretrained
        encoder, averaged over the seeds. Scratch figures are absent without `scratch_learning_rates`.

    Raises:
        UserError: bad data, no such checkpoint, more than one process, or `out` can't be written.
    """
    started = time.monotonic()
    setup = _prepare(task, encoder, held_out_fraction)
    adapter, data = setup.adapter, setup.data
    pretrained = [_run(setup, task, seed, f"{task.name} seed {seed}", scratch=False) for seed in task.seeds]
    best = max(pretrained, key=lambda run: run.validation[adapter.metric])
    export(best.model, adapter.tokenizer, out)
    majority = adapter.metrics(data.test, adapter.majority(data.train, data.test))
    return {
        "task": task.task,
        "metric": adapter.metric,
        **_over_seeds("pretrained", pretrained, adapter.metric),
        **(_scratch(setup) if task.scratch_learning_rates else {}),
        "majority": majority[adapter.metric],
        "seeds": list(task.seeds),
        "learning_rate": task.learning_rate,
        "labels": adapter.labels,
        "train_examples": len(data.train),
        "validation_examples": len(data.validation),
        "test_examples": len(data.test),
        "test_is_validation": data.test_is_validation,
        "truncated_examples": {
            name: sum(feature.get("truncated", False) for feature in features)
            for name, features in setup.features.items()
        },
        "details": _mean([run.test for run in pretrained]),
        "seconds": round(time.monotonic() - started, 3),
    }


def _prepare(task: TaskConfig, encoder: str | Path, held_out_fraction: float) -> _Setup:
    if world_size() > 1:
        raise UserError("finetune: runs on one process for now; start it without accelerate launch")
    adapter_class = TASKS[task.task]
    splits = read_splits(task, adapter_class.row_kind, held_out_fraction)
    labels = adapter_class.label_names(splits)
    data = complete(splits, task)
    if data.test_is_validation:
        say(f"{task.name}: no test set, so the scores are those on validation")
    config = load_config(encoder, labels)
    tokenizer = load_tokenizer(encoder)
    check_vocabulary(encoder, config, tokenizer)
    adapter = adapter_class(
        labels, tokenizer, window_length(config, tokenizer, task.max_length, task.stride), task.stride
    )
    features = {"train": adapter.encode(data.train), "validation": adapter.encode(data.validation)}
    features["test"] = features["validation"] if data.test_is_validation else adapter.encode(data.test)
    return _Setup(task, encoder, config, adapter, data, features, make_accelerator(task))


def _scratch(setup: _Setup) -> Figures:
    """The runs from random weights. The winner of the sweep over learning rates is the first seed's run."""
    task, metric = setup.task, setup.adapter.metric
    first, *others = task.seeds
    sweep = {}
    for rate in task.scratch_learning_rates:
        settings = task.model_copy(update={"learning_rate": rate})
        sweep[rate] = _run(setup, settings, first, f"{task.name} scratch {rate:g}", scratch=True)
    best = max(sweep, key=lambda rate: sweep[rate].validation[metric])
    settings = task.model_copy(update={"learning_rate": best})
    runs = [sweep[best]]
    runs += [_run(setup, settings, seed, f"{task.name} scratch, seed {seed}", scratch=True) for seed in others]
    return {
        **_over_seeds("scratch", runs, metric),
        "scratch_learning_rate": best,
        "scratch_sweep": {f"{rate:g}": run.validation[metric] for rate, run in sweep.items()},
    }


def _run(setup: _Setup, settings: TaskConfig, seed: int, description: str, *, scratch: bool) -> _Run:
    """Train once and score on validation and test."""
    # The new head, dropout and random weights are drawn from this.
    torch.manual_seed(seed)
    if scratch:
        model = new_model(setup.adapter.auto_class, setup.config)
    else:
        model = load_model(setup.adapter.auto_class, setup.encoder, setup.config)
    _train(setup.accelerator, setup.adapter, model, setup.features["train"], settings, seed, description)
    validation = _score(setup, model, "validation")
    test = validation if setup.data.test_is_validation else _score(setup, model, "test")
    return _Run(model.cpu(), validation, test)


def _train(
    accelerator: Accelerator,
    adapter: TaskAdapter,
    model: PreTrainedModel,
    features: Sequence[Feature],
    settings: TaskConfig,
    seed: int,
    description: str,
) -> None:
    if settings.gradient_checkpointing:
        model.activation_checkpointing_enable()
    prepared, optimizer = accelerator.prepare(model, make_optimizer(model, settings))
    prepared.train()
    size = settings.per_device_train_batch_size
    steps_per_epoch = -(-len(features) // size)
    steps = settings.max_steps or max(round(settings.num_train_epochs * steps_per_epoch), 1)
    batches = _batches(features, size, seed)
    with progress(steps, description, unit="step") as bar:
        for step in range(steps):
            # The middle of the step, so that neither the first nor the last has a rate of zero.
            set_learning_rate(optimizer, learning_rate_at(settings, (step + 0.5) / steps, step, steps))
            batch = adapter.collate(next(batches))
            loss = backward_global_batch(accelerator, prepared, [batch], lambda micro: adapter.loss(prepared, micro))
            optimizer_step(accelerator, prepared, optimizer, settings.max_grad_norm)
            if step % 10 == 0 or step == steps - 1:
                bar.set_postfix_str(f"loss {loss.mean.item():.3f}", refresh=False)
            bar.update()
    accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)
    accelerator.free_memory()


def _batches(features: Sequence[Feature], size: int, seed: int) -> Iterator[list[Feature]]:
    """Endless batches of rows of similar length, each row once an epoch, in an order that follows seed and epoch."""
    epoch = 0
    while True:
        rng = random.Random(f"{seed} {epoch}")
        # Lengths are blurred by a tenth: batches differ from epoch to epoch, and little is padded.
        blurred = [
            (len(feature["input_ids"]) * rng.uniform(0.9, 1.1), number) for number, feature in enumerate(features)
        ]
        order = [number for _, number in sorted(blurred)]
        starts = list(range(0, len(order), size))
        rng.shuffle(starts)
        for start in starts:
            yield [features[number] for number in order[start : start + size]]
        epoch += 1


def _score(setup: _Setup, model: PreTrainedModel, split: str) -> Figures:
    adapter, examples, features = setup.adapter, getattr(setup.data, split), setup.features[split]
    logits = logits_of(adapter, model, features, setup.task.per_device_eval_batch_size, setup.accelerator)
    return adapter.metrics(examples, adapter.predictions(examples, features, logits))


def export(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, out: Path) -> None:
    """Write model and tokenizer into a folder, whole or not at all; what stood there is replaced.

    Raises:
        UserError: the folder can't be written.
    """

    def fill(folder: Path) -> None:
        with quiet():
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)

    try:
        write_folder(out, fill)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{out}: can't write the model: {getattr(error, 'strerror', None) or error}") from None


def _over_seeds(name: str, runs: Sequence[_Run], metric: str) -> Figures:
    scores = [run.test[metric] for run in runs]
    return {
        name: statistics.fmean(scores),
        f"{name}_std": statistics.stdev(scores) if len(scores) > 1 else 0.0,
        f"{name}_seeds": scores,
    }


def _mean(figures: Sequence[Figures]) -> Figures:
    """Averages over runs; a figure that one of them lacks (a type that it never predicted) is zero there."""
    result: Figures = {}
    for name in {name: None for entry in figures for name in entry}:
        values = [entry.get(name, 0.0) for entry in figures]
        nested = any(isinstance(value, dict) for value in values)
        result[name] = _mean([value or {} for value in values]) if nested else statistics.fmean(values)
    return result
