"""Bags of words for texts and pairs of texts: TF-IDF of words and pairs of neighbouring words, and a linear model.

Words are those of `split_words`, for any script, in lower case; characters where a script puts no blanks between words,
so that pairs of them are its words. Salton & Buckley 1988 (TF-IDF with logarithmic counts); Wang & Manning 2012, that
such a baseline is hard to beat on short texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mlm_pretrain.tasks.labels.words import split_words
from mlm_pretrain.tasks.scores.bag_of_words import (
    BagOfWords,
    Example,
    Linear,
    NoBagOfWords,
    Prediction,
    evenly,
    is_exact,
    one_against_rest,
)

MOST_EXAMPLES = 100_000
MOST_CHARACTERS = 30_000_000
MOST_WEIGHTS = 20_000_000
"""Of all labels together."""
STRENGTHS = (1.0, 3.0, 10.0, 30.0)
ALPHAS = (100.0, 30.0, 10.0, 3.0, 1.0, 0.3)
FEW = 5000
"""Of fewer training texts words that occur in one alone are counted too."""


def _texts(example: Example) -> list[str]:
    return [example[name] for name in ("text", "text_pair") if name in example]


def words_of(text: str) -> list[str]:
    return [text[start:end].lower() for start, end in split_words(text)]


class TextBag(BagOfWords):
    """Features of a text: its TF-IDF. Of a pair: those of both, what they share, in what they differ, their cosine."""

    def __init__(self, train: Sequence[Example], labels: int) -> None:
        """
        Args:
            train: of very many some are learnt from, evenly spread.
            labels: how many outputs the model will have.

        Raises:
            NoBagOfWords: the texts have no words, or there are too many.
        """
        from sklearn.feature_extraction.text import TfidfVectorizer

        kept = evenly(train, lambda example: 1, MOST_EXAMPLES)
        self.train = evenly(kept, lambda example: sum(map(len, _texts(example))), MOST_CHARACTERS)
        self.examples = len(self.train)
        self.vectorizer = TfidfVectorizer(
            tokenizer=words_of,
            token_pattern=None,
            lowercase=False,
            ngram_range=(1, 2),
            sublinear_tf=True,
            min_df=1 if len(self.train) < FEW else 2,
            max_features=max(MOST_WEIGHTS // labels, 1),
            dtype=np.float32,
        )
        try:
            self.vectorizer.fit(text for example in self.train for text in _texts(example))
        except ValueError:  # its message is about its own settings
            raise NoBagOfWords("the training texts have no words in common") from None
        self.features = self.rows(self.train)

    def rows(self, examples: Sequence[Example]) -> Any:
        from scipy import sparse

        first = self.vectorizer.transform([example["text"] for example in examples])
        if not examples or "text_pair" not in examples[0]:
            return first
        second = self.vectorizer.transform([example["text_pair"] for example in examples])
        shared = first.multiply(second)
        cosine = sparse.csr_matrix(shared.sum(axis=1), dtype=np.float32)
        return sparse.hstack([first, second, shared, abs(first - second), cosine], format="csr", dtype=np.float32)


class LabelBag(TextBag):
    """A logistic regression for each label; the most likely one is said of a text, or all likely ones."""

    def __init__(
        self,
        train: Sequence[Example],
        labels: Sequence[str],
        *,
        several: bool,
        class_weight: Sequence[float] | None = None,
    ) -> None:
        """
        Args:
            labels: the names of all outputs.
            several: whether a text has any number of labels, in a list.
            class_weight: of each label in the loss.
        """
        super().__init__(train, len(labels))
        self.labels, self.several = labels, several
        self.exact = is_exact(self.features, len(labels))
        self.strengths = STRENGTHS if self.exact else (10.0,)
        numbers = {label: number for number, label in enumerate(labels)}
        self.targets = np.zeros((len(self.train), len(labels)), dtype=bool)
        for place, example in enumerate(self.train):
            names = example["label"] if several else [example["label"]]
            self.targets[place, [numbers[name] for name in names]] = True
        self.weight = None if class_weight is None else self.targets @ np.asarray(class_weight, dtype=np.float32)

    def fit(self, strength: float) -> Linear:
        return one_against_rest(self.features, self.targets, strength, self.exact, self.weight)

    def predict(self, model: Linear, rows: Any, examples: Sequence[Example]) -> list[Prediction]:
        decisions = model.decide(rows)
        if self.several:
            likely = (np.flatnonzero(row > 0).tolist() for row in decisions)
            return [{"labels": [self.labels[number] for number in numbers]} for numbers in likely]
        return [{"label": self.labels[best]} for best in decisions.argmax(axis=1).tolist()]


class NumberBag(TextBag):
    """A ridge regression."""

    def __init__(self, train: Sequence[Example]) -> None:
        super().__init__(train, 1)
        self.strengths = tuple(1 / alpha for alpha in ALPHAS)

    def fit(self, strength: float) -> Any:
        from sklearn.linear_model import Ridge

        numbers = np.array([example["label"] for example in self.train], dtype=np.float64)
        return Ridge(alpha=1 / strength, solver="sparse_cg").fit(self.features.astype(np.float64), numbers)

    def predict(self, model: Any, rows: Any, examples: Sequence[Example]) -> list[Prediction]:
        return [{"score": float(value)} for value in model.predict(rows)]
