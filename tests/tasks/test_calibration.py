"""Temperatures and calibration errors against their definitions."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast, pipeline

from mlm_pretrain.models.encoder import load_config, load_model
from mlm_pretrain.tasks.adapter import probabilities
from mlm_pretrain.tasks.inference.logits import logits_of
from mlm_pretrain.tasks.kinds.classification import Classification
from mlm_pretrain.tasks.scores.calibration import TEMPERATURES, calibration_error, fit_temperature, reliability
from tests.tasks.conftest import separable_texts


def drawn(temperature: float, count: int = 4000, classes: int = 4) -> tuple[np.ndarray, list[int]]:
    """Logits that are `temperature` times too large, and labels drawn as softmax without it says."""
    rng = np.random.default_rng(0)
    true = rng.normal(size=(count, classes)) * 2
    labels = [int(rng.choice(classes, p=row)) for row in probabilities(true)]
    return (true * temperature).astype(np.float32), labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_spoilt_the_logits_is_found(temperature: float) -> None:
    logits, labels = drawn(temperature)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(temperature, rel=0.05)
    scores = probabilities(logits / found)
    correct = scores.argmax(-1) == labels
    assert calibration_error(scores.max(-1), correct) < 0.02
    if temperature != 1.0:
        assert calibration_error(probabilities(logits).max(-1), correct) > 0.1


def test_it_is_the_minimum_that_lbfgs_finds() -> None:
    logits, labels = drawn(2.0, count=300)
    rows, targets = torch.tensor(logits, dtype=torch.float64), torch.tensor(labels)
    log_temperature = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_temperature], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        chances = (rows / log_temperature.exp()).log_softmax(-1)
        wrong = 1 / (len(labels) + 2)
        right = chances.gather(1, targets[:, None])[:, 0]
        loss = -((1 - wrong) * right + wrong * (chances.sum(-1) - right) / 3).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert fit_temperature(logits, labels) == pytest.approx(log_temperature.exp().item(), rel=1e-4)


def test_sets_without_a_mistake_do_not_make_all_scores_one() -> None:
    labels = [0, 1] * 20
    logits = np.array([[3.0, 0.0], [0.0, 3.0]] * 20)
    temperature = fit_temperature(logits, labels)
    # Platt's estimate of the chance to be right after n of n.
    assert probabilities(logits / temperature).max(-1) == pytest.approx([1 - 1 / 42] * 40, rel=1e-4)
    assert fit_temperature(logits * 1000, labels) == pytest.approx(TEMPERATURES[1], rel=1e-4)
    assert fit_temperature(logits / 1000, labels) == pytest.approx(TEMPERATURES[0], rel=1e-4)


def test_logits_that_say_nothing_are_left_as_they_are() -> None:
    assert fit_temperature(np.zeros((5, 3)), [0, 1, 2, 0, 1]) == 1.0


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.lists(st.floats(-50, 50, width=32), min_size=3, max_size=3), st.integers(0, 2)), min_size=1)
)
def test_any_logits_give_a_temperature_within_bounds(rows: list[tuple[list[float], int]]) -> None:
    temperature = fit_temperature(np.array([row for row, _ in rows]), [label for _, label in rows])
    assert math.isfinite(temperature)
    assert TEMPERATURES[0] * 0.999 <= temperature <= TEMPERATURES[1] * 1.001


def test_the_table_of_a_reliability_diagram() -> None:
    table = reliability([0.0, 0.2, 0.5, 0.51, 1.0, 1.0], [False, True, True, False, True, False], bins=2)
    assert table == [
        {
            "low": 0.0,
            "high": 0.5,
            "count": 3,
            "confidence": pytest.approx(0.7 / 3),
            "accuracy": pytest.approx(2 / 3),
        },
        {
            "low": 0.5,
            "high": 1.0,
            "count": 3,
            "confidence": pytest.approx(2.51 / 3),
            "accuracy": pytest.approx(1 / 3),
        },
    ]
    assert calibration_error([0.0, 0.2, 0.5, 0.51, 1.0, 1.0], [False, True, True, False, True, False], bins=2) == (
        pytest.approx((1.3 + 1.51) / 6)
    )
    empty = reliability([1.0], [True])[0]
    assert (empty["count"], empty["confidence"], empty["accuracy"]) == (0, None, None)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1))
def test_every_prediction_is_in_the_bin_of_its_confidence(predictions: list[tuple[float, bool]]) -> None:
    confidences, correct = [score for score, _ in predictions], [right for _, right in predictions]
    table = reliability(confidences, correct)
    assert len(table) == 15 and sum(row["count"] for row in table) == len(predictions)
    for row in table:
        inside = [score for score in confidences if row["low"] < score <= row["high"] or score == row["low"] == 0.0]
        assert row["count"] == len(inside)
    assert 0 <= calibration_error(confidences, correct) <= 1
    assert calibration_error(correct, correct) == 0


def test_a_finished_model_keeps_its_temperature(encoder: Path, bpe: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    examples = [{**row, "place": ""} for row in separable_texts(40, seed=0)]
    adapter = Classification(["bad", "good"], bpe, max_length=16)
    config = load_config(encoder, adapter.labels, adapter.problem_type)
    model = load_model(adapter.auto_class, encoder, config)
    features = adapter.encode(examples)
    logits = logits_of(adapter, model, features, 20)
    before = adapter.predictions(examples, features, logits)
    adapter.calibrate(examples, features, logits)
    assert adapter.temperature != 1.0
    predictions = adapter.predictions(examples, features, logits)
    assert [p["label"] for p in predictions] == [p["label"] for p in before]
    assert [p["uncalibrated_score"] for p in predictions] == [p["score"] for p in before]

    adapter.mark(model)
    model.save_pretrained(tmp_path)
    bpe.save_pretrained(tmp_path)
    again = Classification(["bad", "good"], bpe, max_length=16)
    again.take(AutoConfig.from_pretrained(tmp_path))
    assert again.predictions(examples, features, logits) == predictions
    # transformers knows nothing of it: its scores are those of the plain logits.
    AutoModelForSequenceClassification.from_pretrained(tmp_path)
    theirs = pipeline("text-classification", model=str(tmp_path))([row["text"] for row in examples])
    assert [row["label"] for row in theirs] == [p["label"] for p in predictions]
    assert [row["score"] for row in theirs] == pytest.approx([p["uncalibrated_score"] for p in predictions], rel=1e-4)

    figures = adapter.metrics(examples, predictions)
    correct = [p["label"] == row["label"] for p, row in zip(predictions, examples, strict=True)]
    assert figures["ece"] == calibration_error([p["score"] for p in predictions], correct)
    assert figures["ece_uncalibrated"] == calibration_error([p["score"] for p in before], correct)
    assert "ece" not in adapter.metrics(examples, adapter.majority(examples, examples))
