"""A bag of words: the linear model that people would take in place of an encoder, learnt in seconds.

What one is made of is its task's own: `TaskAdapter.bag_of_words` says. Here is what all have in common. scikit-learn is
imported only once one is asked for.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Example = dict[str, Any]
Prediction = dict[str, Any]
EXACT = 10_000_000
"""Non-zero entries of the rows times labels: up to so many a logistic regression is solved to convergence, for several
strengths of its penalty; of more, stochastic gradient descent goes over the rows a few times, for one strength."""
MOST_WORK = 500_000_000
"""Of more, nothing is learnt."""
EPOCHS = 5
"""Of the stochastic gradient descent."""


def evenly(train: Sequence[Example], size: Callable[[Example], int], most: int) -> Sequence[Example]:
    """Of very many examples some, evenly spread over all, that are together about `most` large; at least one."""
    total = sum(map(size, train))
    if total <= most:
        return train
    keep = max(len(train) * most // total, 1)
    return [train[number * len(train) // keep] for number in range(keep)]


class NoBagOfWords(Exception):
    """Why there is none, in a few words."""


class BagOfWords(ABC):
    """A linear model on what occurs in the examples, learnt from one training set."""

    strengths: Sequence[float]
    """What is tried as `C`, the inverse of the penalty's strength; validation chooses."""
    examples: int
    """How many training examples are learnt from."""

    @abstractmethod
    def rows(self, examples: Sequence[Example]) -> Any:
        """The features of examples, a sparse float32 matrix [rows, features]."""

    @abstractmethod
    def fit(self, strength: float) -> Any:
        """A model for `predict`, the same in every process."""

    @abstractmethod
    def predict(self, model: Any, rows: Any, examples: Sequence[Example]) -> list[Prediction]:
        """Predictions as the task's adapter scores them."""


@dataclass(frozen=True)
class Linear:
    """A weight a label and feature, and an intercept a label."""

    weights: np.ndarray
    """float32 [labels, features]."""
    intercepts: np.ndarray
    """float32 [labels]."""

    def decide(self, rows: Any) -> np.ndarray:
        """[rows, labels]; above 0: more likely than not."""
        return rows @ self.weights.T + self.intercepts


def one_against_rest(
    rows: Any, targets: np.ndarray, strength: float, exact: bool, sample_weight: np.ndarray | None = None
) -> Linear:
    """A logistic regression for each label against all others.

    Args:
        rows: sparse float32 [rows, features].
        targets: bool [rows, labels].
        exact: whether each is solved to convergence.
        sample_weight: of each row, float32 [rows].
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression, SGDClassifier

    count, width = rows.shape
    weights, intercepts = np.zeros((targets.shape[1], width), np.float32), np.zeros(targets.shape[1], np.float32)
    for number, target in enumerate(targets.T):
        if target.all() or not target.any():
            intercepts[number] = 1.0 if target.any() else -1.0
            continue
        if exact:
            # The dual problem: far fewer rows than features.
            model = LogisticRegression(C=strength, solver="liblinear", dual=True, tol=1e-2, random_state=0)
        else:
            model = SGDClassifier("log_loss", alpha=1 / (strength * count), max_iter=EPOCHS, tol=None, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(rows, target, sample_weight=sample_weight)
        weights[number], intercepts[number] = model.coef_[0], model.intercept_[0]
    return Linear(weights, intercepts)


def is_exact(rows: Any, labels: int) -> bool:
    """Whether there is time to solve the regressions of so many labels to convergence.

    Raises:
        NoBagOfWords: there is none to learn them at all.
    """
    work = rows.nnz * labels
    if work > MOST_WORK:
        raise NoBagOfWords(f"{labels:,} labels for {rows.nnz:,} counts of words would take too long")
    return work <= EXACT
