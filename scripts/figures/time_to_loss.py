"""What a budget in minutes buys, beside `transformers.Trainer`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForMaskedLM

from figures.clocks import Deadline
from figures.common import load, read_texts
from figures.reference import our_training, precision_here, reference
from figures.session import Session, fresh
from figures.setting import Bench, device_here
from figures.trainer import Peer, filled_rows, make_trainer, trainer_speed, tuned_peer
from mlm_pretrain.config import Config
from mlm_pretrain.console import telemetry
from mlm_pretrain.models.masked_head import MaskedLogits
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.text.mixture import is_held_out, source_names
from mlm_pretrain.training.validate import HeldOutSet, held_out_pass

_ON_GPU = torch.cuda.is_available()
_FEW_ROWS = {} if _ON_GPU else {"global_batch_size": 16}
OURS: dict[str, dict[str, Any]] = {
    "training": {"learning_rate": 1e-3, **_FEW_ROWS},
    "objective": {"mlm_probability": 0.4},
}
"""What we recommend for ten minutes (configs/RECIPES.md); on a GPU the rows of the reference setting."""
PEER: dict[str, Any] = {"warmup_steps": 0.05, **({} if _ON_GPU else {"learning_rate": 7e-4})}
"""For 16 rows, 15 % masked; in other runs 32 rows at 1e-3 were behind on one thread, and ahead on two (RECIPES)."""
DECAY = 0.2
"""The share of the peer's schedule in which its rate falls, as in ours; a linear schedule was behind (RECIPES)."""
SHARES = (1 / 5, 1 / 4, 1 / 3, 1 / 2, 2 / 3)
"""Of the peer's time; ours is tried at some of them."""
THIRD = SHARES.index(1 / 3)
LEAST_SECONDS = 15.0
"""Of a training: a third of it has room for some steps."""
TRAININGS = 4.5
"""That the time has room for: the peer's, a tenth before it, ours, a third, shares tried, and what is around each."""


def time_to_loss(bench: Bench) -> dict[str, float]:
    """Held-out loss after the same seconds: ours as we recommend it against the tuned `transformers.Trainer`.

    Each side trains for seconds_each, a fifth of the time or a little less (--minutes 40 gives each nine minutes, which
    say something; half a minute only shows that all works), in the reference setting (see `throughput`), from random
    weights, on the same text, full rows of 128, 16 a batch, with AdamW, and a rate that stays after its warmup until it
    falls in the last fifth as 1 − √. Ours: 40 % of the tokens masked; the clock begins before the model is built, so
    that finding a micro-batch and compiling count. trainer: `tuned_peer` of `figures/trainer.py`, 15 % masked as is
    usual; its schedule is laid out over as many steps as its speed in a short run before promises, so that it ends with
    the time, by which it is stopped; trainer_schedule is the share of the schedule that it came through. Its rows were
    tokenised before its clock began.
    ours and trainer are nats per masked token of the same held-out documents with the same 15 % of masks, in fp32,
    the models loaded plainly from their folders; nats_better is the difference. ours_third is ours after a run of its
    own with a third of the time (and a schedule that ends there). time_ratio is the smallest of 1/5, 1/4, 1/3, 1/2,
    2/3 and 1 of the time after which ours is as good as the peer at its end, found by halving with a run for each
    share tried, as the time allows; it is missing where the whole time is not enough.
    """
    config, _ = reference(bench, bench.data, **OURS)
    with bench.budget.spending("preparing: rows"):
        rows = training_rows(config, bench.data)
    seconds = max(bench.budget.left() / TRAININGS, LEAST_SECONDS)
    peer = train_peer(bench, config, rows, seconds, bench.folder / "trainer")
    trainer = peer["loss"]
    ours: dict[float, float] = {}

    def reaches(share: float) -> bool:
        if share not in ours:
            with bench.budget.spending("ours"):
                ours[share] = fresh(our_loss, config, share * seconds, bench.folder / f"ours-{share}")["loss"]
            telemetry.say(f"ours after {share:.2f} of the time: {ours[share]:.4f} (trainer: {trainer:.4f})")
        return ours[share] <= trainer

    def has_time(share: float) -> bool:
        return share in ours or bench.budget.left() >= 1.2 * share * seconds

    reaches(SHARES[THIRD])
    least = least_share(reaches, SHARES, has_time) if reaches(1.0) else None
    return {
        "ours": ours[1.0],
        "trainer": trainer,
        "nats_better": trainer - ours[1.0],
        "ours_third": ours[SHARES[THIRD]],
        **({"time_ratio": least} if least else {}),
        "seconds_each": seconds,
        "trainer_schedule": peer["schedule"],
        "trainer_steps": peer["steps"],
    }


def least_share(
    reaches: Callable[[float], bool], shares: Sequence[float], has_time: Callable[[float], bool] = lambda share: True
) -> float:
    """The smallest of ascending shares that is enough, by bisection while there is time; 1 where none is known to be.

    What is enough stays enough.
    """
    low, high = 0, len(shares)
    while low < high and has_time(shares[(low + high) // 2]):
        middle = (low + high) // 2
        if reaches(shares[middle]):
            high = middle
        else:
            low = middle + 1
    return shares[high] if high < len(shares) else 1.0


def training_rows(config: Config, data: Path | None) -> np.ndarray:
    """Full rows of the documents that are not held out, in random order; int32 [rows, L]."""
    texts = [text for text in read_texts(data) if not is_held_out(text, config.text.validation_fraction)]
    shuffled = [texts[number] for number in np.random.default_rng(0).permutation(len(texts))]
    return filled_rows(RunDirectory.of(config).tokenizer, shuffled, config.stream.sequence_length)


def train_peer(bench: Bench, config: Config, rows: np.ndarray, seconds: float, folder: Path) -> dict[str, float]:
    """Train the tuned `Trainer` for so many seconds, and score.

    Args:
        folder: for the model and the tokenizer.

    Returns:
        `loss`; `steps` of its schedule, which a short run's speed has laid out to end with the time, and `schedule`,
        the share of them that were made.
    """
    peer = tuned_peer(config, precision_here(config), **PEER)
    tokenizer = RunDirectory.of(config).tokenizer
    with bench.budget.spending("trainer: a short run"), Session(trainer_speed, peer, tokenizer, rows) as session:
        speed = session(min(0.1 * seconds, 60.0))
    steps = max(int(seconds / speed.step_seconds), 1)
    falling = {"num_decay_steps": round(DECAY * steps), "decay_type": "1-sqrt"}
    arguments = {"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": falling}
    peer = Peer(peer.model, {**peer.arguments, **arguments}, peer.length)
    with bench.budget.spending("trainer"):
        loss, schedule = fresh(_trainer_loss, config, peer, rows, seconds, steps, folder)
    return {"loss": loss, "schedule": schedule, "steps": float(steps)}


# -- each in a process of its own --------------------------------------------------------------------------------


def our_loss(config: Config, seconds: float, folder: Path) -> dict[str, float]:
    """Train for so many seconds, and score: what `our_training` returns, and `loss`."""
    made = our_training(config, seconds, folder)
    return {"loss": _loss(RunDirectory(folder).model, config), **made}


def _trainer_loss(
    config: Config, peer: Peer, rows: np.ndarray, seconds: float, steps: int, folder: Path
) -> tuple[float, float]:
    """(loss after so many seconds, share of the schedule's steps that were made)."""
    tokenizer = load(RunDirectory.of(config).tokenizer)
    settings = Peer(peer.model, {**peer.arguments, "max_steps": steps}, peer.length)
    deadline = Deadline(seconds)
    trainer = make_trainer(settings, tokenizer, rows, deadline, folder)
    trainer.train()
    trainer.save_model(str(folder))
    tokenizer.save_pretrained(folder)
    return _loss(folder, config), deadline.steps / steps


def _loss(model_folder: Path, config: Config) -> float:
    """Held-out loss of an exported model, in nats per masked token."""
    run = RunDirectory.of(config)
    tokenizer, length = load(run.tokenizer), config.stream.sequence_length
    held_out = HeldOutSet(run.validation, tokenizer, length, source_names(config.text), packing=True)
    device = device_here()
    model = AutoModelForMaskedLM.from_pretrained(model_folder, dtype=torch.float32).to(device).eval()
    forward = MaskedLogits(model, packing=True)
    return held_out_pass(forward, held_out, 32, device, contextlib.nullcontext)["loss"]
