"""The verbs: what each does with its arguments; the first line of each is its help."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mlm_pretrain import escaping
from mlm_pretrain.cli import options
from mlm_pretrain.console import telemetry

if TYPE_CHECKING:
    from mlm_pretrain.config import Config


def check(arguments: argparse.Namespace) -> None:
    """look for all that is wrong with a config, and at which stages have to run; nothing is trained or written"""
    from mlm_pretrain import stages

    telemetry.show(stages.check(_config(arguments)))


def tokenizer(arguments: argparse.Namespace) -> None:
    """train a tokenizer (or take an existing one) and set held-out text aside"""
    from mlm_pretrain import stages

    telemetry.show(stages.train_tokenizer(_config(arguments), force=arguments.force))


def prepare(arguments: argparse.Namespace) -> None:
    """tokenise and pack the text into shards ahead of training"""
    from mlm_pretrain import stages

    config = _config(arguments)
    telemetry.show(stages.prepare(config, force=arguments.force))
    if not config.stream.prepared:
        telemetry.show("to train on these shards: stream.prepared=true")


def pretrain(arguments: argparse.Namespace) -> None:
    """pretrain a masked language model, or go on from its newest checkpoint"""
    from mlm_pretrain import stages, summary

    config = _config(arguments)
    model = stages.pretrain(config, force=arguments.force)
    telemetry.say(summary.pretraining(stages.RunDirectory.of(config).read_results()))
    telemetry.show(model)


def evaluate(arguments: argparse.Namespace) -> None:
    """score the model on held-out text; with --data, a task's model on a labelled file"""
    if arguments.data is None:
        from mlm_pretrain import stages

        stages.evaluate(_config(arguments), force=arguments.force)
        return
    from mlm_pretrain.config import TaskConfig
    from mlm_pretrain.config.yaml_text import meant, read_value
    from mlm_pretrain.tasks.serve import evaluate as scoring

    out = arguments.out and Path(arguments.out)
    given = {key: read_value(value) for key, _, value in (text.partition("=") for text in arguments.overrides)}
    columns = meant(given, TaskConfig) | options.reading_of(arguments)
    trusted = arguments.trust_remote_code
    figures = scoring.evaluate(arguments.config, Path(arguments.data), out, columns=columns, trust_remote_code=trusted)
    telemetry.show(scoring.describe(figures))


def finetune(arguments: argparse.Namespace) -> None:
    """fine-tune the encoder on the config's tasks, or on one of them"""
    from mlm_pretrain import stages, summary

    config = _config(arguments)
    stages.finetune(
        config,
        arguments.task,
        force=arguments.force,
        sweep=arguments.sweep,
        train_fractions=arguments.train_fractions,
    )
    telemetry.show(summary.summary(stages.RunDirectory.of(config)))


def predict(arguments: argparse.Namespace) -> None:
    """label texts with a fine-tuned model"""
    from mlm_pretrain.tasks.serve.predict import predict as label

    label(
        Path(arguments.model) if Path(arguments.model).exists() else arguments.model,
        Path(arguments.input),
        arguments.output and Path(arguments.output),
        text_column=arguments.text_column,
        text_pair_column=arguments.text_pair_column,
        question_column=arguments.question_column,
        context_column=arguments.context_column,
        batch_size=arguments.batch_size,
        max_length=arguments.max_length,
        stride=arguments.stride,
        bf16=arguments.bf16,
        top_k=arguments.top_k,
        trust_remote_code=arguments.trust_remote_code,
        **options.reading_of(arguments),
    )


def embed(arguments: argparse.Namespace) -> None:
    """vectors of texts, by any encoder"""
    from mlm_pretrain.tasks.serve.embed import embed as encode

    encode(
        Path(arguments.model),
        Path(arguments.input),
        Path(arguments.output),
        pooling=arguments.pooling,
        normalize=arguments.normalize,
        prompt_name=arguments.prompt_name,
        batch_size=arguments.batch_size,
        max_length=arguments.max_length,
        text_column=arguments.text_column,
        bf16=arguments.bf16,
        save_model=arguments.save_model and Path(arguments.save_model),
        trust_remote_code=arguments.trust_remote_code,
        **options.reading_of(arguments),
    )


def report(arguments: argparse.Namespace) -> None:
    """a page on a run, or on several beside each other: curves, results, mistakes"""
    from mlm_pretrain.report.page import write_report

    telemetry.show(write_report(arguments.runs, arguments.out and Path(arguments.out)))


def push(arguments: argparse.Namespace) -> None:
    """send the encoder and the task models to the Hub"""
    from mlm_pretrain import stages
    from mlm_pretrain.demo.space import space

    sent = stages.push(
        _config(arguments),
        repo_id=arguments.repo_id,
        dry_run=arguments.dry_run,
        checkpoints=arguments.checkpoints,
        tag=arguments.tag,
        further=[space] if arguments.space else (),
    )
    for pushed in sent:
        telemetry.show(pushed)


def run(arguments: argparse.Namespace) -> None:
    """every stage in order, skipping those that stand"""
    began = time.monotonic()
    from mlm_pretrain import stages, summary

    config = _config(arguments)
    done = stages.run_all(config, began)
    telemetry.show(f"\n{summary.summary(done)}\n\n{summary.next_steps(arguments.config, config)}")


def demo(arguments: argparse.Namespace) -> None:
    """a page in the browser to play with a run's models, or with any others"""
    from mlm_pretrain.demo import serve

    serve(arguments.models, arguments.host, arguments.port)


def plan(arguments: argparse.Namespace) -> None:
    """what the pretraining will cost and what its budget buys; of a finished run, beside what happened"""
    import json

    from mlm_pretrain import plan as plans
    from mlm_pretrain.run import RunDirectory

    config = _config(arguments)
    made = plans.plan(config, arguments.gpu, arguments.gpus)
    results = RunDirectory.of(config).read_results()
    rows = []
    if "pretraining" in results and not arguments.gpu:
        rows = plans.compare(plans.plan(config, gpus=arguments.gpus, own_utilisation=False), results)
    if arguments.json:
        telemetry.show(json.dumps(made.figures() | {"comparison": rows}, indent=2))
        return
    telemetry.show(plans.describe(made))
    if rows:
        telemetry.show(f"\n{plans.describe_comparison(rows)}")


def config_show(arguments: argparse.Namespace) -> None:
    """print the resolved config, defaults and overrides included"""
    from mlm_pretrain.config.shown import marked_yaml

    config = _config(arguments)
    written = marked_yaml(config)
    # YAML's own escapes, which are read back, where the console can't take it as it is.
    if not escaping.fits(written, sys.stdout):
        written = marked_yaml(config, ascii_only=True)
    telemetry.show(written.rstrip("\n"))


def _config(arguments: argparse.Namespace) -> Config:
    from mlm_pretrain.config_file import load_config

    return load_config(arguments.config, arguments.overrides)
