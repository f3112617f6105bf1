"""The command line as it is typed: its parser, and what becomes of errors."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from mlm_pretrain import __version__, escaping
from mlm_pretrain.cli import options, verbs
from mlm_pretrain.console import telemetry
from mlm_pretrain.errors import UserErrors

DESCRIPTION = "From raw text to a published, fine-tuned BERT-style encoder."

EXAMPLES = """\
examples:
  mlm-pretrain run configs/quickstart.yaml                  every stage, on text that is here already
  mlm-pretrain check my.yaml                                what is wrong with it, before anything runs
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
            for line in error.faults if isinstance(error, UserErrors) else [message]:
                telemetry.complain(line, fresh_line=not telemetry.is_rank_zero())
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
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    subparsers = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    _add(subparsers, verbs.run, options.config)
    _add(subparsers, verbs.check, options.config)
    for verb in (verbs.tokenizer, verbs.prepare, verbs.pretrain):
        _add(subparsers, verb, options.config, options.force)
    files = (options.reading, options.remote_code)
    _add(subparsers, verbs.evaluate, options.config, options.force, options.evaluate, *files)
    _add(subparsers, verbs.finetune, options.config, options.force, options.finetune)
    _add(subparsers, verbs.predict, options.predict, *files)
    _add(subparsers, verbs.embed, options.embed, *files)
    _add(subparsers, verbs.report, options.report)
    _add(subparsers, verbs.push, options.config, options.push)
    _add(subparsers, verbs.demo, options.demo)
    _add(subparsers, verbs.plan, options.config, options.plan)
    config = subparsers.add_parser("config", help="show the resolved config")
    show = config.add_subparsers(metavar="show", required=True)
    _add(show, verbs.config_show, options.config, name="show")
    return parser


def _add(
    subparsers: argparse._SubParsersAction[options.Parser],
    verb: Verb,
    *groups: Callable[[argparse.ArgumentParser], None],
    name: str | None = None,
) -> None:
    sub = subparsers.add_parser(name or verb.__name__, help=verb.__doc__, description=verb.__doc__)
    for add_options in groups:
        add_options(sub)
    options.console(sub)
    sub.set_defaults(verb=verb)
