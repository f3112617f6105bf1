"""What a budget in minutes buys, beside `transformers.Trainer`."""

from __future__ import annotations

import contextlib
import io
from bisect import bisect_left
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForMaskedLM

from figures.clocks import Deadline
from figures.common import fresh, load, read_texts
from figures.trainer import (
    Peer,
    filled_rows,
    make_trainer,
    precision_here,
    reference_config,
    train_tokenizer,
    trainer_speed,
    tuned_peer,
)
from mlm_pretrain import telemetry
from mlm_pretrain.config import Budget, Config
from mlm_pretrain.models.masked_head import MaskedLogits
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.text.mixture import is_held_out, source_names
from mlm_pretrain.training.loop import Pretraining
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


def time_to_loss(minutes: float, folder: Path, data: Path | None) -> dict[str, float]:
    """Held-out loss after the same minutes: ours as we recommend it against the tuned `transformers.Trainer`.

    Each side trains for --minutes (10 say something; all runs together take about three to four times as long) in the
    reference setting (see `throughput`), from random weights, on the same text, full rows of 128, 16 a batch, with
    AdamW, and a rate that stays after its warmup until it falls in the last fifth as 1 − √. Ours: 40 % of the tokens
    masked; the clock begins before the model is built, so that finding a micro-batch and compiling count. trainer:
    `tuned_peer` of `figures/trainer.py`, 15 % masked as is usual; its schedule is laid out over as many steps as its
    speed in a short run before promises, so that it ends with the time, by which it is stopped; trainer_schedule is the
    share of the schedule that it came through. Its rows were tokenised before its clock began.
    ours and trainer are nats per masked token of the same held-out documents with the same 15 % of masks, in fp32,
    the models loaded plainly from their folders; nats_better is the difference. ours_third is ours after a run of its
    own with a third of the time (and a schedule that ends there). time_ratio is the smallest of 1/5, 1/4, 1/3, 1/2,
    2/3 and 1 of the time after which ours is as good as the peer at its end, found by halving with a run for each
    share tried; it is missing where the whole time is not enough.
    """
    config = reference_config(folder, data, **OURS)
    tokenizer = train_tokenizer(config)
    seconds = 60 * minutes
    rows = training_rows(config, tokenizer, data)
    ours = {1.0: fresh(our_loss, config, seconds, folder / "ours")["loss"]}
    peer = train_peer(config, rows, seconds, folder / "trainer")
    trainer = peer["loss"]

    def reaches(share: float) -> bool:
        if share not in ours:
            ours[share] = fresh(our_loss, config, share * seconds, folder / f"ours-{share}")["loss"]
            telemetry.say(f"ours after {share:.2f} of the time: {ours[share]:.4f} (trainer: {trainer:.4f})")
        return ours[share] <= trainer

    reaches(SHARES[THIRD])
    least = least_share(reaches, SHARES) if reaches(1.0) else None
    return {
        "ours": ours[1.0],
        "trainer": trainer,
        "nats_better": trainer - ours[1.0],
        "ours_third": ours[SHARES[THIRD]],
        **({"time_ratio": least} if least else {}),
        "trainer_schedule": peer["schedule"],
        "trainer_steps": peer["steps"],
    }


def least_share(reaches: Callable[[float], bool], shares: Sequence[float]) -> float:
    """The smallest of ascending shares that is enough, by bisection; 1 where none is. What is enough stays enough."""
    found = bisect_left(shares, True, key=reaches)
    return shares[found] if found < len(shares) else 1.0


def training_rows(config: Config, tokenizer: Path, data: Path | None) -> np.ndarray:
    """Full rows of the documents that are not held out, in random order; int32 [rows, L]."""
    texts = [text for text in read_texts(data) if not is_held_out(text, config.text.validation_fraction)]
    shuffled = [texts[number] for number in np.random.default_rng(0).permutation(len(texts))]
    return filled_rows(tokenizer, shuffled, config.stream.sequence_length)


def train_peer(config: Config, rows: np.ndarray, seconds: float, folder: Path) -> dict[str, float]:
    """Train the tuned `Trainer` for so many seconds, and score.

    Args:
        folder: for the model and the tokenizer.

    Returns:
        `loss`; `steps` of its schedule, which a short run's speed has laid out to end with the time, and `schedule`,
        the share of them that were made.
    """
    peer = tuned_peer(config, precision_here(config), **PEER)
    tokenizer = RunDirectory.of(config).tokenizer
    _, step_seconds = fresh(trainer_speed, peer, tokenizer, rows, min(0.1 * seconds, 60.0))
    steps = max(int(seconds / step_seconds), 1)
    falling = {"num_decay_steps": round(DECAY * steps), "decay_type": "1-sqrt"}
    arguments = {"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": falling}
    peer = Peer(peer.model, {**peer.arguments, **arguments}, peer.length)
    loss, schedule = fresh(_trainer_loss, config, peer, rows, seconds, steps, folder)
    return {"loss": loss, "schedule": schedule, "steps": float(steps)}


# -- each in a process of its own --------------------------------------------------------------------------------


def our_loss(config: Config, seconds: float, folder: Path) -> dict[str, float]:
    """Train for so many seconds, and score; `loss`, and the `steps` and `tokens` that were made.

    Args:
        folder: of the run; its `model/` stays there.
    """
    deadline = Deadline(seconds)
    run = RunDirectory(folder)
    run.tokenizer = RunDirectory.of(config).tokenizer
    with contextlib.redirect_stdout(io.StringIO()):
        minutes = Budget(minutes=seconds / 60)
        training = config.training.model_copy(update={"budget": minutes})
        pretraining = Pretraining(config.model_copy(update={"training": training}), run)
        # What making it has taken is gone from the budget; of that, the run has counted a part itself.
        left = Budget(minutes=(max(deadline.left(), 0.01) + pretraining.progress.seconds) / 60)
        pretraining.settings = training.model_copy(update={"budget": left})
        pretraining.train()
        pretraining.export()
        progress = pretraining.progress
    return {"loss": _loss(run.model, config), "steps": progress.step, "tokens": progress.tokens}


def _trainer_loss(
    config: Config, peer: Peer, rows: np.ndarray, seconds: float, steps: int, folder: Path
) -> tuple[float, float]:
    """(loss after so many seconds, share of the schedule's steps that were made)."""
    tokenizer = load(RunDirectory.of(config).tokenizer)
    settings = Peer(peer.model, {**peer.arguments, "max_steps": steps}, peer.length)
    deadline = Deadline(seconds)
    with contextlib.redirect_stdout(io.StringIO()):
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
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = AutoModelForMaskedLM.from_pretrained(model_folder, dtype=torch.float32).to(device).eval()
    forward = MaskedLogits(model, packing=True)
    return held_out_pass(forward, held_out, 32, device, contextlib.nullcontext)["loss"]
