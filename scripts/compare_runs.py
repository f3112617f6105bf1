"""Whether a change of the code changes what is computed: tiny runs on two commits, compared bit by bit.

    python scripts/compare_runs.py HEAD               # the last commit against the working tree
    python scripts/compare_runs.py main~3 main
    python scripts/compare_runs.py HEAD --work runs/compare

On each commit, with the interpreter that runs this script and one thread: 40 steps of pretraining, held-out loss, and
every kind of task on a few examples, on the documentation strings of Python's own library. Compared are the loss of
every step, all held-out figures, the scores and losses of every task, and each exported tensor. Then AFTER resumes a
run that BEFORE has begun and that was killed: its weights must be those of BEFORE's run that nothing interrupted.

It prints a line for each thing compared, and exits with 1 if anything differs. A minute and a half of one core.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import hashlib
import inspect
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from safetensors import safe_open

ROOT = Path(__file__).resolve().parent.parent
MODULES = ("fractions", "heapq", "random", "statistics", "textwrap", "zipfile/__init__", "zipfile")
STEPS, SAVE_STEPS = 40, 10
HERE = "."
"""The working tree, in place of a commit."""
SCORES = ("pretrained_seeds", "scratch_seeds", "bag_of_words", "majority", "details", "history")


def main() -> int:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    arguments.add_argument("before", help="a commit")
    arguments.add_argument("after", nargs="?", default=HERE, help="a commit; by default the working tree")
    arguments.add_argument("--work", type=Path, help="keep the runs in this folder")
    given = arguments.parse_args()
    with contextlib.ExitStack() as stack:
        work = given.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        work = work.resolve()
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        config = write_config(work / "data")
        before, after = (stack.enter_context(tree(commit, work)) for commit in (given.before, given.after))
        runs = {"before": work / "before", "after": work / "after"}
        for name, code in (("before", before), ("after", after)):
            print(f"{name}: {given.before if name == 'before' else given.after}", flush=True)
            call(code, "run", config, runs[name])
        interrupt(before, config, work / "resumed")
        print("after: resumes a run that was begun before", flush=True)
        call(after, "pretrain", config, work / "resumed")
        differences = report(facts(runs["before"]), facts(runs["after"]))
        resumed = report(weights(runs["before"] / "model"), weights(work / "resumed" / "model"), "resumed: ")
    print(f"{differences + resumed} differences")
    return 1 if differences + resumed else 0


# -- the runs -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def tree(commit: str, work: Path) -> Iterator[Path]:
    """The folder with the code of a commit."""
    if commit == HERE:
        yield ROOT
        return
    folder = work / f"code-{commit.replace('/', '-')}"
    subprocess.run(["git", "worktree", "add", "--quiet", "--detach", folder, commit], cwd=ROOT, check=True)
    try:
        yield folder
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", folder], cwd=ROOT, check=True)


def command(verb: str, config: Path, run: Path) -> list[str]:
    keys = [f"run.name={run.name}", f"run.output_dir={run.parent}"]
    return [sys.executable, "-m", "mlm_pretrain", verb, str(config), *keys]


def surroundings(code: Path, run: Path) -> dict[str, str]:
    """The environment of a run: this code, one thread, no GPU, no network, nothing remembered of other runs."""
    own = {"PYTHONPATH": str(code), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    return {**os.environ, **own, "MLM_PRETRAIN_CACHE": str(run.parent / "cache")}


def call(code: Path, verb: str, config: Path, run: Path) -> None:
    done = subprocess.run(
        command(verb, config, run), cwd=run.parent, env=surroundings(code, run), capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{verb} failed in {code}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


def interrupt(code: Path, config: Path, run: Path) -> None:
    """Begin a run and kill it after its first checkpoint."""
    with (run.parent / "interrupted.log").open("w") as log:
        process = subprocess.Popen(
            command("pretrain", config, run), cwd=run.parent, env=surroundings(code, run), stdout=log, stderr=log
        )
        while not list(run.glob("checkpoints/step-*")) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    if (run / "model").exists() or not list(run.glob("checkpoints/step-*")):
        raise SystemExit(f"the run was over before it could be killed; see {log.name}")


# -- their config and data ----------------------------------------------------------------------------------------


def write_config(folder: Path) -> Path:
    """The text, a labelled set for every kind of task, and the config of a run over all of them."""
    folder.mkdir(parents=True)
    documents = sorted(set(docstrings()))
    lines(folder / "text.jsonl", [{"text": text} for text in documents])
    tasks = [task | {"train": str(folder / task["train"])} for task in write_tasks(folder, documents)]
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    config = {
        "run": {"name": "compared"},
        "text": {"sources": [{"source": "files", "path": str(folder / "text.jsonl")}], "validation_fraction": 0.1},
        "tokenizer": {"vocab_size": 600},
        "stream": {"sequence_length": 48, "shuffle_window": "15KB", "packing_buffer": "4KB"},
        "model": {
            "model_type": "modernbert",
            "config": {**small, "local_attention": 16},
            "attn_implementation": "sdpa",
        },
        "training": {
            "budget": {"steps": STEPS},
            "global_batch_size": 8,
            "per_device_train_batch_size": 4,
            "learning_rate": 3e-3,
            "bf16": False,
            "torch_compile": False,
            "logging_steps": 1,
            "save_steps": SAVE_STEPS,
        },
        "tasks": tasks,
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


def docstrings() -> Iterator[str]:
    """Of Python's own library."""
    library = Path(sysconfig.get_paths()["stdlib"])
    for file in filter(Path.exists, (library / f"{module}.py" for module in MODULES)):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node)
                if text and len(text) > 20:
                    yield inspect.cleandoc(text)


def write_tasks(folder: Path, documents: list[str]) -> list[dict[str, Any]]:
    """A task of every kind, of which `train` is the name of a file in `folder`."""
    draw = random.Random(0)
    short = [" ".join(text.split()[:30]) for text in documents]
    words = [text.split() for text in short]
    kinds: dict[str, list[dict[str, Any]]] = {
        "classification": [{"text": text, "label": "long" if len(text) > 120 else "short"} for text in short],
        "multi_label_classification": [
            {"text": text, "label": [name for name in ("a", "return", "the") if name in text.lower().split()]}
            for text in short
        ],
        "regression": [{"text": text, "label": len(text) / 100} for text in short],
        "ner": [
            {"tokens": some, "ner_tags": ["B-name" if word[0].isupper() else "O" for word in some]} for some in words
        ],
        "tagging": [
            {"tokens": some, "ner_tags": ["upper" if word[0].isupper() else "lower" for word in some]} for some in words
        ],
        "question_answering": [answer(text, draw) for text in short],
    }
    common = {"seeds": [0, 1], "max_train_samples": 48, "max_eval_samples": 48, "max_length": 48, "num_train_epochs": 2}
    tasks = []
    for kind, rows in kinds.items():
        lines(folder / f"{kind}.jsonl", rows)
        tasks.append({"task": kind, "name": kind.replace("_", "-"), "train": f"{kind}.jsonl", **common})
    first = tasks[0]
    first["scratch_learning_rates"] = [1e-3]
    return [*tasks, {**first, "name": "frozen", "encoder": "frozen", "num_train_epochs": 3}]


def answer(text: str, draw: random.Random) -> dict[str, Any]:
    """A question on a text, whose answer is one of its words."""
    word = draw.choice(text.split())
    return {
        "id": str(draw.random()),
        "question": f"what begins with {word[:2]}",
        "context": text,
        "answers": {"text": [word], "answer_start": [text.index(word)]},
    }


def lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


# -- what came of them --------------------------------------------------------------------------------------------


def facts(run: Path) -> dict[str, Any]:
    """What is compared of a run, by a name that is printed."""
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    found: dict[str, Any] = {f"step {step['step']}: loss": step["loss"] for step in steps if "loss" in step}
    found |= {f"held out: {name}": value for name, value in flat(results["heldout"]).items() if "seconds" not in name}
    for name, task in results["tasks"].items():
        found |= {
            f"{name}: {key}": value
            for score in SCORES
            if score in task
            for key, value in flat({score: task[score]}).items()
        }
        found |= {f"{name}: {key}": digest for key, digest in weights(run / "tasks" / name).items()}
    return found | weights(run / "model")


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """The leaves of nested mappings and lists, by their paths."""
    if isinstance(value, dict | list):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        return {path: leaf for key, part in parts for path, leaf in flat(part, f"{name}.{key}".strip(".")).items()}
    return {name: value}


def weights(folder: Path) -> dict[str, Any]:
    """The digest of each tensor in a folder's safetensors files."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "np") as tensors:
            for name in sorted(tensors.keys()):
                array = tensors.get_tensor(name)
                content = f"{array.dtype} {array.shape}".encode() + array.tobytes()
                found[f"{folder.name}: {name}"] = hashlib.sha256(content).hexdigest()
    return found


def report(before: dict[str, Any], after: dict[str, Any], prefix: str = "") -> int:
    """Print what differs, and how much was compared; the number of differences."""
    names = [*before, *(name for name in after if name not in before)]
    different = [name for name in names if before.get(name, "absent") != after.get(name, "absent")]
    for name in different:
        print(f"{prefix}{name}: {before.get(name, 'absent')} before, {after.get(name, 'absent')} after")
    print(f"{prefix}{len(names) - len(different)} of {len(names)} are the same")
    return len(different)


if __name__ == "__main__":
    raise SystemExit(main())
