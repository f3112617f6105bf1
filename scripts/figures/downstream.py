"""What the minutes of pretraining are worth to tasks, beside `transformers.Trainer`."""

from __future__ import annotations

from pathlib import Path

from figures.common import fresh
from figures.labelled import labelled_sets, text_of
from figures.time_to_loss import OURS, our_loss, train_peer, training_rows
from figures.trainer import reference_config, train_tokenizer
from mlm_pretrain import telemetry
from mlm_pretrain.config import TaskConfig
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.tasks.finetune import finetune as train

TRAIN_EXAMPLES = 4000
"""At most, of each set; a thousand sentences teach a small encoder no rare entities."""


def downstream(minutes: float, folder: Path, data: Path | None) -> dict[str, float]:
    """Scores of tasks after the same minutes of pretraining: ours as we recommend it, and the tuned `Trainer`'s.

    Both encoders are trained for --minutes as in `time_to_loss`, on the documentation strings, or on the files in the
    folder `text` of --data; the other folders there are the labelled sets, as in `finetune`. Every task is then
    fine-tuned from both encoders by our own loop, with the same recipe, 4,000 examples at most, and three seeds.
    ours_loss and trainer_loss are as in `time_to_loss`; for each set, ours and trainer are the means over the seeds of
    accuracy or entity-level F1 on test, ours_std and trainer_std the standard deviations.
    """
    text = text_of(data)
    tasks = [task.model_copy(update={"max_train_samples": TRAIN_EXAMPLES}) for task in labelled_sets(data)]
    config = reference_config(folder, text, **OURS)
    rows = training_rows(config, train_tokenizer(config), text)
    encoders = {"ours": RunDirectory(folder / "ours").model, "trainer": folder / "trainer"}
    figures = {"ours_loss": fresh(our_loss, config, 60 * minutes, folder / "ours")["loss"]}
    figures["trainer_loss"] = train_peer(config, rows, 60 * minutes, folder / "trainer")["loss"]
    telemetry.say(", ".join(f"{name} {value:.4f}" for name, value in figures.items()))
    for task in tasks:
        for side, encoder in encoders.items():
            score, deviation = fresh(_score, task, encoder, folder / "tasks" / f"{task.name}-{side}")
            telemetry.say(f"{task.name}, {side}: {score:.4g} ± {deviation:.2g}")
            figures |= {f"{task.name}.{side}": score, f"{task.name}.{side}_std": deviation}
    return figures


def _score(task: TaskConfig, encoder: Path, out: Path) -> tuple[float, float]:
    figures = train(task, encoder, out, held_out_fraction=0.03)
    return figures["pretrained"], figures["pretrained_std"]
