"""The stages as plain functions: each reads its inputs from the run directory and leaves its outputs there.

A stage whose output stands and whose inputs have not changed is skipped; `force=True` runs it all the same.

Pretraining uses all processes that a launcher has started. Whatever else is to be done, rank zero does alone: the
others wait for it before pretraining, and exit behind it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlm_pretrain import telemetry
from mlm_pretrain.config import Config, TaskConfig, fingerprint
from mlm_pretrain.errors import UserError
from mlm_pretrain.inputs import folder_digests, model_inputs, text_inputs, versions
from mlm_pretrain.run import RunDirectory, file_digest, write_folder, write_json, write_text
from mlm_pretrain.training.ending import noted_end
from mlm_pretrain.training.interrupts import Interrupts
from mlm_pretrain.training.processes import Processes, leave_to_rank_zero, start


def train_tokenizer(config: Config, *, force: bool = False) -> Path:
    """Make `tokenizer/` and set the held-out documents aside in `validation.jsonl`.

    Trains a tokenizer on a sample of the training text, or takes an existing one (`tokenizer.path`, or the one of
    the checkpoint that `model.path` or `model.init_from` names).

    Returns:
        The folder of the tokenizer, for `AutoTokenizer.from_pretrained`.

    Raises:
        UserError: a source or the existing tokenizer can't be read, or there is no text.
    """
    leave_to_rank_zero()
    return _train_tokenizer(config, force)


def _train_tokenizer(config: Config, force: bool) -> Path:
    run = RunDirectory.of(config)
    inputs = text_inputs(config)
    if not force and _tokenizer_stands(run, inputs):
        return _skipped("tokenizer", run.tokenizer)
    _refuse_other_run(config, run)
    run.write_config(config)
    _check_fill_mask(config)
    from mlm_pretrain.text import tokenizer as tokenizers
    from mlm_pretrain.text.mixture import survey
    from mlm_pretrain.text.tokenizer_report import format_report, tokenizer_report

    settings = config.tokenizer
    existing = settings.path or config.model.path or config.model.init_from
    with _stage(run, "tokenizer", inputs):
        seen = survey(config.text, sample_bytes=0 if existing else settings.max_bytes)
        if existing:
            revision = settings.revision if settings.path else config.model.revision
            tokenizer = tokenizers.load_tokenizer(existing, revision, settings.add_tokens)
        else:
            tokenizer = tokenizers.train_tokenizer(settings, seen.sample)
            tokenizer.model_max_length = config.stream.sequence_length
        report = tokenizer_report(tokenizer, [document.text for document in seen.validation])
        report["sample_bytes"] = sum(len(text.encode()) for text in seen.sample)

        def fill(folder: Path) -> None:
            tokenizer.save_pretrained(folder)
            write_json(folder / run.tokenizer_report.name, report)

        write_folder(run.tokenizer, fill)
        rows = (json.dumps(document._asdict(), ensure_ascii=False) + "\n" for document in seen.validation)
        write_text(run.validation, "".join(rows))
        run.record({"text": seen.sources})
    print(format_report(report), flush=True)
    return run.tokenizer


def prepare(config: Config, *, force: bool = False) -> Path:
    """Write the packed rows of one epoch as shards, for `stream.prepared`; what is there and whole is kept.

    Returns:
        The folder of the shards.

    Raises:
        UserError: a source can't be read, or the folder holds something else.
    """
    leave_to_rank_zero()
    return _prepare(config, force)


def _prepare(config: Config, force: bool) -> Path:
    run = RunDirectory.of(config)
    if not _tokenizer_stands(run, text_inputs(config)):
        _train_tokenizer(config, force=False)
    from mlm_pretrain.models.build import build_model
    from mlm_pretrain.models.packed_attention import supports_packing
    from mlm_pretrain.stream import prepare as shards
    from mlm_pretrain.stream.prepared import is_whole, prepared_folder, refuse_stale
    from mlm_pretrain.text.mixture import fingerprint_corpus
    from mlm_pretrain.text.tokenizer import load_tokenizer, vocabulary_fingerprint

    folder = prepared_folder(config)
    tokenizer = load_tokenizer(str(run.tokenizer))
    packing = supports_packing(build_model(config.model, tokenizer, config.stream.sequence_length, config.run.seed))
    settings = shards.prepared_settings(
        config, packing, vocabulary_fingerprint(tokenizer), fingerprint_corpus(config.text)
    )
    if not force and is_whole(folder, settings):
        return _skipped("prepare", folder)
    if not force and folder != run.prepared:
        refuse_stale(folder, settings)  # they may be another run's
    with _stage(run, "prepare", fingerprint(settings)):
        manifest = shards.prepare(config, tokenizer, packing, folder, settings, anew=force)
        counts = {source["name"]: {**source, "files": len(source["files"])} for source in manifest["sources"]}
        run.record({"prepared": {"sequence_length": config.stream.sequence_length, "sources": counts}})
    print(shards.format_manifest(manifest, config.stream.sequence_length), flush=True)
    return folder


def pretrain(config: Config, *, force: bool = False) -> Path:
    """Pretrain the model, going on from the newest complete checkpoint where there is one.

    Returns:
        `model/`, for `AutoModelForMaskedLM.from_pretrained`.

    Raises:
        UserError: bad input, a checkpoint of another run, a bad loss, or another process has died.
        Interrupted: a signal, Ctrl-C or the end of the launcher asked to stop; a checkpoint is written.
        SystemExit: this process is not rank zero, and is not needed any more.
    """
    return _pretrain(config, start(config), force)


def _pretrain(config: Config, processes: Processes, force: bool) -> Path:
    run = RunDirectory.of(config)
    if processes.rank == 0:
        _lead_pretraining(config, run, processes, force)
    elif processes.broadcast():
        from mlm_pretrain.training.loop import pretrain as train

        with Interrupts() as interrupts:
            train(config, run, processes=processes, interrupts=interrupts)
    processes.go_on_alone()
    write_cards(config)
    return run.model


def _lead_pretraining(config: Config, run: RunDirectory, processes: Processes, force: bool) -> None:
    """What rank zero does; the others wait to be told whether there is anything to train."""
    inputs = model_inputs(config)
    if not force and run.stands("pretrain", inputs, run.model):
        _skipped("pretrain", run.model)
        processes.broadcast(False)
        return
    _refuse_other_run(config, run)
    if not _tokenizer_stands(run, text_inputs(config)):
        _train_tokenizer(config, force=False)
    # A folder that runs may share is written by nobody but the verb `prepare`.
    if config.stream.prepared is True:
        _prepare(config, force=False)
    run.write_config(config)
    from mlm_pretrain.training.loop import pretrain as train

    # Signals are the outer context: the launcher's, when another process has died, may not cut the last note short.
    with Interrupts() as interrupts, _stage(run, "pretrain", inputs):
        processes.broadcast(True)
        figures = train(config, run, processes=processes, interrupts=interrupts)
        run.record({"pretraining": figures, "versions": versions()})


def evaluate(config: Config, *, force: bool = False) -> dict[str, Any]:
    """Score `model/` on the held-out documents.

    Returns:
        loss (nats per masked token), perplexity, accuracies, by source too.

    Raises:
        UserError: there is no model yet, or no held-out text.
    """
    leave_to_rank_zero()
    run = RunDirectory.of(config)
    inputs = fingerprint(model_inputs(config), config.evaluation)
    if not force and run.stands("evaluate", inputs, run.results) and "heldout" in run.read_results():
        _skipped("evaluate", run.results)
        return run.read_results()["heldout"]
    from mlm_pretrain.evaluation import masked_lm

    _check_fill_mask(config)
    run.write_config(config, ["evaluation"])
    with _stage(run, "evaluate", inputs):
        figures = masked_lm.evaluate(config, run)
        run.record(figures)
    write_cards(config)
    print(masked_lm.format_figures(figures["heldout"]), flush=True)
    return figures["heldout"]


def finetune(config: Config, name: str | None = None, *, force: bool = False, sweep: bool = False) -> dict[str, Any]:
    """Fine-tune the run's encoder (or a task's own `model`) on one task, or on all.

    Args:
        name: of the task; None takes all.
        sweep: first look for each task's best learning rate and number of epochs, as its `sweep` says.

    Returns:
        The results by task name, as in `results.json` under `tasks`.

    Raises:
        UserError: there is no such task, no encoder yet, or its data can't be read.
    """
    leave_to_rank_zero()
    if not config.tasks:
        example = "tasks: [{task: classification, name: topic, train: topics.jsonl}]"
        raise UserError(f"tasks: the config names no task; an example: {example}")
    chosen = [config.task(name)] if name else config.tasks
    run = RunDirectory.of(config)
    run.write_config(config, ["tasks"])
    for task in chosen:
        _finetune_one(config, run, task, force, sweep)
    write_cards(config)
    return run.read_results()["tasks"]


def write_cards(config: Config) -> Path:
    """Write the cards of the run, its encoder and its tasks, from the records."""
    from mlm_pretrain.publish.card import write_cards as write

    run = RunDirectory.of(config)
    write(run)
    return run.card


def push(config: Config, *, repo_id: str | None = None, dry_run: bool = False) -> list[Any]:
    """Send the encoder and each task model to the Hub, private unless the config says otherwise.

    Raises:
        UserError: there is nothing to push, no repository is named, or the Hub can't be reached or refuses.
    """
    leave_to_rank_zero()
    from mlm_pretrain.publish import hub

    return hub.push(RunDirectory.of(config), config, dry_run=dry_run, repo_id=repo_id)


def run_all(config: Config) -> RunDirectory:
    """Every stage in order; those that stand are skipped.

    Raises:
        UserError: as the stages do.
    """
    processes = start(config)
    telemetry.say(f"run {config.run.name}: {RunDirectory.of(config).root}")
    if processes.rank == 0:
        _train_tokenizer(config, force=False)
    _pretrain(config, processes, force=False)
    if RunDirectory.of(config).validation.stat().st_size:
        evaluate(config)
    else:
        telemetry.warn("evaluate: skipped, no text is held out; a larger text.validation_fraction holds some out")
    if config.tasks:
        finetune(config)
    return RunDirectory.of(config)


def _finetune_one(config: Config, run: RunDirectory, task: TaskConfig, force: bool, sweep: bool) -> None:
    if not task.origin and not run.model.exists():
        raise UserError(f"{run.model}: no model; `mlm-pretrain pretrain` writes it, or give the task a `model`")
    data = [
        file_digest(Path(file)) for file in (task.train, task.validation, task.test) if file and Path(file).is_file()
    ]
    origin = task.origin
    encoder = [origin, folder_digests(origin.path)] if origin else model_inputs(config)
    inputs = fingerprint(encoder, task, data, config.text.validation_fraction, sweep)
    stage = f"finetune {task.name}"
    if not force and run.stands(stage, inputs, run.task(task.name)):
        _skipped(stage, run.task(task.name))
        return
    from mlm_pretrain.tasks.finetune import finetune as train

    with _stage(run, stage, inputs):
        result = train(
            task,
            origin.path if origin else run.model,
            run.task(task.name),
            held_out_fraction=config.text.validation_fraction,
            revision=origin.revision if origin else None,
            sweep=sweep,
            inputs=inputs,
        )
        run.record({"tasks": {task.name: result}})


@contextlib.contextmanager
def _stage(run: RunDirectory, name: str, inputs: str) -> Iterator[None]:
    with run.stage(name, inputs), noted_end(run, name):
        yield


def _refuse_other_run(config: Config, run: RunDirectory) -> None:
    """Before anything is overwritten: refuse to put another run in the place of one that has checkpoints.

    Raises:
        UserError: names the first key that differs from the run's own.
    """
    if not run.checkpoints.is_dir():
        return
    from mlm_pretrain.text.mixture import fingerprint_corpus
    from mlm_pretrain.training.checkpoint import recorded_identity
    from mlm_pretrain.training.resume import SHARDS, VOCABULARY, identity, refuse_changes

    recorded = recorded_identity(run.checkpoints)
    if recorded is not None:
        saved, old = recorded
        corpus = fingerprint_corpus(config.text)
        refuse_changes(saved, old, identity(config, old[VOCABULARY], corpus, old.get(SHARDS)))


def _check_fill_mask(config: Config) -> None:
    for text in config.evaluation.fill_mask:
        if text.count("[MASK]") != 1:
            raise UserError(f"evaluation.fill_mask: write [MASK] once in '{text}'")


def _skipped(stage: str, output: Path) -> Path:
    telemetry.say(f"{stage}: stands ({output})")
    return output


def _tokenizer_stands(run: RunDirectory, inputs: str) -> bool:
    return run.stands("tokenizer", inputs, run.tokenizer) and run.validation.exists()
