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

from figures.common import fresh, write_jsonl
from figures.finetune import data_of
from figures.labelled import encoder, labelled_sets
from figures.trainer import in_turn
from mlm_pretrain import telemetry
from mlm_pretrain.config import TaskConfig
from mlm_pretrain.tasks.encoder import load_config, load_model, load_tokenizer, window_length
from mlm_pretrain.tasks.finetune import finetune as train
from mlm_pretrain.tasks.inference import logits_of
from mlm_pretrain.tasks.predict import predict as label
from mlm_pretrain.tasks.registered import TASKS

TEXTS = 1000
ROUNDS = 3
BATCH_SIZES = (1, 4, 8, 16, 32, 64, 128)
PIPELINES = {"classification": "text-classification", "ner": "token-classification"}


def predict(minutes: float, folder: Path, data: Path | None) -> dict[str, float]:
    """Texts a second that `predict` labels, against `transformers.pipeline` with the best of its batch sizes.

    A model for each set of `finetune` (its docstring tells about --data) is fine-tuned for a few steps on the reference
    model, which is pretrained for --minutes / 10. Then, in three rounds in turn, up to 1,000 test texts that fit a
    window are labelled in float32: by `predict`, from a jsonl file to a jsonl file, and by the pipeline, from a list of
    strings. For each set ratio compares the medians; ratio alone is the smallest of them. same_output is 1 where the
    logits of all texts agree with those that the pipeline's model gives (relative 1e-3, absolute 1e-4).
    """
    model = encoder(folder, minutes / 10)
    figures: dict[str, float] = {}
    for task in labelled_sets(data):
        out = folder / "tasks" / task.name
        short = task.model_copy(update={"max_steps": 30, "seeds": [0]})
        fresh(_train, short, model, out)
        row = fresh(_compare, short, out, folder)
        telemetry.say(f"{task.name}: " + ", ".join(f"{name} {value:.4g}" for name, value in row.items()))
        figures |= {f"{task.name}.{name}": value for name, value in row.items()}
    for name, combine in {"ratio": min, "same_output": min}.items():
        figures[name] = combine(value for key, value in figures.items() if key.endswith(f".{name}"))
    return figures


def _train(task: TaskConfig, model: Path, out: Path) -> None:
    train(task, model, out, held_out_fraction=0.03)


def _compare(task: TaskConfig, model: Path, folder: Path) -> dict[str, float]:
    texts = _texts(task, model)
    path = write_jsonl(texts, folder / f"{task.name}.jsonl")
    pipe = transformers.pipeline(PIPELINES[task.task], model=str(model), device=None)
    best = min(BATCH_SIZES, key=lambda size: _seconds(pipe, texts[: max(len(texts) // 5, 1)], size))
    numbers = itertools.count()

    def ours() -> float:
        started = time.perf_counter()
        label(model, path, folder / f"{task.name}-{next(numbers)}.jsonl")
        return len(texts) / (time.perf_counter() - started)

    speeds = in_turn({"ours": ours, "pipeline": lambda: len(texts) / _seconds(pipe, texts, best)}, ROUNDS)
    return {
        "ratio": statistics.median(speeds["ours"]) / statistics.median(speeds["pipeline"]),
        "texts_per_second": statistics.median(speeds["ours"]),
        "pipeline_batch_size": float(best),
        "same_output": float(_agree(task, model, texts, pipe)),
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
