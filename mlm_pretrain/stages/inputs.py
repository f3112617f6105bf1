"""What each stage depends on, in one table: stage, inputs, output.

A stage whose inputs have not changed, and whose output is there, need not run again (`common.is_up_to_date`).
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mlm_pretrain.config import Config, Sweep, TaskConfig, fingerprint
from mlm_pretrain.io.digests import file_digest
from mlm_pretrain.records.provenance import source_commit
from mlm_pretrain.run import RunDirectory


@dataclass(frozen=True)
class Dependence:
    """What a stage is made of, and what it makes."""

    stage: str
    inputs: str
    """A fingerprint."""
    output: Path
    results: tuple[str, ...]
    """The key of its results in `results.json`, each part below the one before."""
    files: tuple[Path, ...] = ()
    """What else it leaves."""


def of_tokenizer(config: Config) -> Dependence:
    run = RunDirectory.of(config)
    return Dependence("tokenizer", text_inputs(config), run.tokenizer, ("text",), (run.validation,))


def of_pretraining(config: Config) -> Dependence:
    return Dependence("pretrain", model_inputs(config), RunDirectory.of(config).model, ("pretraining",))


def of_evaluation(config: Config) -> Dependence:
    inputs = fingerprint(model_inputs(config), config.evaluation)
    return Dependence("evaluate", inputs, RunDirectory.of(config).results, ("heldout",))


def of_task(config: Config, task: TaskConfig) -> Dependence:
    """Of the fine-tuning on a task. What is asked for beside it (a sweep, a learning curve) doesn't count."""
    named = [task.train, task.validation, task.test]
    data = [file_digest(Path(file)) for file in named if file and Path(file).is_file()]
    # That its code may run is said anew for each command, and changes nothing that is learnt.
    origin = task.origin and task.origin.model_dump(exclude={"trust_remote_code"})
    encoder = [origin, folder_digests(task.origin.path)] if task.origin else model_inputs(config)
    plain = task.model_copy(update={"train_fractions": [], "sweep": Sweep(), "model": None})
    inputs = fingerprint(encoder, plain, data, config.text.validation_fraction)
    return Dependence(f"finetune {task.name}", inputs, RunDirectory.of(config).task(task.name), ("tasks", task.name))


def table(config: Config) -> list[Dependence]:
    """All stages of a run, in order."""
    return [
        of_tokenizer(config),
        of_pretraining(config),
        of_evaluation(config),
        *(of_task(config, task) for task in config.tasks),
    ]


VERSIONED = ("mlm-pretrain", "torch", "transformers", "datasets", "tokenizers", "accelerate")


def text_inputs(config: Config) -> str:
    """What the tokenizer stage depends on, the corpus included."""
    from mlm_pretrain.text.sources import fingerprint_source

    corpus = [fingerprint_source(source) for source in config.text.sources]
    length = config.stream.sequence_length
    existing = folder_digests(config.tokenizer.path)
    checkpoint = config.model.path or config.model.init_from
    return fingerprint(corpus, config.text, config.tokenizer, existing, checkpoint, config.model.revision, length)


def model_inputs(config: Config) -> str:
    """What the pretrained model depends on."""
    from mlm_pretrain.training.resume import identity

    shards = str(config.prepare.deduplicate) if config.stream.prepared else None
    checkpoint = folder_digests(config.model.path or config.model.init_from)
    return fingerprint(identity(config, text_inputs(config), {}, shards), checkpoint)


def folder_digests(path: str | None) -> dict[str, Any]:
    """The digests of a local checkpoint's files; empty for a repository on the Hub."""
    folder = Path(path) if path else None
    if folder is None or not folder.is_dir():
        return {}
    kept = (".json", ".safetensors", ".txt", ".model")
    return {file.name: file_digest(file) for file in sorted(folder.iterdir()) if file.suffix in kept}


def versions() -> dict[str, str]:
    commit = source_commit()
    known = {"python": platform.python_version(), **{name: version(name) for name in VERSIONED}}
    return known | ({"mlm-pretrain commit": commit} if commit else {})
