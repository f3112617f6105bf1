"""Masked-language-model pretraining: load → step → log → validate → save, until the budget is spent."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from mlm_pretrain.config import Config
from mlm_pretrain.console import bars, outlook, spent, telemetry
from mlm_pretrain.errors import UserError
from mlm_pretrain.models.ids import vocabulary_size
from mlm_pretrain.models.masked_head import with_places
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.runtime import trackers
from mlm_pretrain.runtime.bad_loss import PretrainingGuard, StepDone
from mlm_pretrain.runtime.interrupts import Interrupted, Interrupts, reason_of
from mlm_pretrain.runtime.loss import Batch, backward_global_batch, clip_gradients, count_labels
from mlm_pretrain.runtime.optim import set_learning_rate
from mlm_pretrain.runtime.processes import Processes
from mlm_pretrain.runtime.schedule import learning_rate_at
from mlm_pretrain.stream.loader import GlobalBatch, global_batches
from mlm_pretrain.text.mixture import source_names
from mlm_pretrain.training import budget as budgets
from mlm_pretrain.training.numerics import default_workers
from mlm_pretrain.training.records import Records
from mlm_pretrain.training.short_rows import cut_rows, row_lengths
from mlm_pretrain.training.state import TrainingState
from mlm_pretrain.training.tuning.compiling import never_recompiled
from mlm_pretrain.training.utilisation import Utilisation
from mlm_pretrain.training.validate import HeldOutSet, check_loss, score_in_training

OnBatch = Callable[[int, GlobalBatch], None]
OnSave = Callable[[int, Path], None]


def pretrain(
    config: Config,
    run: RunDirectory,
    on_batch: OnBatch | None = None,
    processes: Processes | None = None,
    interrupts: Interrupts | None = None,
    on_save: OnSave | None = None,
) -> dict[str, Any]:
    """Train a masked language model, or go on from the run's newest complete checkpoint, and export it to `model/`.

    Args:
        config: the run's config; `tokenizer/` and `validation.jsonl` stand in the run already.
        run: where checkpoints, metrics and the model go; rank zero holds it and writes.
        on_batch: called with (step, batch) before each step.
        processes: those of this run, all of which call this; by default there is but this one.
        interrupts: what may ask the run to stop; by default nothing does.
        on_save: called by rank zero with (step, checkpoint) behind each save; the checkpoint may be pruned later.

    Returns:
        The figures of the run, as in `results.json` under `pretraining`.

    Raises:
        UserError: bad input; a checkpoint of another run; a bad loss; another process has died.
        Interrupted: the run was asked to stop; a checkpoint is written.
    """
    processes = processes or Processes()
    with run.locked() if processes.rank == 0 else contextlib.nullcontext(), processes.guarded():
        trainer = Pretraining(config, run, processes, interrupts, on_save)
        trainer.train(on_batch)
        trainer.export()
        trainer.stop_if_asked()
        return trainer.figures()


class Pretraining(TrainingState):
    """A run in the making.

    Args:
        config, run, processes: see `TrainingState`.
        interrupts: what may ask the run to stop; by default nothing does.
        on_save: called by rank zero with (step, checkpoint) behind each save.
    """

    def __init__(
        self,
        config: Config,
        run: RunDirectory,
        processes: Processes | None = None,
        interrupts: Interrupts | None = None,
        on_save: OnSave | None = None,
    ) -> None:
        super().__init__(config, run, processes)
        self._on_save = on_save
        self._interrupts = interrupts or Interrupts()
        self._stop_reason: str | None = None
        self._seconds_before = self.progress.seconds
        self._row_lengths = row_lengths(config)
        log = telemetry.MetricsLog(run.metrics)
        log.rewind(self.progress.step)
        self._guard = PretrainingGuard(
            self.settings,
            vocabulary_size(self.tokenizer),
            source_names(config.text),
            run.checkpoints,
            self.processes,
            scaled=self.accelerator.scaler is not None,
        )
        self._utilisation = Utilisation(config, self.model, self.numerics)
        self._records = Records(log, self.accelerator, self.processes, self._guard, self._utilisation)
        self._held_out: HeldOutSet | None = None
        if self.settings.eval_steps:
            self._held_out = self._open_held_out()  # at once, so that missing text is told at the start

    def train(self, on_batch: OnBatch | None = None) -> None:
        """Step until the budget is spent or the text has ended; the last step is saved.

        Raises:
            Interrupted: the run was asked to stop; the last step is saved.
        """
        settings, progress, records = self.settings, self.progress, self._records
        trackers.start(self.accelerator, self.config, self.run, progress.step)
        self._began = time.monotonic()
        rate = 0.0
        total = budgets.total(settings.budget)
        begin = budgets.done(settings.budget, progress)
        with (
            never_recompiled(),
            spent.on("stepping"),
            bars.progress(total, "pretrain", initial=begin, rate=False) as bar,
        ):
            for batch, labels, tokens in self._agreed_batches():
                if on_batch:
                    on_batch(progress.step, batch)
                share = budgets.share_spent(settings.budget, progress)
                rate = learning_rate_at(settings, share, progress.step, settings.budget.steps)
                done = self._step(batch, labels, rate)
                progress.step += 1
                progress.tokens += tokens
                progress.skipped_steps += done is None
                progress.seconds = self._clock()
                self._last_batch = batch
                records.step_done(done, tokens)
                outlook.stage_left(budgets.seconds_left(settings.budget, progress, records.step_seconds, tokens))
                validate, save = (_is_due(every, progress.step) for every in (settings.eval_steps, settings.save_steps))
                # Whatever is scored or saved has been looked at.
                if validate or save or _is_due(settings.logging_steps, progress.step):
                    records.write(progress, rate, batch.counts, bar)
                if validate:
                    self.validate()
                if save:
                    self.save()
                bar.update(min(budgets.done(settings.budget, progress), total) - bar.n)
            if self._last_batch and records.pending:
                records.write(progress, rate, self._last_batch.counts, bar)
        if progress.step > self._saved_step:
            self.save()
        trackers.finish(self.accelerator)
        self._raise_if(self._stop_reason)

    def _agreed_batches(self) -> Iterator[tuple[GlobalBatch, int, int]]:
        """The coming steps' batches, each with its labels and tokens over all processes, until all agree to end.

        One small reduction a step tells everything that processes have to know of each other; under a budget in
        minutes, the clock is rank zero's.
        """
        batches = self._batches()
        progress, processes = self.progress, self.processes
        while True:
            with spent.on("waiting for data"):
                batch, fault = _next_or_fault(batches)
            self._records.batch_came()
            mine = [count_labels(batch.tensors), batch.tokens, 0] if batch else [0, 0, 1]
            times = [self._clock(), self._records.step_seconds] if processes.rank == 0 else [0.0, 0.0]
            agreed = processes.sum([*mine, *times, *self._interrupts.requests()])
            labels, tokens, faults, progress.seconds, step_seconds, *requests = agreed
            if budgets.is_over(self.settings.budget, progress, step_seconds):
                return
            self._stop_reason = reason_of(requests)
            if self._stop_reason:
                return
            if faults:
                raise UserError(next(text for text in processes.gather(fault) if text))
            assert batch is not None
            if not tokens:
                telemetry.say(f"the text is at its end after {progress.step:,} steps, before the budget is")
                return
            yield batch, int(labels), int(tokens)

    def _step(self, batch: GlobalBatch, labels: int, learning_rate: float) -> StepDone | None:
        """Train on a batch; None if its loss is bad and the step was left out."""
        set_learning_rate(self.optimizer, learning_rate)
        size, length = self.numerics.micro_batch, self._row_lengths.at(self.progress.step)
        micro_batches: list[Batch] = [
            with_places(cut_rows({name: tensor[rows] for name, tensor in batch.tensors.items()}, length))
            for rows in (slice(start, start + size) for start in range(0, len(batch.rows), size))
        ]
        loss = backward_global_batch(
            self.accelerator,
            self.prepared,
            micro_batches,
            lambda micro: self.objective.loss(self.forward, micro),
            labels,
        )
        norm = clip_gradients(self.accelerator, self.prepared, self.settings.max_grad_norm)
        # Padding has no source: -1.
        sources = (torch.bincount(batch.tensors["source_ids"].flatten() + 1)[1:] > 0).nonzero().flatten().tolist()
        done = StepDone(self.progress.step + 1, loss, norm, sources)
        left_out = self._guard.skips and self._guard.is_left_out(done)
        if not left_out:
            self.optimizer.step()
        elif self.accelerator.scaler:
            self.accelerator.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return None if left_out else done

    def _batches(self) -> Iterator[GlobalBatch]:
        rank, world_size = self.processes.rank, self.processes.world_size
        workers = self.config.stream.dataloader_num_workers
        if workers is None:
            workers = default_workers(self.accelerator.device, self.config.stream.lanes, world_size)
        return global_batches(
            self.config,
            self.tokenizer,
            self.objective,
            packing=self.numerics.packing,
            num_workers=workers,
            state=self.progress.stream,
            step=self.progress.step,
            rank=rank,
            world_size=world_size,
        )

    def save(self) -> None:
        with bars.doing("saving a checkpoint", "saving"):
            self._guard.check_weights(self.model, self.progress.step)
            super().save()
        if self._on_save and self.processes.rank == 0:
            self._on_save(self.progress.step, self.run.checkpoint(self.progress.step))

    def validate(self) -> dict[str, Any]:
        """Score the held-out set and record the figures."""
        with spent.on("scoring validation"):
            return self._validate()

    def _validate(self) -> dict[str, Any]:
        if self._held_out is None:
            self._held_out = self._open_held_out()
        size, packing = self.settings.per_device_eval_batch_size, self.numerics.packing
        figures = score_in_training(self.model, self._held_out, size, packing, self.accelerator, self.processes)
        what = f"the model of step {self.progress.step}"
        check_loss(figures, vocabulary_size(self.tokenizer), what, self._guard.remedy, self.settings.max_loss)
        record = {f"heldout_{name}": figures[name] for name in ("loss", "perplexity", "accuracy", "top5_accuracy")}
        self._records.note(self.progress.step, {"tokens": self.progress.tokens, **record})
        telemetry.say(
            f"step {self.progress.step:,}: held-out loss {figures['loss']:.4f}, accuracy {figures['accuracy']:.3f}"
        )
        return figures

    def _open_held_out(self) -> HeldOutSet:
        names, length = source_names(self.config.text), self.config.stream.sequence_length
        return HeldOutSet(self.run.validation, self.tokenizer, length, names, self.numerics.packing)

    def _clock(self) -> float:
        """Seconds of training, over all parts of the run."""
        return self._seconds_before + time.monotonic() - self._began

    def figures(self) -> dict[str, Any]:
        energy = self._records.energy.figures()
        figures = super().figures() | ({"energy": energy} if energy else {})
        mfu = self._utilisation.of(figures["tokens_per_second"], figures["seconds"])
        return figures if mfu is None else figures | {"mfu": round(mfu, 4)}

    def stop_if_asked(self) -> None:
        """
        Raises:
            Interrupted: some process was asked to stop since the loop has ended.
        """
        self._raise_if(reason_of(self.processes.sum(self._interrupts.requests())))

    def _raise_if(self, reason: str | None) -> None:
        if reason:
            place = f"the checkpoint is {self.run.checkpoint(self._saved_step)}" if self._saved_step else "no step done"
            raise Interrupted(
                f"stopped after step {self.progress.step:,} ({reason}); {place}; the same command goes on", reason
            )


def _is_due(every: int | None, step: int) -> bool:
    return every is not None and step % every == 0


def _next_or_fault(batches: Iterator[GlobalBatch]) -> tuple[GlobalBatch | None, str | None]:
    """The next batch, or what to tell all processes of the error in its place."""
    try:
        return next(batches), None
    except UserError as error:
        return None, str(error)
