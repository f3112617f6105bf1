"""Rows of `faults.py` on what a run's folder holds: who writes it, what may get into it, whether it is still that."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

from fault_runs import Bench, check, one_error

ABSURD_RATE = "1e38"
"""Of learning: no weight is finite after two steps."""


def second_start(bench: Bench) -> str:
    """while a run trains, it is started again with another rate, seed, repository and tokenizer"""
    run = bench.new_run("busy", "publish.hub_model_id=first/one")
    process = run.start()
    run.wait_for_steps(20, process)
    process.send_signal(signal.SIGSTOP)  # it would have ended before the last verb has begun
    before = (run.folder / "config.yaml").read_bytes()
    others = ("training.learning_rate=0.5", "run.seed=9", "publish.hub_model_id=second/one", "tokenizer.vocab_size=900")
    verbs = ("pretrain", "run", "tokenizer", "prepare")
    for verb in verbs:
        one_error(bench.again(run, verb, *others).finish("second.txt", exit_code=2), "another process is at work")
        check((run.folder / "config.yaml").read_bytes() == before, f"{verb} has written config.yaml")
    process.send_signal(signal.SIGCONT)
    check(run.exit_code(process) == 0, run.said())
    bench.compare(run)
    card = (run.folder / "README.md").read_text(encoding="utf-8")
    check("second/one" not in card and "first/one" in card, "the card names the second config")
    said = bench.again(run, "pretrain").finish()
    check("up to date" in said, said)
    return f"{len(verbs)} verbs: one line, exit code 2, config.yaml untouched; the first run was bit-identical"


def divergence(bench: Bench) -> str:
    """fine-tuning at a learning rate of 1e38: whole, with adapters, frozen; as one trial of a sweep"""
    run = bench.finished_run("divergence")
    task = _task(run.folder.parent)
    steps = []
    for encoder in ("full", "lora", "frozen"):
        tasks = f"tasks=[{{{task}, name: {encoder}, encoder: {encoder}, learning_rate: {ABSURD_RATE}}}]"
        said = bench.again(run, "finetune", tasks).finish(exit_code=2)
        one_error(said, f"{encoder} seed 0 lr 1e+38: ")
        check("not finite" in said, said)
        steps.append(said.rpartition(" step ")[2].partition(";")[0])
        check(not (run.folder / "tasks" / encoder).exists(), "a model was kept")
    tasks = f"tasks=[{{{task}, name: swept, sweep: {{learning_rate: [{ABSURD_RATE}, 0.003], num_train_epochs: [1]}}}}]"
    bench.again(run, "finetune", tasks, "--sweep").finish()
    result = _strict(run.folder / "results.json")["tasks"]["swept"]
    check(result["learning_rate"] == 0.003, f"the sweep chose {result['learning_rate']}")
    check(run.is_finite(run.folder / "tasks" / "swept"), "what was exported is not finite")
    named = ", ".join(steps)
    return f"one line with seed, rate and step ({named}), exit code 2, nothing kept; the sweep chose the other rate"


def flipped_bit(bench: Bench) -> str:
    """a random bit of the model, the tokenizer, the held-out text, a task's model is flipped"""
    run = bench.finished_run("flipped")
    tasks = f"tasks=[{{{_task(run.folder.parent)}, name: topic}}]"
    bench.again(run, "finetune", tasks).finish()
    readers = {
        "model/model.safetensors": ("pretrain", "evaluate", "finetune"),
        "model/config.json": ("evaluate",),
        "tokenizer/tokenizer.json": ("tokenizer",),
        "validation.jsonl": ("evaluate",),
        "tasks/topic/model.safetensors": ("finetune",),
    }
    tried = 0
    for name, verbs in readers.items():
        file = run.folder / name
        good = file.read_bytes()
        for verb in verbs:
            flipped = bytearray(good)
            flipped[bench.random.randrange(len(good))] ^= 1 << bench.random.randrange(8)
            file.write_bytes(flipped)
            one_error(bench.again(run, verb).finish(exit_code=2), f"{file}: damaged")
            tried += 1
        file.write_bytes(good)
    said = bench.again(run, "run").finish()
    check(said.count("up to date") >= 3, said)
    return (
        f"{tried} times: the verb that reads it named the file, exit code 2; with the old bytes back all was up to date"
    )


def _task(folder: Path) -> str:
    """A small task, as YAML without its name."""
    words = {"rain": "clouds wet drops", "sun": "clear dry heat"}
    rows = [{"text": f"{text} {number}", "label": label} for label, text in words.items() for number in range(40)]
    file = folder / "labelled.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return f"task: classification, train: {file}, seeds: [0], max_steps: 20, bf16: false"


def _strict(file: Path) -> Any:
    """JSON that has no NaN."""

    def refuse(word: str) -> None:
        check(False, f"{file}: {word}")

    return json.loads(file.read_text(encoding="utf-8"), parse_constant=refuse)
