"""Our offline metrics against the libraries that define them."""

from __future__ import annotations

import random

import pytest
import seqeval.metrics
import sklearn.metrics

from mlm_pretrain.tasks.entity_metrics import EntityMetric
from mlm_pretrain.tasks.metrics import ClassificationMetric

TAGS = ["O", "B-per", "I-per", "B-loc", "I-loc", "B-org", "I-org"]


def tag_lists(seed: int) -> list[list[str]]:
    rng = random.Random(seed)
    return [rng.choices(TAGS, weights=[6, 2, 2, 1, 1, 0.2, 0.2], k=length) for length in (1, 3, 8, 20, 40)]


@pytest.mark.parametrize("seed", range(5))
def test_entity_scores_are_those_of_seqeval(seed: int) -> None:
    references, predictions = tag_lists(seed), tag_lists(seed + 100)
    ours = EntityMetric().compute(predictions=predictions, references=references)
    assert ours["f1"] == pytest.approx(seqeval.metrics.f1_score(references, predictions))
    assert ours["precision"] == pytest.approx(seqeval.metrics.precision_score(references, predictions))
    assert ours["recall"] == pytest.approx(seqeval.metrics.recall_score(references, predictions))
    by_type = seqeval.metrics.f1_score(references, predictions, average=None, zero_division=0)
    assert [ours["by_type"][name]["f1"] for name in sorted(ours["by_type"])] == pytest.approx(list(by_type))


def test_entities_need_type_first_and_last_word() -> None:
    reference = ["B-per", "I-per", "O", "B-loc"]
    scores = EntityMetric().compute(predictions=[["B-per", "O", "O", "I-loc"]], references=[reference])
    assert (scores["precision"], scores["recall"]) == (0.5, 0.5)  # a stray I- counts as a start
    assert scores["by_type"]["per"] == {"f1": 0.0, "precision": 0.0, "recall": 0.0, "support": 1}
    nothing = EntityMetric().compute(predictions=[["O"] * 4], references=[reference])
    assert (nothing["f1"], nothing["precision"]) == (0.0, 0.0)
    assert EntityMetric().compute(predictions=[["O"]], references=[["O"]])["f1"] == 0.0


@pytest.mark.parametrize("seed", range(3))
def test_classification_scores_are_those_of_sklearn(seed: int) -> None:
    rng = random.Random(seed)
    references, predictions = rng.choices("aaab", k=50), rng.choices("aabc", k=50)
    ours = ClassificationMetric().compute(predictions=predictions, references=references)
    assert ours["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(references, predictions))
    assert ours["macro_f1"] == pytest.approx(
        sklearn.metrics.f1_score(references, predictions, average="macro", zero_division=0)
    )


def test_batches_add_up() -> None:
    metric = ClassificationMetric()
    for number in range(4):
        metric.add_batch(predictions=["a", "b"], references=["a", "ab"[number % 2]])
    assert metric.compute()["accuracy"] == 0.75
