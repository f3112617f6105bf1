"""The options of the verbs."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from mlm_pretrain import escaping
from mlm_pretrain.console import telemetry


class Parser(argparse.ArgumentParser):
    """A parser whose messages repeat what was typed, and nothing that steers a terminal."""

    def error(self, message: str) -> NoReturn:
        super().error(escaping.one_line(message))

    def _print_message(self, message: str, file: Any = None) -> None:
        super()._print_message(escaping.terminal(message), file)


def config(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("config", metavar="CONFIG", help="a YAML file, a run directory, or `quickstart`")
    sub.add_argument("overrides", metavar="key=value", nargs="*", help="dotted keys, as in training.max_grad_norm=0.5")


def console(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
    sub.add_argument(
        "--log-format",
        choices=telemetry.LOG_FORMATS,
        help="of what goes to stderr: bars on a terminal and lines elsewhere (auto), lines, or JSON lines; "
        "default: $MLM_PRETRAIN_LOG_FORMAT, or auto",
    )


def force(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--force",
        action="store_true",
        help="run the stage even if its output is up to date; pretraining resumes from its checkpoints all the same",
    )


def evaluate(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--data",
        metavar="FILE",
        help="a labelled file, read as the options below say; CONFIG is a task's model then, keys name columns",
    )
    sub.add_argument("--out", metavar="FOLDER", help="for scores, mistakes and plots (default: beside the model)")
    sub.epilog = "example: mlm-pretrain evaluate runs/my-run/tasks/topic --data june.csv label_column=topic"


def reading(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--encoding", metavar="NAME", help="of a text file: utf-16, latin-1, … (default: utf-8)")
    sub.add_argument(
        "--quoting",
        choices=("minimal", "none"),
        help="of csv and tsv: a quoted field may hold delimiters and line ends, or quotes are characters like others "
        "(default: what the beginning of the file shows)",
    )
    sub.add_argument("--delimiter", metavar="CHARACTER", help="of csv and tsv (default: a comma, in tsv a tab)")


def reading_of(arguments: argparse.Namespace) -> dict[str, str]:
    """How text files are read, as far as it was said."""
    given = {name: getattr(arguments, name) for name in ("encoding", "quoting", "delimiter")}
    return {name: value for name, value in given.items() if value is not None}


def finetune(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--task", metavar="NAME", help="only the task of this name")
    sub.add_argument("--sweep", action="store_true", help="look for the best learning rate and epochs first")
    sub.add_argument("--train-fractions", metavar="SHARE", nargs="+", type=_share, default=(), help="a learning curve")
    sub.epilog = "example: mlm-pretrain finetune runs/my-run --task ner --train-fractions 0.01 0.1 1"


def remote_code(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--trust-remote-code", action="store_true", help="run code that the model brings, on this machine")


def predict(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("model", metavar="MODEL", help="a task's folder (runs/NAME/tasks/TASK) or a Hub repository")
    sub.add_argument("input", metavar="INPUT", help="a .txt file (one text a line), jsonl, csv, tsv or Parquet")
    sub.add_argument("--output", metavar="FILE", help="a .jsonl, .csv or .tsv file (default: standard output)")
    sub.add_argument("--text-column", metavar="NAME", default="text", help="of jsonl and csv (default: text)")
    sub.add_argument("--text-pair-column", metavar="NAME", help="the second text of a pair")
    sub.add_argument("--question-column", metavar="NAME", default="question", help="(default: question)")
    sub.add_argument("--context-column", metavar="NAME", default="context", help="(default: context)")
    sub.add_argument("--batch-size", metavar="N", type=_count, default=32, help="(default: 32)")
    sub.add_argument("--max-length", metavar="N", type=_count, help="tokens per window")
    sub.add_argument("--stride", metavar="N", type=_count, help="tokens that neighbouring windows share")
    sub.add_argument("--bf16", action="store_true", help="bfloat16 autocast: faster on many machines, and rounded")
    sub.add_argument(
        "--top-k",
        metavar="N",
        type=_count,
        help="print the scores of the N highest labels (default: of a class its own; of several labels all, or ten)",
    )
    sub.epilog = "example: mlm-pretrain predict runs/my-run/tasks/topic new.jsonl --output labelled.jsonl"


def embed(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("model", metavar="MODEL", help="an encoder: runs/NAME/model, a task's folder or a Hub repository")
    sub.add_argument("input", metavar="INPUT", help="a .txt file (one text a line), or jsonl, csv, tsv, Parquet")
    sub.add_argument("--output", metavar="FILE", required=True, help=".npy (float32 [texts, hidden]) or .parquet")
    sub.add_argument(
        "--pooling",
        choices=("mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"),
        help="default: what the model's sentence-transformers files say, or mean",
    )
    sub.add_argument(
        "--normalize",
        action=argparse.BooleanOptionalAction,
        help="vectors of length 1 (default: what those files say)",
    )
    sub.add_argument("--prompt-name", metavar="NAME", help="of the model's own prompts, put before each text")
    sub.add_argument("--max-length", metavar="N", type=_count, help="tokens per text; longer ones are cut")
    sub.add_argument("--batch-size", metavar="N", type=_count, default=32, help="(default: 32)")
    sub.add_argument("--text-column", metavar="NAME", default="text", help="of jsonl, csv, Parquet (default: text)")
    sub.add_argument("--bf16", action="store_true", help="bfloat16 autocast, faster on GPUs")
    sub.add_argument("--save-model", metavar="FOLDER", help="also write a folder that sentence-transformers loads")
    sub.epilog = "example: mlm-pretrain embed runs/my-run/model texts.txt --output vectors.npy"


def report(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("runs", metavar="RUN", nargs="+", help="a run's directory; several are shown over each other")
    sub.add_argument("--out", metavar="FILE", help="the page (default: report.html in the first run's directory)")
    sub.epilog = "example: mlm-pretrain report runs/adamw runs/muon --out optimizers.html"


def push(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--dry-run", action="store_true", help="list the files and their sizes, send nothing")
    sub.add_argument("--repo-id", metavar="ID", help="the encoder's repository, over publish.hub_model_id")
    sub.add_argument("--checkpoints", action="store_true", help="also each checkpoint, to a revision step-<8 digits>")
    sub.add_argument("--tag", metavar="NAME", help="tag what is sent as a release, as v1.0")
    sub.add_argument("--space", action="store_true", help="also a Space, REPOSITORY-demo, with the page of `demo`")


def demo(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("models", metavar="RUN|MODEL", nargs="+", help="a run, a model's folder or a Hub repository")
    sub.add_argument("--host", metavar="ADDRESS", default="127.0.0.1", help="to listen on (default: only this machine)")
    sub.add_argument("--port", metavar="N", type=_count, default=7860, help="(default: 7860)")
    sub.epilog = "example: mlm-pretrain demo runs/my-run, then open http://localhost:7860"


def plan(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--gpu", metavar="NAME", help="plan for this GPU by its data sheet, as h100-sxm; by default here")
    sub.add_argument("--gpus", metavar="N", type=_count, default=1, help="how many devices (default: 1)")
    sub.add_argument("--json", action="store_true", help="print the figures as JSON")
    sub.epilog = "example: mlm-pretrain plan my.yaml training.budget.minutes=60 --gpus 8 --gpu h100-sxm"


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
