"""What the minutes of pretraining are worth to tasks, beside `transformers.Trainer`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from figures.finetune import HELD_OUT
from figures.labelled import mean_and_std, sets_of, text_of, with_seed
from figures.reference import reference
from figures.session import fresh
from figures.setting import Bench
from figures.time_to_loss import LEAST_SECONDS, OURS, our_loss, train_peer, training_rows
from mlm_pretrain.config import TaskConfig
from mlm_pretrain.console import telemetry
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.tasks.fit.finetune import finetune as train

EXAMPLES = (150, 4000)
"""As in `labelled`; more, because a thousand sentences teach a small encoder no rare entities."""
SHARE = 0.2
"""Of the time that is left after preparation, for each encoder."""


def downstream(bench: Bench) -> dict[str, float]:
    """Scores of tasks after the same seconds of pretraining: ours as we recommend it, and the tuned `Trainer`'s.

    Both encoders are trained for seconds_each, a fifth of the time, as in `time_to_loss`, on the documentation
    strings, or on the files in the folder `text` of --data; the other folders there are the labelled sets, as in
    `finetune`. Every task is then fine-tuned from both encoders by our own loop, with the same recipe, a seed
    each round, on 150 examples for each whole minute of the time, shared by the sets, of each set 4,000 at most.
    ours_loss and trainer_loss are as in `time_to_loss`; for each set, ours and trainer are the means over the rounds of
    accuracy or entity-level F1 on test, ours_std and trainer_std the standard deviations.
    """
    text = text_of(bench.data)
    tasks = sets_of(bench, EXAMPLES)
    config, _ = reference(bench, text, **OURS)
    with bench.budget.spending("preparing: rows"):
        rows = training_rows(config, text)
    seconds = max(SHARE * bench.budget.left(), LEAST_SECONDS)
    encoders = {"ours": RunDirectory(bench.folder / "ours").model, "trainer": bench.folder / "trainer"}
    with bench.budget.spending("pretraining: ours"):
        figures = {"ours_loss": fresh(our_loss, config, seconds, bench.folder / "ours")["loss"]}
    figures["trainer_loss"] = train_peer(bench, config, rows, seconds, bench.folder / "trainer")["loss"]
    figures["seconds_each"] = seconds
    telemetry.say(", ".join(f"{name} {value:.4f}" for name, value in figures.items()))
    systems: dict[str, Callable[[int], float]] = {
        f"{task.name}.{side}": partial(_score, bench, task, encoder)
        for task in tasks
        for side, encoder in encoders.items()
    }
    for name, scores in bench.budget.in_turn(systems).items():
        figures |= mean_and_std(name, scores)
    return figures


def _score(bench: Bench, task: TaskConfig, encoder: Path, number: int) -> float:
    return fresh(_train, with_seed(task, number), encoder, bench.folder / "tasks" / task.name)


def _train(task: TaskConfig, encoder: Path, out: Path) -> float:
    return train(task, encoder, out, held_out_fraction=HELD_OUT)["pretrained"]
