"""Fine-tuning: every seed of a task, against the same encoder without pretraining, and the best model exported."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlm_pretrain.config import TaskConfig, fingerprint
from mlm_pretrain.console import bars, outlook, spent
from mlm_pretrain.console.telemetry import say, warn
from mlm_pretrain.errors import UserError
from mlm_pretrain.models.loading import Checkpoint, Place
from mlm_pretrain.runtime.bad_loss import Diverged
from mlm_pretrain.tasks.fit.baselines import bag_of_words
from mlm_pretrain.tasks.fit.recipe import POOLING, announce, settled
from mlm_pretrain.tasks.fit.setup import Figures, Setup, examples_of_share, prepare, share_of_train
from mlm_pretrain.tasks.fit.trials import Plan, Run, export_best, open_work, run_once
from mlm_pretrain.tasks.scores import many_classes


def finetune(
    task: TaskConfig,
    encoder: Place,
    out: Path,
    *,
    held_out_fraction: float = 0.0,
    sweep: bool = False,
    inputs: str | None = None,
) -> Figures:
    """Fine-tune an encoder on a task with every seed, score it, and export the best model.

    Interrupted, it goes on where it was: finished runs stand in `.<name>.work` beside `out` until all are done.

    Args:
        task: data, recipe and seeds. With `scratch_learning_rates`, the same architecture is trained from random
            weights too: same budget and seeds, at whichever of these rates is best on validation with the first seed.
        encoder: any transformers checkpoint, a folder or a Hub repository, with its tokenizer.
        out: the folder that the model of the best seed (on validation) is written to, whole or not at all; it loads
            with `from_pretrained` and `transformers.pipeline`. Its mistakes on the test set go to
            `<name>.errors.jsonl` beside it; the scores of more than a hundred classes go to `<name>.classes.json`, of
            which the results have the best and the worst.
        held_out_fraction: installed_docs: share of the documents that pretraining doesn't see.
        sweep: first look for the best learning rate and number of epochs, as `task.sweep` says.
        inputs: a fingerprint of data and encoder; runs that were made on others are not taken up. None takes none up.

    Returns:
        Figures on the test set (or validation, where there is no test set: `test_is_validation`): `metric` names the
        headline metric, of which `pretrained`, `scratch` and `majority` are the means over the seeds, `…_std` the
        sample standard deviations, `…_seeds` the single values; `details` has all test metrics of the pretrained
        encoder, averaged over the seeds. `bag_of_words` is the score of a linear model on words, absent if the task has
        none or `task.bag_of_words` is false. Scratch figures are absent without `scratch_learning_rates`, `sweep`
        without a sweep, `learning_curve` without `train_fractions`.

    Raises:
        UserError: bad data, no such checkpoint, more than one process, or `out` can't be written.
        Diverged: a training that is no trial of a sweep came to something that is not finite.
        Interrupted: a signal, Ctrl-C or the end of the launcher asked to stop; the same call goes on, given `inputs`.
    """
    started = time.monotonic()
    work = open_work(out, fingerprint(inputs, task, sweep) if inputs else None)
    with bars.doing("reading examples"):
        setup = prepare(task, Checkpoint.of(encoder), held_out_fraction, work)
    adapter, data = setup.adapter, setup.data
    figures: Figures = {"task": task.task, "metric": setup.metric}
    if sweep:
        figures["sweep"], task = _sweep(setup)
    if task.bag_of_words:
        with bars.doing("counting words for the bag of words", "bag of words"):
            figures |= bag_of_words(task.name, adapter, data, setup.metric)
    rows = len(setup.features["train"])
    recipe = settled(task, setup.config, rows)
    announce(task, recipe, rows)
    began = time.monotonic()
    with spent.on("pretrained"):
        pretrained = [run_once(setup, Plan(recipe, seed, candidate=True)) for seed in task.seeds]
    further = len(task.scratch_learning_rates) + len(task.seeds) - 1 if task.scratch_learning_rates else 0
    outlook.stage_left(further * (time.monotonic() - began) / len(task.seeds))
    figures |= _over_seeds("pretrained", pretrained, setup.metric)
    scratch = _scratch(setup, recipe) if task.scratch_learning_rates else {}
    figures |= scratch
    if fractions := sorted({share for share in task.train_fractions if share < 1}):
        figures["learning_curve"] = _learning_curve(setup, task, fractions, figures)
    majority = adapter.metrics(data.test, adapter.majority(data.train, data.test))
    details, whole = many_classes.cut(_mean([run.test for run in pretrained]))
    many_classes.write_whole(out.with_name(f"{out.name}.classes.json"), whole)
    export_best(setup, out)
    return figures | {
        "majority": majority.get(setup.metric, 0.0),
        "seeds": list(task.seeds),
        "encoder": task.encoder,
        "learning_rate": recipe.learning_rate,
        "num_train_epochs": recipe.num_train_epochs,
        **({POOLING: recipe.config[POOLING]} if POOLING in recipe.config else {}),
        "labels": adapter.labels,
        **_sizes(setup),
        "details": details,
        "history": [run.progress.history for run in pretrained],
        "examples_per_second": _examples_per_second(pretrained),
        "seconds": round(time.monotonic() - started, 3),
    }


# -- what is to be run --------------------------------------------------------------------------------------------


@spent.on("from random weights")
def _scratch(setup: Setup, task: TaskConfig) -> Figures:
    """The runs from random weights. The winner of the sweep over learning rates is the first seed's run."""
    rates = task.scratch_learning_rates
    plans = {
        rate: Plan(
            task.model_copy(update={"learning_rate": rate}), task.seeds[0], scratch=True, judged=len(set(rates)) > 1
        )
        for rate in rates
    }
    tried: dict[float, Run] = {}
    fault = None
    rival = -math.inf
    for rate, plan in plans.items():
        try:
            tried[rate] = run_once(setup, plan, rival)
            rival = max(rival, tried[rate].validation.get(setup.metric, rival))
        except Diverged as error:
            fault = error
            warn(f"not chosen: {error}")
    if not tried:
        raise Diverged(f"task '{task.name}': scratch_learning_rates: all of them diverged, the last one: {fault}")
    best = max(tried, key=lambda rate: tried[rate].validation.get(setup.metric, rival))
    others = [replace(plans[best], seed=seed, judged=False) for seed in task.seeds[1:]]
    runs = [tried[best], *(run_once(setup, plan) for plan in others)]
    return {
        **_over_seeds("scratch", runs, setup.metric),
        "scratch_learning_rate": best,
        # By rate, the metric on validation; None if it diverged, or nothing was to be chosen.
        "scratch_sweep": {
            f"{rate:g}": tried[rate].validation.get(setup.metric) if rate in tried else None for rate in plans
        },
    }


@spent.on("learning curve")
def _learning_curve(setup: Setup, task: TaskConfig, fractions: Sequence[float], figures: Figures) -> list[Figures]:
    """The scores by the share of the training set; smaller sets are part of larger ones."""
    curve = []
    for fraction in fractions:
        recipe = settled(task, setup.config, len(share_of_train(setup, fraction)))
        plans = [Plan(recipe, seed, fraction=fraction, judged=False) for seed in task.seeds]
        point = _over_seeds("pretrained", [run_once(setup, plan) for plan in plans], setup.metric)
        if "scratch_learning_rate" in figures:
            settings = recipe.model_copy(update={"learning_rate": figures["scratch_learning_rate"]})
            runs = [run_once(setup, replace(plan, settings=settings, scratch=True)) for plan in plans]
            point |= _over_seeds("scratch", runs, setup.metric)
        if "bag_of_words" in figures:
            name, share = f"{task.name}, {fraction:.0%} of train", examples_of_share(setup, fraction)
            point |= bag_of_words(name, setup.adapter, setup.data, setup.metric, share)
        curve.append({"fraction": fraction, "examples": len(share_of_train(setup, fraction)), **point})
    names = [f"{origin}{kind}" for origin in ("pretrained", "scratch") for kind in ("", "_std", "_seeds")]
    names += ["bag_of_words", "bag_of_words_details"]
    whole = {name: figures[name] for name in names if name in figures}
    return [*curve, {"fraction": 1.0, "examples": len(setup.data.train), **whole}]


@spent.on("sweep")
def _sweep(setup: Setup) -> tuple[Figures, TaskConfig]:
    """Try learning rates and numbers of epochs with the first seed; (what came, the recipe with the best).

    The best trial is the first seed's run.
    """
    task = setup.task
    trials: list[Figures] = []

    def score(rate: float, epochs: float) -> float | None:
        trial = task.model_copy(update={"learning_rate": rate, "num_train_epochs": epochs, "max_steps": None})
        settings = settled(trial, setup.config, len(setup.features["train"]))
        value: float | None = None
        try:
            rival = max((trial[setup.metric] for trial in trials if trial[setup.metric] is not None), default=-math.inf)
            value = run_once(setup, Plan(settings, task.seeds[0], candidate=True), rival).validation[setup.metric]
        except Diverged as error:
            warn(f"not chosen: {error}")
        trials.append({"learning_rate": rate, "num_train_epochs": epochs, setup.metric: value})
        return value

    if task.sweep.n_trials is None:
        for rate, epochs in itertools.product(task.sweep.learning_rate, task.sweep.num_train_epochs):
            score(rate, epochs)
    else:
        _ask_optuna(task, score)
    ended = [trial for trial in trials if trial[setup.metric] is not None]
    if not ended:
        raise Diverged(f"task '{task.name}': all {len(trials)} trials of the sweep diverged; give it lower rates")
    best = max(ended, key=lambda trial: trial[setup.metric])
    chosen = {key: best[key] for key in ("learning_rate", "num_train_epochs")}
    say(f"{task.name}: best of {len(trials)} trials: " + ", ".join(f"{key} {value:g}" for key, value in chosen.items()))
    return {"trials": trials, "best": chosen}, task.model_copy(update={**chosen, "max_steps": None})


def _ask_optuna(task: TaskConfig, score: Callable[[float, float], float | None]) -> None:
    try:
        import optuna
    except ImportError:
        raise UserError("sweep.n_trials needs Optuna: pip install 'mlm-pretrain[sweep]', or leave it out") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rates, epochs = task.sweep.learning_rate, task.sweep.num_train_epochs

    def objective(trial: Any) -> float:
        rate = trial.suggest_float("learning_rate", min(rates), max(rates), log=True)
        # Whole epochs, but where the ends aren't.
        step = 1.0 if all(end.is_integer() for end in (min(epochs), max(epochs))) else None
        count = trial.suggest_float("num_train_epochs", min(epochs), max(epochs), step=step)
        value = score(rate, count)
        if value is None:
            raise optuna.TrialPruned  # it diverged
        return value

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=task.seeds[0]))
    study.optimize(objective, n_trials=task.sweep.n_trials)


# -- figures ------------------------------------------------------------------------------------------------------


def _sizes(setup: Setup) -> Figures:
    data = setup.data
    return {
        "train_examples": len(data.train),
        "validation_examples": len(data.validation),
        "test_examples": len(data.test),
        "test_is_validation": data.test_is_validation,
        "dropped_examples": setup.dropped,
        "truncated_examples": {
            name: sum(feature.get("truncated", False) for feature in features)
            for name, features in setup.features.items()
        },
    }


def _over_seeds(name: str, runs: Sequence[Run], metric: str) -> Figures:
    scores = [run.test[metric] for run in runs]
    return {
        name: statistics.fmean(scores),
        f"{name}_std": statistics.stdev(scores) if len(scores) > 1 else 0.0,
        f"{name}_seeds": scores,
    }


def _examples_per_second(runs: Sequence[Run]) -> float:
    """Of training, evaluations not included."""
    return sum(run.progress.examples for run in runs) / max(sum(run.progress.seconds for run in runs), 1e-9)


def _mean(figures: Sequence[Figures]) -> Figures:
    """Averages over runs; a figure that one of them lacks (a type that it never predicted) is zero there."""
    result: Figures = {}
    for name in {name: None for entry in figures for name in entry}:
        values = [entry.get(name, 0.0) for entry in figures]
        nested = any(isinstance(value, dict) for value in values)
        result[name] = _mean([value or {} for value in values]) if nested else statistics.fmean(values)
    return result
