"""Our offline metrics against the libraries that define them."""

from __future__ import annotations

import random

import numpy as np
import pytest
import scipy.stats
import seqeval.metrics
import sklearn.metrics
import sklearn.preprocessing
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching
from seqeval.metrics.sequence_labeling import get_entities

from mlm_pretrain.tasks.scores.entity_metrics import EntityMetric
from mlm_pretrain.tasks.scores.metrics import ClassificationMetric, MultiLabelMetric, RegressionMetric

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


@pytest.mark.parametrize("seed", range(5))
def test_relaxed_scores_count_the_most_pairs_that_overlap(seed: int) -> None:
    references, predictions = tag_lists(seed), tag_lists(seed + 100)
    scores = EntityMetric().compute(predictions=predictions, references=references)
    hits = gold = found = 0
    for reference, prediction in zip(references, predictions, strict=True):
        ours, theirs = get_entities(reference), get_entities(prediction)
        fits = [[a[0] == b[0] and a[1] <= b[2] and b[1] <= a[2] for b in theirs] for a in ours]
        if ours and theirs:
            hits += int((maximum_bipartite_matching(csr_array(np.array(fits, dtype=int))) >= 0).sum())
        gold, found = gold + len(ours), found + len(theirs)
    relaxed = scores["relaxed"]
    assert relaxed["precision"] == pytest.approx(hits / found)
    assert relaxed["recall"] == pytest.approx(hits / gold)
    assert relaxed["f1"] == pytest.approx(2 * hits / (found + gold))
    assert all(relaxed[name] >= scores[name] for name in relaxed)


def test_an_entity_is_relaxedly_found_once() -> None:
    score = EntityMetric().compute
    one = ["B-per", "I-per", "I-per"]
    torn = score(predictions=[["B-per", "B-per", "O"]], references=[one])
    assert torn["f1"] == 0.0 and torn["relaxed"] == pytest.approx({"f1": 2 / 3, "precision": 0.5, "recall": 1.0})
    assert score(predictions=[["B-loc", "I-loc", "I-loc"]], references=[one])["relaxed"]["f1"] == 0.0
    assert score(predictions=[["O"]], references=[["O"]])["relaxed"] == {"f1": 0.0, "precision": 0.0, "recall": 0.0}


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("seed", range(3))
def test_classification_scores_are_those_of_sklearn(seed: int) -> None:
    rng = random.Random(seed)
    references, predictions = rng.choices("aaab", k=50), rng.choices("aabc", k=50)
    ours = ClassificationMetric().compute(predictions=predictions, references=references)
    assert ours["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(references, predictions))
    assert ours["macro_f1"] == pytest.approx(
        sklearn.metrics.f1_score(references, predictions, average="macro", zero_division=0)
    )
    assert ours["mcc"] == pytest.approx(sklearn.metrics.matthews_corrcoef(references, predictions))
    assert ours["balanced_accuracy"] == pytest.approx(sklearn.metrics.balanced_accuracy_score(references, predictions))
    theirs = sklearn.metrics.precision_recall_fscore_support(references, predictions, zero_division=0)
    assert list(ours["by_class"]) == ["a", "b", "c"]
    for name, column in (("precision", 0), ("recall", 1), ("f1", 2), ("support", 3)):
        assert [row[name] for row in ours["by_class"].values()] == pytest.approx(list(theirs[column]))


def test_one_class_for_all_is_no_correlation() -> None:
    ours = ClassificationMetric().compute(predictions=["a"] * 4, references=["a", "a", "a", "b"])
    assert (ours["accuracy"], ours["mcc"], ours["balanced_accuracy"]) == (0.75, 0.0, 0.5)
    assert ClassificationMetric().compute(predictions=["a", "b"], references=["a", "b"])["mcc"] == 1.0


@pytest.mark.parametrize("seed", range(3))
def test_multi_label_scores_are_those_of_sklearn(seed: int) -> None:
    rng = random.Random(seed)
    references, predictions = ([rng.sample("abc", k=rng.randint(0, 3)) for _ in range(40)] for _ in range(2))
    ours = MultiLabelMetric().compute(predictions=predictions, references=references)
    rows = sklearn.preprocessing.MultiLabelBinarizer().fit([["a", "b", "c"]])
    theirs = (rows.transform(references), rows.transform(predictions))
    for average in ("micro", "macro"):
        wanted = sklearn.metrics.f1_score(*theirs, average=average, zero_division=0)
        assert ours[f"{average}_f1"] == pytest.approx(wanted)
    assert ours["exact_match"] == pytest.approx(sklearn.metrics.accuracy_score(*theirs))


def test_texts_without_labels_score_too() -> None:
    ours = MultiLabelMetric().compute(predictions=[[], []], references=[[], []])
    assert ours == {"micro_f1": 0.0, "macro_f1": 0.0, "exact_match": 1.0, "by_class": {}}


@pytest.mark.parametrize("seed", range(3))
def test_regression_scores_are_those_of_scipy_and_sklearn(seed: int) -> None:
    rng = random.Random(seed)
    references = [float(rng.randint(0, 5)) for _ in range(50)]  # with ties
    predictions = [round(value + rng.gauss(0, 2), 1) for value in references]
    ours = RegressionMetric().compute(predictions=predictions, references=references)
    assert ours["pearson"] == pytest.approx(scipy.stats.pearsonr(predictions, references).statistic)
    assert ours["spearman"] == pytest.approx(scipy.stats.spearmanr(predictions, references).statistic)
    assert ours["mse"] == pytest.approx(sklearn.metrics.mean_squared_error(references, predictions))
    assert ours["r2"] == pytest.approx(sklearn.metrics.r2_score(references, predictions))


@pytest.mark.parametrize("constant", [0.1, 0.0, 1e30])
def test_what_does_not_vary_correlates_with_nothing(constant: float) -> None:
    for predictions, references in (([constant] * 3, [0.1, 0.2, 0.3]), ([0.1, 0.2, 0.3], [constant] * 3)):
        ours = RegressionMetric().compute(predictions=predictions, references=references)
        assert (ours["pearson"], ours["spearman"]) == (0.0, 0.0)
    assert ours["r2"] == 0.0
    assert RegressionMetric().compute(predictions=[2.0], references=[1.0])["mse"] == 1.0


def test_batches_add_up() -> None:
    metric = ClassificationMetric()
    for number in range(4):
        metric.add_batch(predictions=["a", "b"], references=["a", "ab"[number % 2]])
    assert metric.compute()["accuracy"] == 0.75
