"""The command line: one verb a stage, imports inside the verbs so that `--help` is instant."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlm_pretrain.config import Config

DESCRIPTION = "From raw text to a published, fine-tuned BERT-style encoder."

EXAMPLES = """\
examples:
  mlm-pretrain run configs/quickstart.yaml                  every stage, on the embedded default
  mlm-pretrain pretrain my.yaml training.budget.minutes=60  one stage, one key overridden
  accelerate launch -m mlm_pretrain pretrain my.yaml        the same on GPUs
  mlm-pretrain plan my.yaml --gpus 8 --gpu h100-sxm         what it will cost, and what the budget buys
  mlm-pretrain finetune runs/my-run --task ner              where a run stands, its folder serves as CONFIG
  mlm-pretrain predict runs/my-run/tasks/ner texts.txt      one text a line in, one JSON object a line out
  mlm-pretrain push runs/my-run --dry-run                   what would be sent to the Hub
"""

Verb = Callable[[argparse.Namespace], None]


def tokenizer(arguments: argparse.Namespace) -> None:
    """train a tokenizer (or take an existing one) and set held-out text aside"""
    from mlm_pretrain import stages

    print(stages.train_tokenizer(_config(arguments), force=arguments.force))


def prepare(arguments: argparse.Namespace) -> None:
    """tokenise and pack the text into shards ahead of training"""
    from mlm_pretrain import stages

    config = _config(arguments)
    print(stages.prepare(config, force=arguments.force))
    if not config.stream.prepared:
        print("to train on these shards: stream.prepared=true")


def pretrain(arguments: argparse.Namespace) -> None:
    """pretrain a masked language model, or go on from its newest checkpoint"""
    from mlm_pretrain import stages

    print(stages.pretrain(_config(arguments), force=arguments.force))


def evaluate(arguments: argparse.Namespace) -> None:
    """score the model on held-out text"""
    from mlm_pretrain import stages

    stages.evaluate(_config(arguments), force=arguments.force)


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
    print(summary.summary(stages.RunDirectory.of(config)))


def predict(arguments: argparse.Namespace) -> None:
    """label texts with a fine-tuned model"""
    from mlm_pretrain.tasks.predict import predict as label

    label(Path(arguments.model), Path(arguments.input), arguments.output and Path(arguments.output))


def embed(arguments: argparse.Namespace) -> None:
    """vectors of texts, by any encoder"""
    from mlm_pretrain.tasks.embed import embed as encode

    encode(
        Path(arguments.model),
        Path(arguments.input),
        Path(arguments.output),
        pooling=arguments.pooling,
        normalize=arguments.normalize,
        batch_size=arguments.batch_size,
        max_length=arguments.max_length,
        text_column=arguments.text_column,
        bf16=arguments.bf16,
        save_model=arguments.save_model and Path(arguments.save_model),
    )


def push(arguments: argparse.Namespace) -> None:
    """send the encoder and the task models to the Hub"""
    from mlm_pretrain import stages

    for pushed in stages.push(_config(arguments), repo_id=arguments.repo_id, dry_run=arguments.dry_run):
        print(pushed)


def run(arguments: argparse.Namespace) -> None:
    """every stage in order, skipping those that stand"""
    from mlm_pretrain import stages, summary

    config = _config(arguments)
    print(f"\n{summary.summary(stages.run_all(config))}\n\n{_next_steps(arguments.config, config)}")


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
        print(json.dumps(made.figures() | {"comparison": rows}, indent=2))
        return
    print(plans.describe(made))
    if rows:
        print(f"\n{plans.describe_comparison(rows)}")


def config_show(arguments: argparse.Namespace) -> None:
    """print the resolved config, defaults and overrides included"""
    print(_config(arguments).to_yaml(), end="")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb.

    Returns:
        0; 2 where the user can mend what went wrong (one line on stderr); 128 + the signal where one has stopped it,
        as 143 after SIGTERM, 130 after Ctrl-C.
    """
    arguments = _parse(argv)
    from mlm_pretrain import telemetry
    from mlm_pretrain.training import ending, interrupts, processes

    telemetry.quiet_libraries()
    try:
        arguments.verb(arguments)
    except interrupts.Interrupted as stop:
        telemetry.say(str(stop))
        status = stop.exit_code
    except KeyboardInterrupt:
        telemetry.say("\ninterrupted; the same command goes on from the newest checkpoint")
        return interrupts.EXIT_CODES[interrupts.CTRL_C]
    except Exception as error:
        message = ending.one_line(error)
        if message is None or arguments.debug:
            raise
        if processes.is_first_to_speak():
            # Another process than rank zero may speak into the middle of rank zero's progress bar.
            print("" if telemetry.is_rank_zero() else "\n", f"error: {message}", sep="", file=sys.stderr)
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
    parser = argparse.ArgumentParser(
        prog="mlm-pretrain",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for verb in (run, tokenizer, prepare, pretrain, evaluate, finetune):
        sub = _add(verbs, verb.__name__, verb)
        _takes_config(sub)
        if verb is not run:
            sub.add_argument("--force", action="store_true", help="run the stage even where its output stands")
        if verb is finetune:
            sub.add_argument("--task", metavar="NAME", help="only the task of this name")
            sub.add_argument("--sweep", action="store_true", help="look for the best learning rate and epochs first")
            sub.add_argument(
                "--train-fractions", metavar="SHARE", nargs="+", type=_share, default=(), help="a learning curve too"
            )
            sub.epilog = "example: mlm-pretrain finetune runs/my-run --task ner --train-fractions 0.01 0.1 1"
    sub = _add(verbs, "predict", predict)
    sub.add_argument("model", metavar="MODEL", help="a task's folder (runs/NAME/tasks/TASK) or a Hub repository")
    sub.add_argument("input", metavar="INPUT", help="a .txt file (one text a line) or a .jsonl file (column `text`)")
    sub.add_argument("--output", metavar="FILE", help="a .jsonl file; by default standard output")
    sub = _add(verbs, "embed", embed)
    sub.add_argument("model", metavar="MODEL", help="an encoder: runs/NAME/model, a task's folder or a Hub repository")
    sub.add_argument("input", metavar="INPUT", help="a .txt file (one text a line), or jsonl, csv, tsv, Parquet")
    sub.add_argument("--output", metavar="FILE", required=True, help=".npy (float32 [texts, hidden]) or .parquet")
    sub.add_argument("--pooling", choices=("mean", "cls"), default="mean", help="(default: mean)")
    sub.add_argument("--normalize", action="store_true", help="vectors of length 1")
    sub.add_argument("--max-length", metavar="N", type=_count, help="tokens per text; longer ones are cut")
    sub.add_argument("--batch-size", metavar="N", type=_count, default=32, help="(default: 32)")
    sub.add_argument("--text-column", metavar="NAME", default="text", help="of jsonl, csv, Parquet (default: text)")
    sub.add_argument("--bf16", action="store_true", help="bfloat16 autocast, faster on GPUs")
    sub.add_argument("--save-model", metavar="FOLDER", help="also write a folder that sentence-transformers loads")
    sub.epilog = "example: mlm-pretrain embed runs/my-run/model texts.txt --output vectors.npy"
    sub = _add(verbs, "push", push)
    _takes_config(sub)
    sub.add_argument("--dry-run", action="store_true", help="list the files and their sizes, send nothing")
    sub.add_argument("--repo-id", metavar="ID", help="the encoder's repository, over publish.hub_model_id")
    sub = _add(verbs, "plan", plan)
    _takes_config(sub)
    sub.add_argument("--gpu", metavar="NAME", help="plan for this GPU by its data sheet, as h100-sxm; by default here")
    sub.add_argument("--gpus", metavar="N", type=_count, default=1, help="how many devices (default: 1)")
    sub.add_argument("--json", action="store_true", help="print the figures as JSON")
    sub.epilog = "example: mlm-pretrain plan my.yaml training.budget.minutes=60 --gpus 8 --gpu h100-sxm"
    show = verbs.add_parser("config", help="show the resolved config").add_subparsers(metavar="show", required=True)
    _takes_config(_add(show, "show", config_show))
    return parser


def _add(verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, verb: Verb) -> argparse.ArgumentParser:
    sub = verbs.add_parser(name, help=verb.__doc__, description=verb.__doc__)
    sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
    sub.set_defaults(verb=verb)
    return sub


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number above 0")
    return int(text)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a share of the training set; give 0.1, say")
    return value


def _takes_config(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("config", metavar="CONFIG", help="a YAML file, a run directory, or `quickstart`")
    sub.add_argument("overrides", metavar="key=value", nargs="*", help="dotted keys, as in training.max_grad_norm=0.5")


def _config(arguments: argparse.Namespace) -> Config:
    from mlm_pretrain.config_file import load_config

    return load_config(arguments.config, arguments.overrides)


def _next_steps(place: str, config: Config) -> str:
    root = Path(config.run.output_dir) / config.run.name
    lines = [
        f"  {note:<14}mlm-pretrain {command}"
        for note, command in (
            *[("label texts:", f"predict {root / 'tasks' / task.name} texts.txt") for task in config.tasks[:1]],
            ("train longer:", f"run {place} run.name={config.run.name}-longer training.budget.minutes=30"),
            ("publish:", f"push {root} --repo-id you/{config.run.name} --dry-run"),
        )
    ]
    return "next:\n" + "\n".join(lines)
