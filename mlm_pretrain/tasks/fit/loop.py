"""One training of a task's model: batches, evaluations, the best weights, checkpoints to go on from."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.console import bars, telemetry
from mlm_pretrain.runtime import checkpoint as checkpoints
from mlm_pretrain.runtime.bad_loss import Guard, StepDone
from mlm_pretrain.runtime.interrupts import Interrupted, Interrupts, reason_of
from mlm_pretrain.runtime.loss import backward_global_batch, optimizer_step
from mlm_pretrain.runtime.optim import make_optimizer, set_learning_rate
from mlm_pretrain.runtime.schedule import learning_rate_at
from mlm_pretrain.tasks.adapter import Feature, TaskAdapter
from mlm_pretrain.tasks.fit.layers import decay_rates
from mlm_pretrain.tasks.fit.tuning.adaptation import Adaptation
from mlm_pretrain.tasks.fit.unpadding import Unpadding

Figures = dict[str, Any]
REMEDY = "take a lower learning_rate for this task; what was computed before is kept"
WEIGHTS, BEST = "weights.safetensors", "best.safetensors"
POOL = 4
"""Where batches are padded: batches' worth of rows, drawn at random, that are sorted by length before they are cut into
batches. Sorting all rows pads least, but texts of one length are often of one kind, and the model learns less from such
batches (configs/RECIPES.md)."""


@dataclass
class Progress:
    """How far a training is."""

    step: int = 0
    seconds: float = 0.0
    """Of training, without the evaluations."""
    examples: int = 0
    history: list[Figures] = field(default_factory=list)
    """An entry an evaluation, or an epoch where none is asked for: `step`, `epoch`, `loss` (mean since the last entry),
    and `validation`, the metric there; None where it wasn't scored."""
    best: int | None = None
    """The entry of the best evaluation."""
    losses: list[float] = field(default_factory=list)
    """Of the steps since the last entry, in a checkpoint."""


class Fit:
    """A model in training.

    Args:
        adaptation: the model, and what of it is trained.
        features: the training rows.
        settings: the recipe.
        score: the metric of the model as it stands on validation; None if nothing follows from it.
        folder: for checkpoints; what an interrupted training has left there is taken up. None keeps none.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        adapter: TaskAdapter,
        adaptation: Adaptation,
        features: Sequence[Feature],
        settings: TaskConfig,
        seed: int,
        score: Callable[[], float] | None,
        folder: Path | None = None,
    ) -> None:
        self.accelerator = accelerator
        self.adapter = adapter
        self.settings = settings
        self.seed = seed
        self._score = score
        self._folder = folder
        adaptation.learn(features)
        self._features = adaptation.rows(features)
        self.model = adaptation.model
        size = settings.per_device_train_batch_size
        self.steps_per_epoch = -(-len(features) // size)
        assert settings.num_train_epochs is not None, "a recipe that is settled"
        self.steps = settings.max_steps or max(round(settings.num_train_epochs * self.steps_per_epoch), 1)
        optimizer = make_optimizer(self.model, settings)
        if settings.layerwise_lr_decay != 1.0:
            decay_rates(optimizer, adaptation.model, settings.layerwise_lr_decay)
        for group in optimizer.param_groups:
            group["weight_decay"] *= adaptation.weight_decay_factor
        self.progress = Progress()
        self.went_back = False
        """Whether the weights are those of an earlier evaluation than the last."""
        self._best: dict[str, Tensor] = {}
        # Tried on the weights that a training begins with, so that one that goes on finds the same.
        self._unpadding = None if settings.encoder == "frozen" else Unpadding(self.model, adapter, self._features)
        self._pool = 1 if self._unpadding and self._unpadding.works else POOL
        saved = self._restore(optimizer)
        if settings.gradient_checkpointing and isinstance(self.model, PreTrainedModel):
            self.model.activation_checkpointing_enable()
        self._prepared, self._optimizer = accelerator.prepare(self.model, optimizer)
        if saved:
            checkpoints.restore_random(saved, rank=0)

    def run(self, description: str) -> Progress:
        """Train to the end, or until no evaluation gets better; the model then has the weights that are kept.

        Raises:
            Interrupted: a signal, Ctrl-C or the end of the launcher asked to stop; a checkpoint is written.
            Diverged: a loss, a gradient or a weight is not finite; no evaluation or checkpoint has seen it.
        """
        settings, progress = self.settings, self.progress
        guard = Guard(REMEDY, description, scaled=self.accelerator.scaler is not None)
        unseen: list[StepDone] = []

        def look() -> None:
            if unseen:
                pairs = torch.stack([torch.stack([step.loss.sum, step.norm.to(step.loss.sum)]) for step in unseen])
                guard.check(unseen, *pairs.double().T.tolist())
                unseen.clear()

        size = settings.per_device_train_batch_size
        batches = batches_from(self._features, size, self.seed, progress.step, self._pool)
        losses = [torch.tensor(loss, device=self.accelerator.device) for loss in progress.losses]
        with Interrupts() as interrupts, bars.progress(self.steps, description, unit="step") as bar:
            bar.update(progress.step)
            while progress.step < self.steps and not self._is_enough():
                self._prepared.train()
                started = time.monotonic()
                while progress.step < self.steps:
                    unseen.append(self._step(next(batches)))
                    losses.append(unseen[-1].loss.mean)
                    bar.update()
                    if progress.step % 10 == 0:
                        look()
                        bar.set_postfix_str(f"loss {losses[-1].item():.3f}", refresh=False)
                    asked = reason_of(interrupts.requests())
                    if asked or self._is_time() or self._is_due(settings.save_steps):
                        break
                look()
                guard.check_weights(self.model, progress.step)
                mean = torch.stack(losses).mean().item() if losses else None
                progress.seconds += time.monotonic() - started
                if self._is_time() or progress.step == self.steps:
                    self._enter(mean)
                    losses.clear()
                asked = reason_of(interrupts.requests())
                if asked or (self._is_due(settings.save_steps) and progress.step < self.steps):
                    self._save([loss.item() for loss in losses])
                if asked:
                    place = f"stopped after step {progress.step:,} ({asked})"
                    raise Interrupted(f"{description}: {place}; the same command goes on", asked)
        progress.losses = []
        self.accelerator.unwrap_model(self._prepared, keep_fp32_wrapper=False)
        self.accelerator.free_memory()
        if self._best:
            _put(self.model, self._best)
            self.went_back = True
        return progress

    def _step(self, features: Sequence[Feature]) -> StepDone:
        progress, settings = self.progress, self.settings
        # The middle of the step, so that neither the first nor the last has a rate of zero.
        spent = (progress.step + 0.5) / self.steps
        set_learning_rate(self._optimizer, learning_rate_at(settings, spent, progress.step, self.steps))
        batch = self.adapter.collate(features)
        with self._unpadding.in_step() if self._unpadding else contextlib.nullcontext():
            loss = backward_global_batch(
                self.accelerator, self._prepared, [batch], lambda micro: self.adapter.loss(self._prepared, micro)
            )
        norm = optimizer_step(self.accelerator, self._prepared, self._optimizer, settings.max_grad_norm)
        progress.step += 1
        progress.examples += len(features)
        return StepDone(progress.step, loss, norm)

    def _is_time(self) -> bool:
        """Whether the history has an entry after this step."""
        by_steps = self.settings.evaluates == "steps"
        return self._is_due(self.settings.eval_steps if by_steps else self.steps_per_epoch)

    def _is_due(self, every: int | None) -> bool:
        return bool(every) and self.progress.step % int(every or 1) == 0

    def _is_enough(self) -> bool:
        patience, progress = self.settings.early_stopping_patience, self.progress
        if patience is None or progress.best is None:
            return False
        return len(progress.history) - 1 - progress.best >= patience

    def _enter(self, loss: float | None) -> None:
        """Add to the history, with a score where one is asked for."""
        progress = self.progress
        asked = self.settings.evaluates != "no" or progress.step == self.steps
        value = self._score() if self._score and asked else None
        progress.history.append(
            {
                "step": progress.step,
                "epoch": round(progress.step / self.steps_per_epoch, 4),
                "loss": loss,
                "validation": value,
            }
        )
        if value is None:
            return
        if progress.best is None or value > progress.history[progress.best]["validation"]:
            progress.best = len(progress.history) - 1
            # The last weights need no copy: they are in the model.
            kept = self.settings.keeps_best and progress.step < self.steps
            self._best = {name: tensor.clone() for name, tensor in trainable(self.model).items()} if kept else {}

    def _save(self, losses: list[float]) -> None:
        if self._folder is None:
            return

        def fill(folder: Path) -> None:
            save_file(trainable(self.model), folder / WEIGHTS)
            save_file(self._best, folder / BEST)

        random_states = checkpoints.joined_random([checkpoints.random_state()])
        scaler = self.accelerator.scaler
        state = {
            "progress": {**vars(self.progress), "losses": losses},
            "scaler": scaler.state_dict() if scaler else None,
            "pool": self._pool,
        }
        target = self._folder / f"step-{self.progress.step:08d}"
        checkpoints.save_checkpoint(target, fill, self._optimizer.optimizer, state, random_states, keep=1)

    def _restore(self, optimizer: torch.optim.Optimizer) -> Path | None:
        if self._folder is None:
            return None
        checkpoints.remove_leftovers(self._folder)
        saved = checkpoints.newest_checkpoint(self._folder)
        if saved is None:
            return None
        state = checkpoints.read_state(saved)
        self.progress, self._pool = Progress(**state["progress"]), state.get("pool", POOL)
        _put(self.model, load_file(saved / WEIGHTS))
        self._best = load_file(saved / BEST)
        checkpoints.restore_optimizer(saved, optimizer, state["optimizer"])
        if state["scaler"] and self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        telemetry.say(f"going on from {saved}")
        return saved


def trainable(model: nn.Module) -> dict[str, Tensor]:
    """The trained parameters by name, on the CPU."""
    return {
        name: parameter.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


@torch.no_grad()
def _put(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    parameters = dict(model.named_parameters())
    for name, tensor in weights.items():
        parameters[name].copy_(tensor)


def batches_from(
    features: Sequence[Feature], size: int, seed: int, step: int = 0, pool: int = 1
) -> Iterator[list[Feature]]:
    """Endless batches, each row once an epoch, in a random order that follows seed and epoch.

    Args:
        step: how many batches are skipped, without being made.
        pool: of so many batches' rows those of similar length are put together.
    """
    epoch, passed = divmod(step, -(-len(features) // size))
    while True:
        rng = random.Random(f"{seed} {epoch}")
        order = list(range(len(features)))
        rng.shuffle(order)
        batches: list[list[int]] = []
        for start in range(0, len(order), pool * size):
            drawn = order[start : start + pool * size]
            if pool > 1:
                drawn.sort(key=lambda number: len(features[number]["input_ids"]))
            of_pool = [drawn[begin : begin + size] for begin in range(0, len(drawn), size)]
            rng.shuffle(of_pool)
            batches += of_pool
        for batch in batches[passed:]:
            yield [features[number] for number in batch]
        epoch, passed = epoch + 1, 0
