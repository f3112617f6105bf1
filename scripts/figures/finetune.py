"""Fine-tuning, beside the Hugging Face recipes."""

from __future__ import annotations

import statistics
from pathlib import Path

from figures.common import fresh
from figures.labelled import encoder, labelled_sets
from figures.task_peer import trainer_on_task
from mlm_pretrain import telemetry
from mlm_pretrain.config import TaskConfig
from mlm_pretrain.tasks.data import LabelledData, complete, read_splits
from mlm_pretrain.tasks.encoder import load_config, load_tokenizer, window_length
from mlm_pretrain.tasks.finetune import finetune as train
from mlm_pretrain.tasks.registered import TASKS
from mlm_pretrain.training.device import choose_precision, make_accelerator


def finetune(minutes: float, folder: Path, data: Path | None) -> dict[str, float]:
    """Fine-tuning: score and examples a second, against `Trainer` set up as in run_glue.py and run_ner.py.

    The reference model (see `throughput`) is pretrained for --minutes on the documentation strings. Both sides start
    from it, with three seeds, 3 epochs of 1,000 examples at most, 16 a batch, AdamW at 3e-4, linear after a tenth of
    warmup, in the same precision (bf16 autocast where its products are faster here). The sets are those of the
    installed documentation, or with --data a folder that has a folder for each set: train*.jsonl, dev* and test* with
    `text` and `label`, or *.conll.
    For each set: ours and peer are the means over the seeds of accuracy or entity-level F1 on test (1,000 examples at
    most); ours_std and peer_std the standard deviations; ratio_speed compares examples a second between the first step
    and the last, evaluations left out, medians over the seeds.
    """
    model = encoder(folder, minutes)
    figures: dict[str, float] = {}
    for task in labelled_sets(data):
        ours = fresh(_ours, task, model, folder / "tasks" / task.name)
        peer = fresh(_peer, task, model)
        row = {
            "ours": ours["pretrained"],
            "ours_std": ours["pretrained_std"],
            "peer": statistics.fmean(peer["score"]),
            "peer_std": statistics.stdev(peer["score"]),
            "ratio_speed": ours["examples_per_second"] / statistics.median(peer["examples_per_second"]),
            "examples_per_second": ours["examples_per_second"],
        }
        telemetry.say(f"{task.name}: " + ", ".join(f"{name} {value:.4g}" for name, value in row.items()))
        figures |= {f"{task.name}.{name}": value for name, value in row.items()}
    return figures


def data_of(task: TaskConfig) -> tuple[LabelledData, list[str]]:
    """The examples of a set, and its labels."""
    kind = TASKS[task.task]
    splits = read_splits(task, kind, held_out_fraction=0.03)
    labels = kind.label_names(splits.train, task)
    return complete(splits, task, kind), labels


def _ours(task: TaskConfig, model: Path, out: Path) -> dict[str, float]:
    figures = train(task, model, out, held_out_fraction=0.03)
    return {name: figures[name] for name in ("pretrained", "pretrained_std", "examples_per_second")}


def _peer(task: TaskConfig, model: Path) -> dict[str, list[float]]:
    data, labels = data_of(task)
    length = window_length(load_config(model), load_tokenizer(model))
    bf16 = choose_precision(task, make_accelerator(task).device) == "bf16"
    return trainer_on_task(task, data, labels, model, length, bf16)
