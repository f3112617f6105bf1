"""A frozen encoder under a head, beside sentence-transformers and scikit-learn."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from figures.common import fresh
from figures.finetune import data_of
from figures.labelled import SEEDS, encoder, labelled_sets
from mlm_pretrain import telemetry
from mlm_pretrain.config import TaskConfig
from mlm_pretrain.config.tasks import FROZEN
from mlm_pretrain.tasks.finetune import finetune as train

FROZEN_ENCODER: dict[str, Any] = {"encoder": "frozen", "config": {"classifier_pooling": "mean"}, **FROZEN}


def probe(minutes: float, folder: Path, data: Path | None) -> dict[str, float]:
    """Accuracy and time of `encoder: frozen`, against sentence-transformers' encode and scikit-learn's regression.

    The reference model is pretrained for --minutes; the sets are the classification sets of `finetune`. ours is the
    mean accuracy on test over three seeds, peer that of `LogisticRegression` on the mean of the token vectors, both
    from the same encoder; ratio_speed is the peer's seconds, encoding included, over ours for one seed.
    Needs sentence-transformers, from version 6 on.
    """
    model = encoder(folder, minutes)
    figures: dict[str, float] = {}
    for task in labelled_sets(data):
        if task.task != "classification":
            continue
        frozen = TaskConfig.model_validate({**task.model_dump(), **FROZEN_ENCODER})
        out = folder / "tasks" / task.name
        accuracy = fresh(_ours, frozen, model, out)["accuracy"]
        seconds = fresh(_ours, frozen.model_copy(update={"seeds": [SEEDS[0]]}), model, out)["seconds"]
        peer = fresh(_peer, task, model)
        row = {"ours": accuracy, "peer": peer["accuracy"], "ratio_speed": peer["seconds"] / seconds}
        telemetry.say(f"{task.name}: " + ", ".join(f"{name} {value:.4g}" for name, value in row.items()))
        figures |= {f"{task.name}.{name}": value for name, value in row.items()}
    return figures


def _ours(task: TaskConfig, model: Path, out: Path) -> dict[str, float]:
    started = time.perf_counter()
    figures = train(task, model, out, held_out_fraction=0.03)
    return {"accuracy": figures["pretrained"], "seconds": time.perf_counter() - started}


def _peer(task: TaskConfig, model: Path) -> dict[str, float]:
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
    return {"accuracy": accuracy, "seconds": time.perf_counter() - started}
