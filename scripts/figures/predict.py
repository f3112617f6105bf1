"""Prediction, beside `transformers.pipeline`."""

from __future__ import annotations

import itertools
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from figures.budget import Budget
from figures.common import write_jsonl
from figures.finetune import HELD_OUT, data_of
from figures.labelled import encoder, sets_in_time
from figures.loops import median_ratio
from figures.session import fresh
from figures.setting import Bench
from mlm_pretrain.config import TaskConfig
from mlm_pretrain.console import telemetry
from mlm_pretrain.models.encoder import load_config, load_model, load_tokenizer, window_length
from mlm_pretrain.tasks.fit.finetune import finetune as train
from mlm_pretrain.tasks.inference.logits import logits_of
from mlm_pretrain.tasks.kinds.registered import TASKS
from mlm_pretrain.tasks.serve.predict import predict as label

TEXTS = 1000
FIRST_TEXTS = 20
"""So many are labelled to see how long one takes; no fewer are measured."""
PASSES = 5
"""As often every text is labelled until there is one round, about: to compare the logits, in search of the batch size,
and in the round, by both."""
BATCH_SIZES = (1, 4, 8, 16, 32, 64, 128)
PIPELINES = {"classification": "text-classification", "ner": "token-classification"}


def predict(bench: Bench) -> dict[str, float]:
    """Texts a second that `predict` labels, against `transformers.pipeline` with the best of its batch sizes.

    A model for each set of `finetune` (its docstring says what --data is) is fine-tuned for a few steps on the same
    encoder. Then, in rounds, in turn, up to 1,000 test texts that fit a window, as many as there is time for
    (texts), are labelled in float32: by `predict`, from a jsonl file to a jsonl file, and by the pipeline, from a
    list of strings. For each set ratio is the median of the rounds' ratios, of which there are rounds; ratio alone
    is the smallest of the sets'. same_output is 1 where the logits of all texts agree with those that the
    pipeline's model gives (relative 1e-3, absolute 1e-4).
    """
    model = encoder(bench)
    tasks = sets_in_time(bench)
    figures: dict[str, float] = {}
    for number, task in enumerate(tasks):
        out = bench.folder / "tasks" / task.name
        seconds = bench.budget.left() / (len(tasks) - number)
        began = bench.budget.elapsed()
        short = task.model_copy(update={"max_steps": 10, "max_train_samples": 160, "max_eval_samples": TEXTS})
        # Nobody reads its scores.
        few = short.model_copy(update={"max_eval_samples": FIRST_TEXTS, "bag_of_words": False})
        with bench.budget.spending("fine-tuning for a few steps"):
            fresh(_train, few, model, out)
        seconds -= bench.budget.elapsed() - began
        with bench.budget.spending(f"labelling: {task.name}"):
            row = fresh(_compare, short, out, bench.folder, seconds)
        telemetry.say(f"{task.name}: " + ", ".join(f"{name} {value:.4g}" for name, value in row.items()))
        figures |= {f"{task.name}.{name}": value for name, value in row.items()}
    for name in ("ratio", "same_output"):
        figures[name] = min(value for key, value in figures.items() if key.endswith(f".{name}"))
    return figures


def _train(task: TaskConfig, model: Path, out: Path) -> None:
    train(task, model, out, held_out_fraction=HELD_OUT)


def _compare(task: TaskConfig, model: Path, folder: Path, seconds: float) -> dict[str, float]:
    budget = Budget(seconds)
    texts = _texts(task, model)
    pipe = transformers.pipeline(PIPELINES[task.task], model=str(model), device=None)
    _seconds(pipe, texts[:1], 1)  # the first is slow
    one = _seconds(pipe, texts[:FIRST_TEXTS], 1) / len(texts[:FIRST_TEXTS])
    texts = texts[: max(int(budget.left() / PASSES / one), FIRST_TEXTS)]
    path = write_jsonl(texts, folder / f"{task.name}.jsonl")
    same = _agree(task, model, texts, pipe)
    best = min(BATCH_SIZES, key=lambda size: _seconds(pipe, texts[: max(len(texts) // 10, 1)], size))
    numbers = itertools.count()

    def ours(_: int) -> float:
        started = time.perf_counter()
        label(model, path, folder / f"{task.name}-{next(numbers)}.jsonl")
        return len(texts) / (time.perf_counter() - started)

    speeds = budget.in_turn({"ours": ours, "pipeline": lambda _: len(texts) / _seconds(pipe, texts, best)})
    return {
        "ratio": median_ratio(speeds["ours"], speeds["pipeline"]),
        "texts_per_second": statistics.median(speeds["ours"]),
        "pipeline_batch_size": float(best),
        "same_output": float(same),
        "rounds": float(budget.rounds),
        "texts": float(len(texts)),
    }


def _texts(task: TaskConfig, model: Path) -> list[str]:
    """Test texts that fit a window."""
    data, _ = data_of(task)
    tokenizer = load_tokenizer(model)
    length = window_length(load_config(model), tokenizer)
    texts = [TASKS[task.task].text_of(example) for example in data.test]
    return [text for text in texts if text.strip() and len(tokenizer(text)["input_ids"]) <= length][:TEXTS]


def _seconds(pipe: Any, texts: list[str], batch_size: int) -> float:
    started = time.perf_counter()
    for _ in pipe(texts, batch_size=batch_size):
        pass
    return time.perf_counter() - started


def _agree(task: TaskConfig, model: Path, texts: list[str], pipe: Any) -> bool:
    config, tokenizer = load_config(model), load_tokenizer(model)
    kind = TASKS[task.task]
    labels = [config.id2label[number] for number in range(config.num_labels)]
    adapter = kind(labels, tokenizer, window_length(config, tokenizer))
    plain = TaskConfig(task=task.task, name="texts")
    examples = [kind.make_example({"text": text}, plain, "", labelled=False) for text in texts]
    ours = logits_of(adapter, load_model(kind.auto_class, model, config), adapter.encode(examples), 32)
    theirs: list[np.ndarray] = []
    with torch.inference_mode():
        hook = pipe.model.register_forward_hook(lambda _module, _inputs, out: theirs.append(out.logits[0].numpy()))
        for text in texts:
            pipe(text)
        hook.remove()
    return all(
        np.allclose(mine[: len(other)] if other.ndim > 1 else mine, other, rtol=1e-3, atol=1e-4)
        for mine, other in zip(ours, theirs, strict=True)
    )
