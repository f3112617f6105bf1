"""The stages as plain functions: each reads its inputs from the run directory and leaves its outputs there.

A stage whose output stands and whose inputs have not changed is skipped; `force=True` runs it all the same.
"""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mlm_pretrain import telemetry
from mlm_pretrain.config import Config, TaskConfig, fingerprint
from mlm_pretrain.errors import UserError
from mlm_pretrain.run import RunDirectory, file_digest, read_json, write_folder, write_json, write_text

VERSIONED = ("mlm-pretrain", "torch", "transformers", "datasets", "tokenizers", "accelerate")


def train_tokenizer(config: Config, *, force: bool = False) -> Path:
    """Make `tokenizer/` and set the held-out documents aside in `validation.jsonl`.

    Trains a tokenizer on a sample of the training text, or takes an existing one (`tokenizer.path`, or the one of
    the checkpoint that `model.path` continues).

    Returns:
        The folder of the tokenizer, for `AutoTokenizer.from_pretrained`.

    Raises:
        UserError: a source or the existing tokenizer can't be read, or there is no text.
    """
    run = _open(config)
    inputs = _text_inputs(config)
    if not force and _tokenizer_stands(run, inputs):
        return _skipped("tokenizer", run.tokenizer)
    from mlm_pretrain.text import tokenizer as tokenizers
    from mlm_pretrain.text.mixture import survey
    from mlm_pretrain.text.tokenizer_report import format_report, tokenizer_report

    settings = config.tokenizer
    existing = settings.path or config.model.path
    with run.stage("tokenizer", inputs):
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


def pretrain(config: Config, *, force: bool = False) -> Path:
    """Pretrain the model, going on from the newest complete checkpoint where there is one.

    Returns:
        `model/`, for `AutoModelForMaskedLM.from_pretrained`.

    Raises:
        UserError: bad input, a checkpoint of another run, or a loss that is not finite.
    """
    run = _open(config)
    if not _tokenizer_stands(run, _text_inputs(config)):
        train_tokenizer(config)
    inputs = _model_inputs(config)
    if not force and run.stands("pretrain", inputs, run.model):
        return _skipped("pretrain", run.model)
    from mlm_pretrain.training.loop import pretrain as train

    with run.stage("pretrain", inputs):
        run.record({"pretraining": train(config, run), "versions": _versions()})
    return run.model


def evaluate(config: Config, *, force: bool = False) -> dict[str, Any]:
    """Score `model/` on the held-out documents.

    Returns:
        loss (nats per masked token), perplexity, accuracies, by source too.

    Raises:
        UserError: there is no model yet, or no held-out text.
    """
    run = _open(config)
    inputs = fingerprint(_model_inputs(config), config.evaluation)
    if not force and run.stands("evaluate", inputs, run.results) and "heldout" in run.read_results():
        _skipped("evaluate", run.results)
        return run.read_results()["heldout"]
    from mlm_pretrain.evaluation import masked_lm

    with run.stage("evaluate", inputs):
        figures = masked_lm.evaluate(config, run)
        run.record(figures)
    print(masked_lm.format_figures(figures["heldout"]), flush=True)
    return figures["heldout"]


def finetune(config: Config, name: str | None = None, *, force: bool = False) -> dict[str, Any]:
    """Fine-tune the run's encoder (or a task's own `model`) on one task, or on all.

    Args:
        name: of the task; None takes all.

    Returns:
        The results by task name, as in `results.json` under `tasks`.

    Raises:
        UserError: there is no such task, no encoder yet, or its data can't be read.
    """
    if not config.tasks:
        raise UserError("tasks: the config names no task; see the README's section on fine-tuning")
    run = _open(config)
    for task in [config.task(name)] if name else config.tasks:
        _finetune_one(config, run, task, force)
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
    from mlm_pretrain.publish import hub

    return hub.push(RunDirectory.of(config), config, dry_run=dry_run, repo_id=repo_id)


def run_all(config: Config) -> RunDirectory:
    """Every stage in order; those that stand are skipped.

    Raises:
        UserError: as the stages do.
    """
    telemetry.say(f"run {config.run.name}: {RunDirectory.of(config).root}")
    train_tokenizer(config)
    pretrain(config)
    evaluate(config)
    if config.tasks:
        finetune(config)
    write_cards(config)
    return RunDirectory.of(config)


def _finetune_one(config: Config, run: RunDirectory, task: TaskConfig, force: bool) -> None:
    if not task.model and not run.model.exists():
        raise UserError(f"{run.model}: no model; `mlm-pretrain pretrain` writes it, or give the task a `model`")
    data = [
        file_digest(Path(file)) for file in (task.train, task.validation, task.test) if file and Path(file).is_file()
    ]
    origin = task.model or _model_inputs(config)
    inputs = fingerprint(origin, task, data, config.text.validation_fraction)
    stage = f"finetune {task.name}"
    if not force and run.stands(stage, inputs, run.task(task.name)):
        _skipped(stage, run.task(task.name))
        return
    from mlm_pretrain.tasks.finetune import finetune as train

    with run.stage(stage, inputs):
        held_out = config.text.validation_fraction
        result = train(task, task.model or run.model, run.task(task.name), held_out_fraction=held_out)
        run.record({"tasks": {task.name: result}})


def _open(config: Config) -> RunDirectory:
    if telemetry.world_size() > 1:
        raise UserError("one process for now: start it with accelerate launch --num_processes 1")
    run = RunDirectory.of(config)
    run.prepare(config)
    return run


def _skipped(stage: str, output: Path) -> Path:
    telemetry.say(f"{stage}: stands ({output})")
    return output


def _tokenizer_stands(run: RunDirectory, inputs: str) -> bool:
    return run.stands("tokenizer", inputs, run.tokenizer) and run.validation.exists()


def _text_inputs(config: Config) -> str:
    """What the tokenizer stage depends on, the corpus included."""
    from mlm_pretrain.text.sources import fingerprint_source

    corpus = [fingerprint_source(source) for source in config.text.sources]
    length = config.stream.sequence_length
    return fingerprint(corpus, config.text, config.tokenizer, config.model.path, config.model.revision, length)


def _model_inputs(config: Config) -> str:
    """What the pretrained model depends on."""
    shaping = {"logging_steps", "eval_steps", "save_steps", "save_total_limit", "report_to"}
    training = config.training.model_dump(mode="json", exclude=shaping)
    sections = (config.stream, config.objective, config.model, training, config.run.seed)
    return fingerprint(_text_inputs(config), *sections)


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in VERSIONED}}


def summary(run: RunDirectory) -> str:
    """What a run has come to, in a table, and where everything lies; every figure is read from `results.json`."""
    results = read_json(run.results)
    parts = []
    if heldout := results.get("heldout"):
        parts.append(
            f"held-out masked language modelling: loss {heldout['loss']:.3f}, perplexity {heldout['perplexity']:.1f}, "
            f"accuracy {heldout['accuracy']:.3f} on {heldout['masked_tokens']:,} tokens"
        )
    if tasks := results.get("tasks"):
        header = ("task", "metric", "pretrained", "from random weights", "majority")
        rows = [
            (
                name,
                str(task["metric"]),
                _spread(task, "pretrained"),
                _spread(task, "scratch"),
                _spread(task, "majority"),
            )
            for name, task in tasks.items()
        ]
        parts.append(telemetry.table(rows, header))
    for guess in results.get("fill_mask", []):
        words = ", ".join(f"{each['token']} ({each['score']:.2f})" for each in guess["predictions"])
        parts.append(f"{guess['text']}  →  {words}")
    if seconds := results.get("seconds"):
        total = sum(seconds.values())
        parts.append(
            "seconds: " + ", ".join(f"{name} {value:.0f}" for name, value in seconds.items()) + f"; {total:.0f} in all"
        )
    lines = [f"encoder: {run.model}", f"card:    {run.card}", f"figures: {run.results}"]
    lines[1:1] = [f"task:    {run.task(name)}" for name in results.get("tasks", {})]
    parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _spread(task: dict[str, Any], key: str) -> str:
    if key not in task:
        return "–"
    std = task.get(f"{key}_std")
    return f"{task[key]:.3f}" + (f" ± {std:.3f}" if std is not None else "")
