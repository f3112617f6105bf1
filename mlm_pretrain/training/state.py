"""A run between two steps: made anew or taken up from a checkpoint, saved, exported."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mlm_pretrain.config import Config
from mlm_pretrain.console import bars, spent, telemetry
from mlm_pretrain.errors import UserError
from mlm_pretrain.io.whole import write_folder
from mlm_pretrain.models.attention.packed import candidate_attentions
from mlm_pretrain.models.build import build_model
from mlm_pretrain.models.ids import leave_out_token_types
from mlm_pretrain.models.loading import Checkpoint
from mlm_pretrain.models.masked_head import MaskedLogits
from mlm_pretrain.objectives.base import OBJECTIVES, Objective
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.runtime import checkpoint as checkpoints
from mlm_pretrain.runtime.bad_loss import first_not_finite
from mlm_pretrain.runtime.optim import make_optimizer
from mlm_pretrain.runtime.processes import Processes
from mlm_pretrain.stream.loader import GlobalBatch, merge_counts
from mlm_pretrain.stream.shards.prepare import prepared_settings
from mlm_pretrain.stream.shards.reading import prepared_folder, refuse_stale, shards_fingerprint
from mlm_pretrain.text.mixture import fingerprint_corpus, source_names
from mlm_pretrain.text.tokenizing.tokenizer import load_tokenizer, vocabulary_fingerprint
from mlm_pretrain.text.tokenizing.vocabulary import ordinary_token_ids
from mlm_pretrain.training.initialise import initialise
from mlm_pretrain.training.numerics import Numerics, seed_process, settle_numerics, settle_step
from mlm_pretrain.training.resume import VOCABULARY, Progress, identity, refuse_changes
from mlm_pretrain.training.tuning.probe import Probe
from mlm_pretrain.training.tuning.search import TRYING


class TrainingState:
    """Model, optimizer, objective and how far they are.

    Args:
        config: the run's config; `tokenizer/` stands in the run already.
        processes: those of the run, each of which has such a state; by default there is but this one.

    Raises:
        UserError: bad input, or the newest checkpoint is of another run.
    """

    def __init__(self, config: Config, run: RunDirectory, processes: Processes | None = None) -> None:
        self.config = config
        self.run = run
        self.settings = config.training
        self.processes = processes or Processes()
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(str(run.tokenizer))
        self._names = source_names(config.text)
        saved = self._newest_checkpoint()
        state = checkpoints.read_state(saved) if saved else None
        self.progress = Progress(**state["progress"]) if state else Progress()
        self._saved_step = self.progress.step
        self._last_batch: GlobalBatch | None = None
        length = config.stream.sequence_length
        with bars.doing("building the model"):
            model: PreTrainedModel = build_model(
                config.model, self.tokenizer, length, config.run.seed, announce=not saved
            )
        if broken := first_not_finite(model.named_parameters()):
            raise UserError(f"{config.model.path}: its weights {broken} are not finite; take another checkpoint")
        if saved:
            attention = state["numerics"]["attention"] if state else None
            trusted = Checkpoint(str(saved), None, config.model.trust_remote_code)
            model, _ = trusted.weights(type(model), model.config, attn_implementation=attention)
        old = Numerics(**state["numerics"]) if state else None
        with bars.doing("trying precision and packing", TRYING):
            settled, self.accelerator = settle_numerics(config, run, model, old, self.processes)
        if config.stream.prepared:
            settings = prepared_settings(config, settled.packing, self.identity[VOCABULARY], self._corpus)
            refuse_stale(prepared_folder(config), settings)
        if not saved:
            self.progress.initialisation = initialise(config, model, self.tokenizer, settled.packing, self.processes)
            self.progress.seconds += self.progress.initialisation.get("seconds", 0.0)
        if self.settings.gradient_checkpointing:
            model.activation_checkpointing_enable()
        leave_out_token_types(self.tokenizer, model.config)
        self.model = model.to(self.accelerator.device).train()
        self.optimizer = make_optimizer(self.model, self.settings)
        if saved and state:
            checkpoints.restore_optimizer(saved, self.optimizer, state["optimizer"])
        self.objective: Objective = OBJECTIVES[config.objective.name](config.objective, self.tokenizer, length)
        # Told now: Accelerate is about to wrap the model, and in bf16 nothing has the same logits.
        is_open = settled.packing and not old and not config.model.attn_implementation
        with spent.on(TRYING):
            attentions = candidate_attentions(self.model, self.accelerator.device) if is_open else []
        self.prepared, self.optimizer = self.accelerator.prepare(self.model, self.optimizer)
        if state and state["scaler"] and self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.numerics, tried = self._settle_step(attentions, settled, old)
        self.tuning: dict[str, Any] = (state.get("tuning") if state else tried) or {}
        """What was tried before the first step, what it cost and what it brought."""
        self.forward = MaskedLogits(self.model, self.numerics.packing, call=self.prepared)
        seed_process(config.run.seed, self.processes.rank, self.progress.step)  # dropout, where a model has any
        if saved:
            checkpoints.restore_random(saved, self.processes.rank)
            telemetry.say(f"going on from {saved} ({self.progress.tokens:,} tokens)")

    def _settle_step(
        self, attentions: list[str], settled: Numerics, old: Numerics | None
    ) -> tuple[Numerics, dict[str, Any] | None]:
        """Find how a step is made fastest, or make it as before; the time that takes is part of the run's."""
        started = time.monotonic()
        length, ids = self.config.stream.sequence_length, ordinary_token_ids(self.tokenizer)
        probe = Probe(self.model, self.objective, self.accelerator, ids, length, settled.packing)
        with spent.on(TRYING):
            settled, tried = settle_step(self.config, probe, attentions, settled, old, self.processes, self.progress)
        probe.close()
        self.progress.seconds += time.monotonic() - started
        return settled, tried

    def _newest_checkpoint(self) -> Path | None:
        """What to go on from, found by rank zero for all; sets what the run is.

        Raises:
            UserError: it is of another run.
        """
        found: dict[str, Any] = {}
        if self.processes.rank == 0:
            config, vocabulary = self.config, vocabulary_fingerprint(self.tokenizer)
            corpus = fingerprint_corpus(config.text)
            shards = shards_fingerprint(prepared_folder(config)) if config.stream.prepared else None
            found["identity"] = identity(config, vocabulary, corpus, shards)
            found["corpus"] = corpus
            checkpoints.remove_leftovers(self.run.checkpoints)
            saved = checkpoints.newest_checkpoint(self.run.checkpoints)
            found["saved"] = str(saved) if saved else None
            if saved:
                refuse_changes(saved, checkpoints.read_state(saved)["identity"], found["identity"])
        found = self.processes.broadcast(found)
        self.identity, self._corpus = found["identity"], found["corpus"]
        return Path(found["saved"]) if found["saved"] else None

    def save(self) -> None:
        """Write a checkpoint of the run as it stands: rank zero does, with what it has of all."""
        progress, batch = self.progress, self._last_batch
        assert batch is not None, "there was a step since the last save"
        parts = self.processes.gather(
            {"lanes": batch.lanes, "counts": batch.counts, "random": checkpoints.random_state()}
        )
        progress.stream = {lane: state for part in parts for lane, state in part["lanes"].items()}
        progress.counts = merge_counts(part["counts"] for part in parts)
        if self.processes.rank == 0:
            state = {
                "progress": asdict(progress),
                "numerics": asdict(self.numerics),
                "tuning": self.tuning,
                "identity": self.identity,
                "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
            }
            checkpoints.save_checkpoint(
                self.run.checkpoint(progress.step),
                self._write_model,
                self.optimizer.optimizer,
                state,
                checkpoints.joined_random([part["random"] for part in parts]),
                self.settings.save_total_limit,
            )
        self.processes.wait()
        self._saved_step = progress.step

    def export(self) -> None:
        """Write `model/`: a plain transformers folder."""
        self.forward.close()
        if self.processes.rank == 0:
            with bars.doing("writing the model"):
                write_folder(self.run.model, self._write_model, manifest=True)

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
            "skipped_steps": progress.skipped_steps,
            "tokens": progress.tokens,
            "seconds": round(progress.seconds, 3),
            "tokens_per_second": progress.tokens / max(progress.seconds, 1e-9),
            "parameters": self.model.num_parameters(),
            "initialisation": progress.initialisation,
            "sources": sources,
            "tuning": self.tuning,
            **asdict(self.numerics),
        }

    def _write_model(self, folder: Path) -> None:
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
