"""The command line: one verb a stage, imports inside the verbs so that `--help` is instant."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlm_pretrain import escaping, options
from mlm_pretrain.console import telemetry

if TYPE_CHECKING:
    from mlm_pretrain.config import Config

DESCRIPTION = "From raw text to a published, fine-tuned BERT-style encoder."

EXAMPLES = """\
examples:
  mlm-pretrain run configs/quickstart.yaml                  every stage, on text that is here already
  mlm-pretrain pretrain my.yaml training.budget.minutes=60  one stage, one key overridden
  accelerate launch -m mlm_pretrain pretrain my.yaml        the same on GPUs
  mlm-pretrain plan my.yaml --gpus 8 --gpu h100-sxm         what it will cost, and what the budget buys
  mlm-pretrain finetune runs/my-run --task ner              where a run stands, its folder serves as CONFIG
  mlm-pretrain predict runs/my-run/tasks/ner texts.txt      one text a line in, one JSON object a line out
  mlm-pretrain evaluate runs/my-run/tasks/ner --data x.conll    scores, mistakes and plots
  mlm-pretrain embed runs/my-run/model texts.txt --output vectors.npy
  mlm-pretrain demo runs/my-run                             a page to play with its models
  mlm-pretrain report runs/a runs/b --out a-and-b.html      curves, results and mistakes on a page
  mlm-pretrain push runs/my-run --dry-run                   what would be sent to the Hub
"""

Verb = Callable[[argparse.Namespace], None]


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


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb.

    Returns:
        0; 2 where the user can mend what went wrong (one line on stderr); 128 + the signal where one has stopped it,
        as 143 after SIGTERM, 130 after Ctrl-C.
    """
    escaping.take_any_console()
    arguments = _parse(argv)
    from mlm_pretrain.runtime import ending, interrupts, processes

    telemetry.quiet_libraries()
    sys.excepthook = telemetry.show_defect
    if arguments.log_format:
        os.environ[telemetry.LOG_FORMAT] = arguments.log_format
    try:
        arguments.verb(arguments)
    except interrupts.Interrupted as stop:
        telemetry.say(str(stop))
        status = stop.exit_code
    except KeyboardInterrupt:
        telemetry.say("\ninterrupted; the same command goes on where this one was")
        return interrupts.EXIT_CODES[interrupts.CTRL_C]
    except BaseException as error:
        message = ending.one_line(error)
        if message is None or arguments.debug:
            raise
        if processes.is_first_to_speak():
            # Another process than rank zero may speak into the middle of rank zero's progress bar.
            telemetry.complain(message, fresh_line=not telemetry.is_rank_zero())
        status = 2
    else:
        return 0
    processes.leave_last_word_to_rank_zero()
    return status


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; overrides may stand before and behind the options."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    for extra in rest:
        if extra.startswith("-") or "=" not in extra or not hasattr(arguments, "overrides"):
            parser.error(f"unrecognized argument: {extra}")
        arguments.overrides.append(extra)
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = options.Parser(
        prog="mlm-pretrain",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    _add(verbs, run, options.config)
    for verb in (tokenizer, prepare, pretrain):
        _add(verbs, verb, options.config, options.force)
    _add(verbs, evaluate, options.config, options.force, options.evaluate, options.reading, options.remote_code)
    _add(verbs, finetune, options.config, options.force, options.finetune)
    _add(verbs, predict, options.predict, options.reading, options.remote_code)
    _add(verbs, embed, options.embed, options.reading, options.remote_code)
    _add(verbs, report, options.report)
    _add(verbs, push, options.config, options.push)
    _add(verbs, demo, options.demo)
    _add(verbs, plan, options.config, options.plan)
    show = verbs.add_parser("config", help="show the resolved config").add_subparsers(metavar="show", required=True)
    _add(show, config_show, options.config, name="show")
    return parser


def _add(
    verbs: argparse._SubParsersAction[options.Parser],
    verb: Verb,
    *groups: Callable[[argparse.ArgumentParser], None],
    name: str | None = None,
) -> None:
    sub = verbs.add_parser(name or verb.__name__, help=verb.__doc__, description=verb.__doc__)
    for add_options in groups:
        add_options(sub)
    options.console(sub)
    sub.set_defaults(verb=verb)


def _config(arguments: argparse.Namespace) -> Config:
    from mlm_pretrain.config_file import load_config

    return load_config(arguments.config, arguments.overrides)
