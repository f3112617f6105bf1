"""Masked-language-model pretraining: load → step → log → validate → save, until the budget is spent."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mlm_pretrain import telemetry
from mlm_pretrain.config import Config
from mlm_pretrain.errors import UserError
from mlm_pretrain.models.build import build_model
from mlm_pretrain.models.masked_head import MaskedLogits
from mlm_pretrain.objectives.base import OBJECTIVES, Objective
from mlm_pretrain.run import RunDirectory, write_folder
from mlm_pretrain.stream.loader import GlobalBatch, global_batches
from mlm_pretrain.text.mixture import source_names
from mlm_pretrain.text.sources import fingerprint_source
from mlm_pretrain.text.tokenizer import load_tokenizer, vocabulary_fingerprint
from mlm_pretrain.training import budget as budgets
from mlm_pretrain.training import checkpoint as checkpoints
from mlm_pretrain.training.loss import Batch, GlobalLoss, backward_global_batch, optimizer_step
from mlm_pretrain.training.meter import Meter
from mlm_pretrain.training.numerics import Numerics, settle_numerics
from mlm_pretrain.training.optim import make_optimizer, set_learning_rate
from mlm_pretrain.training.resume import Progress, identity, refuse_changes
from mlm_pretrain.training.schedule import learning_rate_at
from mlm_pretrain.training.validate import HeldOutSet, held_out_pass

OnBatch = Callable[[int, GlobalBatch], None]


def pretrain(config: Config, run: RunDirectory, on_batch: OnBatch | None = None) -> dict[str, Any]:
    """Train a masked language model, or go on from the run's newest complete checkpoint, and export it to `model/`.

    Args:
        config: the run's config; `tokenizer/` and `validation.jsonl` stand in the run already.
        run: where checkpoints, metrics and the model go.
        on_batch: called with (step, batch) before each step.

    Returns:
        The figures of the run, as in `results.json` under `pretraining`.

    Raises:
        UserError: bad input; a checkpoint of another run; a loss that is not finite.
    """
    with run.locked():
        trainer = Pretraining(config, run)
        trainer.train(on_batch)
        trainer.export()
        return trainer.figures()


class Pretraining:
    """A run in the making: model, optimizer, stream and how far they are."""

    def __init__(self, config: Config, run: RunDirectory) -> None:
        self.config = config
        self.run = run
        self.settings = config.training
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(str(run.tokenizer))
        corpus = {
            name: fingerprint_source(source)
            for name, source in zip(source_names(config.text), config.text.sources, strict=True)
        }
        self.identity = identity(config, vocabulary_fingerprint(self.tokenizer), corpus)
        saved = checkpoints.newest_checkpoint(run.checkpoints)
        state = checkpoints.read_state(saved) if saved else None
        if saved and state:
            refuse_changes(saved, state["identity"], self.identity)
        self.progress = Progress(**state["progress"]) if state else Progress()
        self._seconds_before = self.progress.seconds
        length = config.stream.sequence_length
        model: PreTrainedModel = build_model(config.model, self.tokenizer, length, config.run.seed)
        if saved:
            attention = state["numerics"]["attention"] if state else None
            model = type(model).from_pretrained(saved, dtype=torch.float32, attn_implementation=attention)
        old = Numerics(**state["numerics"]) if state else None
        self.numerics, self.accelerator = settle_numerics(config, run, model, old)
        torch.manual_seed(config.run.seed)  # dropout, where a model has any
        if self.settings.gradient_checkpointing:
            model.activation_checkpointing_enable()
        self.model = model.to(self.accelerator.device).train()
        self.optimizer = make_optimizer(self.model, self.settings)
        if saved and state:
            checkpoints.restore_optimizer(saved, self.optimizer, state["optimizer"])
            checkpoints.restore_random(saved)
        self.prepared, self.optimizer = self.accelerator.prepare(self.model, self.optimizer)
        if state and state["scaler"] and self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.objective: Objective = OBJECTIVES[config.objective.name](config.objective, self.tokenizer, length)
        self.forward = MaskedLogits(self.model, self.numerics.packing, call=self.prepared)
        self.log = telemetry.MetricsLog(run.metrics)
        self.log.rewind(self.progress.step)
        self._held_out: HeldOutSet | None = None
        if self.settings.eval_steps:
            self._held_out = self._open_held_out()  # at once, so that missing text is told at the start
        if saved:
            telemetry.say(f"going on from {saved} ({self.progress.tokens:,} tokens)")

    # -- the loop ------------------------------------------------------------------------------------------------

    def train(self, on_batch: OnBatch | None = None) -> None:
        """Step until the budget is spent; the last step is saved."""
        settings, progress = self.settings, self.progress
        self.accelerator.init_trackers("mlm_pretrain", config={"run": self.config.run.name})
        started = time.monotonic()
        meter, rate, norm = Meter(), 0.0, None
        total = budgets.total(settings.budget)
        with telemetry.progress(total, "pretrain", initial=budgets.done(settings.budget, progress), rate=False) as bar:
            for batch in self._batches():
                if budgets.is_over(settings.budget, progress, meter.step_seconds):
                    break
                if on_batch:
                    on_batch(progress.step, batch)
                meter.batch_came()
                spent = budgets.share_spent(settings.budget, progress)
                rate = learning_rate_at(settings, spent, progress.step, settings.budget.steps)
                loss, norm = self._step(batch, rate)
                progress.step += 1
                progress.tokens += batch.tokens
                progress.stream, progress.counts = batch.state, batch.counts
                progress.seconds = self._seconds_before + time.monotonic() - started
                meter.step_done(loss, batch.tokens)
                if progress.step % settings.logging_steps == 0:
                    self._record(meter, rate, norm, bar)
                if settings.eval_steps and progress.step % settings.eval_steps == 0:
                    self.validate()
                if settings.save_steps and progress.step % settings.save_steps == 0:
                    self._record(meter, rate, norm, bar)
                    self.save()
                bar.update(min(budgets.done(settings.budget, progress), total) - bar.n)
            self._record(meter, rate, norm, bar)
        if progress.step and not self.run.checkpoint(progress.step).exists():
            self.save()
        self.accelerator.end_training()

    def _step(self, batch: GlobalBatch, learning_rate: float) -> tuple[GlobalLoss, Tensor | None]:
        set_learning_rate(self.optimizer, learning_rate)
        micro_batches = self._micro_batches(batch.tensors)
        loss = backward_global_batch(
            self.accelerator, self.prepared, micro_batches, lambda micro: self.objective.loss(self.forward, micro)
        )
        return loss, optimizer_step(self.accelerator, self.prepared, self.optimizer, self.settings.max_grad_norm)

    def _micro_batches(self, tensors: Batch) -> list[Batch]:
        rows, size = self.settings.global_batch_size, self.numerics.micro_batch
        return [
            {name: tensor[start : start + size] for name, tensor in tensors.items()} for start in range(0, rows, size)
        ]

    def _batches(self) -> Iterator[GlobalBatch]:
        workers = self.config.stream.dataloader_num_workers
        if workers is None:
            # On a CPU the model needs every core; beside a GPU, tokenising has cores of its own.
            workers = 0 if self.accelerator.device.type == "cpu" else 1
        return global_batches(
            self.config,
            self.tokenizer,
            self.objective,
            packing=self.numerics.packing,
            num_workers=workers,
            state=self.progress.stream,
            step=self.progress.step,
        )

    # -- records -------------------------------------------------------------------------------------------------

    def _record(self, meter: Meter, learning_rate: float, norm: Tensor | None, bar: Any) -> None:
        """Write the means since the last record, if there was a step since; only here the loop waits for the device.

        Nothing is saved that has not been recorded, so that weights that are not finite are never saved.
        """
        if not meter.steps:
            return
        figures = meter.read()
        step = self.progress.step
        # Under fp16 a norm that is not finite only skips a step.
        broken = norm is not None and self.numerics.precision != "fp16" and not math.isfinite(float(norm))
        if broken or not math.isfinite(figures["loss"]):
            raise UserError(
                f"the loss or its gradient is not finite at step {step} (loss {figures['loss']:.3g}); try a lower "
                f"training.learning_rate (the newest checkpoint in {self.run.checkpoints} is from before)"
            )
        record = {
            **figures,
            "learning_rate": learning_rate,
            "grad_norm": float(norm) if norm is not None else None,
            "tokens": self.progress.tokens,
            "seconds": round(self.progress.seconds, 3),
        }
        self.log.write({"step": step, **record})
        self.accelerator.log({name: value for name, value in record.items() if value is not None}, step=step)
        bar.set_postfix_str(
            f"step {step:,}, loss {figures['loss']:.3f}, {figures['tokens_per_second']:,.0f} tokens/s", refresh=False
        )

    def validate(self) -> dict[str, Any]:
        """Score the held-out set and record the figures."""
        if self._held_out is None:
            self._held_out = self._open_held_out()
        self.model.eval()
        figures = held_out_pass(
            self.forward,
            self._held_out,
            self.settings.per_device_eval_batch_size,
            self.accelerator.device,
            self.accelerator.autocast,
        )
        self.model.train()
        record = {f"heldout_{name}": figures[name] for name in ("loss", "perplexity", "accuracy", "top5_accuracy")}
        self.log.write({"step": self.progress.step, "tokens": self.progress.tokens, **record})
        self.accelerator.log(record, step=self.progress.step)
        telemetry.say(
            f"step {self.progress.step:,}: held-out loss {figures['loss']:.4f}, accuracy {figures['accuracy']:.3f}"
        )
        return figures

    def _open_held_out(self) -> HeldOutSet:
        names, length = source_names(self.config.text), self.config.stream.sequence_length
        return HeldOutSet(self.run.validation, self.tokenizer, length, names, self.numerics.packing)

    def save(self) -> None:
        """Write a checkpoint of the run as it stands."""
        state = {
            "progress": asdict(self.progress),
            "numerics": asdict(self.numerics),
            "identity": self.identity,
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
        }
        checkpoints.save_checkpoint(
            self.run.checkpoint(self.progress.step),
            self._write_model,
            self.optimizer.optimizer,
            state,
            self.settings.save_total_limit,
        )

    def export(self) -> None:
        """Write `model/`: a plain transformers folder."""
        self.forward.close()
        write_folder(self.run.model, self._write_model)

    def figures(self) -> dict[str, Any]:
        """What the run has done, as `results.json` records it."""
        progress = self.progress
        surveyed = self.run.read_results().get("text", {})
        sources = {name: dict(counts) for name, counts in progress.counts.items()}
        for name, counts in sources.items():
            whole = surveyed.get(name, {})
            if whole.get("complete"):
                counts["epochs"] = round(counts["bytes"] / whole["training_bytes"], 3)
        return {
            "steps": progress.step,
            "tokens": progress.tokens,
            "seconds": round(progress.seconds, 3),
            "tokens_per_second": progress.tokens / max(progress.seconds, 1e-9),
            "parameters": self.model.num_parameters(),
            "sources": sources,
            **asdict(self.numerics),
        }

    def _write_model(self, folder: Path) -> None:
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
