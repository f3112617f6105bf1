"""What a task's scores are compared with and needs no encoder: a bag of words."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from mlm_pretrain.console.telemetry import say
from mlm_pretrain.tasks.adapter import Example, TaskAdapter
from mlm_pretrain.tasks.data.splits import LabelledData, first_examples
from mlm_pretrain.tasks.scores.bag_of_words import BagOfWords, NoBagOfWords

Figures = dict[str, Any]
MOST_VALIDATION = 10_000
"""Examples that choose the strength of the penalty."""
CHUNK = 10_000
"""Examples whose features are held in memory at once."""


def bag_of_words(
    name: str, adapter: TaskAdapter, data: LabelledData, metric: str, train: Sequence[Example] | None = None
) -> Figures:
    """The metric of a bag of words on the test set, learnt from the encoder's own training examples.

    Of the strengths of its penalty the one is taken that is best on validation.

    Args:
        name: of the task, for what is said.
        train: a share of the training set; None takes all of it.

    Returns:
        `bag_of_words`, and in `bag_of_words_details` all test metrics, `strength` (the inverse of the penalty's, `C` of
        scikit-learn's `LogisticRegression`), and `train_examples`, learnt from; `bag_of_words_missing`, the reason, if
        there is none for these examples; empty if the task has no such baseline.
    """
    started = time.monotonic()
    learnt = data.train if train is None else train
    try:
        bag = adapter.bag_of_words(learnt)
        if bag is None:
            return {}
        model, strength = _best(bag, adapter, data, metric)
    except NoBagOfWords as reason:
        say(f"{name}: no bag of words to compare with: {reason}")
        return {"bag_of_words_missing": str(reason)}
    scores = adapter.metrics(data.test, _predict(bag, model, data.test))
    share = "" if bag.examples == len(learnt) else f" of {bag.examples:,} of the training examples"
    say(f"{name}: a bag of words{share} has {metric} {scores[metric]:.3f} ({time.monotonic() - started:.1f} s)")
    plain = {key: value for key, value in scores.items() if isinstance(value, int | float)}
    details = {"strength": strength, "train_examples": bag.examples, **plain}
    return {"bag_of_words": scores[metric], "bag_of_words_details": details}


def _best(bag: BagOfWords, adapter: TaskAdapter, data: LabelledData, metric: str) -> tuple[Any, float]:
    """The model of the best strength, and the strength; the strongest penalty of several."""
    if len(bag.strengths) == 1:
        return bag.fit(bag.strengths[0]), bag.strengths[0]
    validation = first_examples(data.validation, MOST_VALIDATION, type(adapter))
    rows = bag.rows(validation)
    tried = []
    for strength in bag.strengths:
        model = bag.fit(strength)
        value = adapter.metrics(validation, bag.predict(model, rows, validation))[metric]
        tried.append((value, model, strength))
    _, model, strength = max(tried, key=lambda trial: trial[0])
    return model, strength


def _predict(bag: BagOfWords, model: Any, examples: Sequence[Example]) -> list[Any]:
    chunks = (examples[start : start + CHUNK] for start in range(0, len(examples), CHUNK))
    return [prediction for chunk in chunks for prediction in bag.predict(model, bag.rows(chunk), chunk)]
