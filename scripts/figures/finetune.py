"""Fine-tuning, beside the Hugging Face recipes."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

from figures.labelled import encoder, mean_and_std, sets_of, with_seed
from figures.session import fresh
from figures.setting import Bench
from figures.task_peer import trainer_on_task
from mlm_pretrain.config import TaskConfig
from mlm_pretrain.hardware.device import choose_precision, make_accelerator
from mlm_pretrain.models.encoder import load_config, load_tokenizer, window_length
from mlm_pretrain.tasks.data.splits import LabelledData, complete, read_splits
from mlm_pretrain.tasks.fit.finetune import finetune as train
from mlm_pretrain.tasks.kinds.registered import TASKS

HELD_OUT = 0.03
"""The share of the documentation that is held out in pretraining; sets of the documentation are tested on it."""

Outcome = tuple[float, float]
"""(score on test, examples a second)."""


def finetune(bench: Bench) -> dict[str, float]:
    """Fine-tuning: score and examples a second, against `Trainer` set up as in run_glue.py and run_ner.py.

    The reference model (see `throughput`) is pretrained on the documentation strings, 15 s for each whole minute of the
    time. Both sides start from it, 3 epochs, 16 a batch, AdamW at 3e-4, linear after a tenth of warmup, in the same
    precision (bf16 autocast where its products are faster here); a seed each round, in turn, in new processes. The
    examples to train on are 60 for each whole minute, shared by the sets, of each set 1,000 at most (train_examples).
    The sets are those of the installed documentation, or with --data a folder that has a folder for each set:
    train*.jsonl, dev* and test* with `text` and `label`, or *.conll.
    For each set: ours and peer are the means over the rounds of accuracy or entity-level F1 on test (at most twice as
    many examples, and 1,000); ours_std and peer_std the standard deviations; ratio_speed compares examples a second
    between the first step and the last, evaluations left out, the median of the rounds' ratios.
    """
    model = encoder(bench)
    tasks = {task.name: task for task in sets_of(bench)}
    systems: dict[str, Callable[[int], Outcome]] = {}
    for name, task in tasks.items():
        systems[f"{name}.ours"] = partial(_ours, bench, task, model)
        systems[f"{name}.peer"] = partial(_peer, task, model)
    found = bench.budget.in_turn(systems)
    figures: dict[str, float] = {}
    for name, task in tasks.items():
        ours, peer = found[f"{name}.ours"], found[f"{name}.peer"]
        figures |= mean_and_std(f"{name}.ours", [score for score, _ in ours])
        figures |= mean_and_std(f"{name}.peer", [score for score, _ in peer])
        ratios = [mine / other for (_, mine), (_, other) in zip(ours, peer, strict=True)]
        figures[f"{name}.ratio_speed"] = statistics.median(ratios)
        figures[f"{name}.examples_per_second"] = statistics.median(speed for _, speed in ours)
        figures[f"{name}.train_examples"] = float(task.max_train_samples or 0)
    return figures


def data_of(task: TaskConfig) -> tuple[LabelledData, list[str]]:
    """The examples of a set, and its labels."""
    kind = TASKS[task.task]
    splits = read_splits(task, kind, held_out_fraction=HELD_OUT)
    labels = kind.label_names(splits.train, task)
    return complete(splits, task, kind), labels


def _ours(bench: Bench, task: TaskConfig, model: Path, number: int) -> Outcome:
    return fresh(_train, with_seed(task, number), model, bench.folder / "tasks" / task.name)


def _train(task: TaskConfig, model: Path, out: Path) -> Outcome:
    figures = train(task, model, out, held_out_fraction=HELD_OUT)
    return figures["pretrained"], figures["examples_per_second"]


def _peer(task: TaskConfig, model: Path, number: int) -> Outcome:
    return fresh(_train_peer, with_seed(task, number), model)


def _train_peer(task: TaskConfig, model: Path) -> Outcome:
    data, labels = data_of(task)
    length = window_length(load_config(model), load_tokenizer(model))
    bf16 = choose_precision(task, make_accelerator(task).device) == "bf16"
    return trainer_on_task(task, data, labels, model, length, bf16)
