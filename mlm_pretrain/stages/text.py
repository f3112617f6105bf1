"""The stages of the text: tokenizer, and packed rows written ahead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlm_pretrain.config import Config, fingerprint
from mlm_pretrain.console import bars, spent, telemetry
from mlm_pretrain.io.digests import check_folder
from mlm_pretrain.io.plain_json import dumps
from mlm_pretrain.io.whole import write_folder, write_json, write_text
from mlm_pretrain.models.loading import Checkpoint
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.runtime.processes import leave_to_rank_zero
from mlm_pretrain.stages.common import check_fill_mask, holding, is_up_to_date, refuse_other_run, skipped, stage
from mlm_pretrain.stages.inputs import of_tokenizer


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
    return train_tokenizer_alone(config, force)


def train_tokenizer_alone(config: Config, force: bool) -> Path:
    with holding(config) as run:
        depends = of_tokenizer(config)
        if not force and is_up_to_date(run, depends):
            return skipped("tokenizer", run.tokenizer)
        refuse_other_run(config, run)
        check_fill_mask(config)
        # What the model was trained with stays, where there is one.
        sections = ("text", "tokenizer") if run.note("pretrain") else None
        from mlm_pretrain.text.tokenizing.report import format_report

        with stage(run, "tokenizer", depends.inputs, depends.files):
            run.write_config(config, sections)
            report = _make_tokenizer(config, run)
        telemetry.show(format_report(report))
        return run.tokenizer


def _make_tokenizer(config: Config, run: RunDirectory) -> dict[str, Any]:
    """Write `tokenizer/` and `validation.jsonl`; the report on the tokenizer."""
    from mlm_pretrain.models.build import checkpoint_of
    from mlm_pretrain.text.mixture import survey
    from mlm_pretrain.text.tokenizing import tokenizer as tokenizers
    from mlm_pretrain.text.tokenizing.report import tokenizer_report

    settings = config.tokenizer
    existing = settings.path or config.model.path or config.model.init_from
    # Before all text is read.
    if (start := checkpoint_of(config.model)) is not None:
        start.check()
    if existing:
        check_folder(existing)
        revision = settings.revision if settings.path else config.model.revision
        tokenizer = tokenizers.load_tokenizer(Checkpoint(existing, revision), settings.add_tokens)
    with spent.on("reading text"):
        seen = survey(config.text, sample_bytes=0 if existing else settings.max_bytes)
    if not existing:
        with bars.doing("training the tokenizer"):
            tokenizer = tokenizers.train_tokenizer(settings, seen.sample)
        tokenizer.model_max_length = config.stream.sequence_length
    with bars.doing("scoring the tokenizer"):
        report = tokenizer_report(tokenizer, [document.text for document in seen.validation])
    report["sample_bytes"] = sum(len(text.encode()) for text in seen.sample)

    def fill(folder: Path) -> None:
        tokenizer.save_pretrained(folder)
        write_json(folder / run.tokenizer_report.name, report)

    write_folder(run.tokenizer, fill, manifest=True)
    write_text(run.validation, "".join(dumps(document._asdict()) + "\n" for document in seen.validation))
    run.record({"text": seen.sources})
    return report


def prepare(config: Config, *, force: bool = False) -> Path:
    """Write the packed rows of one epoch as shards, for `stream.prepared`; what is there and whole is kept.

    Returns:
        The folder of the shards.

    Raises:
        UserError: a source can't be read, or the folder holds something else.
    """
    leave_to_rank_zero()
    return prepare_alone(config, force)


def prepare_alone(config: Config, force: bool) -> Path:
    with holding(config) as run:
        if not is_up_to_date(run, of_tokenizer(config)):
            train_tokenizer_alone(config, force=False)
        return _prepare(config, run, force)


def _prepare(config: Config, run: RunDirectory, force: bool) -> Path:
    from mlm_pretrain.models.attention.packed import supports_packing
    from mlm_pretrain.models.build import build_model
    from mlm_pretrain.stream.shards import prepare as shards
    from mlm_pretrain.stream.shards.reading import is_whole, prepared_folder, refuse_stale
    from mlm_pretrain.text.mixture import fingerprint_corpus
    from mlm_pretrain.text.tokenizing.tokenizer import load_tokenizer, vocabulary_fingerprint

    folder = prepared_folder(config)
    tokenizer = load_tokenizer(str(run.tokenizer))
    packing = supports_packing(build_model(config.model, tokenizer, config.stream.sequence_length, config.run.seed))
    settings = shards.prepared_settings(
        config, packing, vocabulary_fingerprint(tokenizer), fingerprint_corpus(config.text)
    )
    if not force and is_whole(folder, settings):
        return skipped("prepare", folder)
    if not force and folder != run.prepared:
        refuse_stale(folder, settings)  # they may be another run's
    with stage(run, "prepare", fingerprint(settings)):
        run.write_config(config, ["prepare"])
        manifest = shards.prepare(config, tokenizer, packing, folder, settings, anew=force)
        counts = {source["name"]: {**source, "files": len(source["files"])} for source in manifest["sources"]}
        run.record({"prepared": {"sequence_length": config.stream.sequence_length, "sources": counts}})
    telemetry.show(shards.format_manifest(manifest, config.stream.sequence_length))
    return folder
