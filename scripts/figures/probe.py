"""A frozen encoder under a head, beside sentence-transformers and scikit-learn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from figures.finetune import HELD_OUT, data_of
from figures.labelled import encoder, mean_and_std, sets_of, with_seed
from figures.session import fresh
from figures.setting import Bench
from mlm_pretrain.config import TaskConfig
from mlm_pretrain.config.sections.tasks import FROZEN
from mlm_pretrain.tasks.fit.finetune import finetune as train

Outcome = tuple[float, float]
"""(accuracy on test, seconds)."""
FROZEN_ENCODER: dict[str, Any] = {"encoder": "frozen", "config": {"classifier_pooling": "mean"}, **FROZEN}


def probe(bench: Bench) -> dict[str, float]:
    """Accuracy and time of `encoder: frozen`, against sentence-transformers' encode and scikit-learn's regression.

    The encoder and the classification sets are those of `finetune`. In rounds, in turn, in new processes, a seed each:
    ours is the mean accuracy on test, peer that of `LogisticRegression` on the mean of the token vectors, both from the
    same encoder; ratio_speed is the median of the peer's seconds, encoding included, over ours.
    Needs sentence-transformers, from version 6 on.
    """
    model = encoder(bench)
    names = []
    systems: dict[str, Callable[[int], Outcome]] = {}
    for task in sets_of(bench):
        if task.task == "classification":
            frozen = TaskConfig.model_validate({**task.model_dump(), **FROZEN_ENCODER})
            systems[f"{task.name}.ours"] = partial(_in_round, _ours, frozen, (model, bench.folder / task.name))
            systems[f"{task.name}.peer"] = partial(_in_round, _peer, task, (model,))
            names.append(task.name)
    found = bench.budget.in_turn(systems)
    figures: dict[str, float] = {}
    for name in names:
        ours, peer = found[f"{name}.ours"], found[f"{name}.peer"]
        figures |= mean_and_std(f"{name}.ours", [accuracy for accuracy, _ in ours])
        figures |= {f"{name}.peer": statistics.fmean(accuracy for accuracy, _ in peer)}
        ratios = [other / mine for (_, mine), (_, other) in zip(ours, peer, strict=True)]
        figures[f"{name}.ratio_speed"] = statistics.median(ratios)
    return figures


def _in_round(side: Callable[..., Outcome], task: TaskConfig, places: tuple[Path, ...], number: int) -> Outcome:
    return fresh(side, with_seed(task, number), *places)


def _ours(task: TaskConfig, model: Path, out: Path) -> Outcome:
    started = time.perf_counter()
    figures = train(task, model, out, held_out_fraction=HELD_OUT)
    return figures["pretrained"], time.perf_counter() - started


def _peer(task: TaskConfig, model: Path) -> Outcome:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from sklearn.linear_model import LogisticRegression

    started = time.perf_counter()
    data, _ = data_of(task)
    transformer = Transformer(str(model))
    pooling = Pooling(transformer.get_embedding_dimension(), "mean")
    sentences = SentenceTransformer(modules=[transformer, pooling])
    vectors = {
        name: sentences.encode([example["text"] for example in examples], batch_size=32)
        for name, examples in (("train", data.train), ("test", data.test))
    }
    regression = LogisticRegression(max_iter=1000)
    regression.fit(vectors["train"], [example["label"] for example in data.train])
    accuracy = float(regression.score(vectors["test"], [example["label"] for example in data.test]))
    return accuracy, time.perf_counter() - started
