"""A linear tagger: the label of a word from what it looks like and the words beside it, each word by itself.

Features as taggers before neural ones had them (Ratnaparkhi 1996; Tjong Kim Sang & De Meulder 2003): the word, its
shape, beginnings and ends, and less of the two words on either side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from mlm_pretrain.tasks.scores.bag_of_words import BagOfWords, Example, NoBagOfWords, Prediction, evenly

MOST_WORDS = 300_000
MOST_WORK = 1_000_000_000
"""Non-zero entries of the rows times labels."""
STRENGTHS = (0.3, 1.0)
FEW_WORK = 100_000_000
"""Of more, one strength alone is tried."""
EPOCHS = 10
EDGE = ""
"""What is before the first word and after the last."""


def shape(word: str) -> str:
    """`Mr.` → `Xx.`, `BRCA1-like` → `X0-x`: the kinds of characters, of neighbours of a kind one."""
    return "".join(kind for kind, _ in groupby(map(_kind, word)))


def _kind(character: str) -> str:
    if character.isdigit():
        return "0"
    return ("X" if character.isupper() else "x" if character.islower() else "c") if character.isalpha() else character


def _own(word: str) -> list[str]:
    lower = word.lower()
    affixes = [affix for size in range(1, 5) for affix in (f"<{size}={lower[:size]}", f">{size}={lower[-size:]}")]
    return [f"word={word}", f"lower={lower}", f"shape={shape(word)}", f"length={min(len(word), 5)}", *affixes]


def _near(word: str) -> list[str]:
    lower = word.lower()
    return [f"lower={lower}", f"shape={shape(word)}", f"<={lower[:3]}", f">={lower[-3:]}"]


def _far(word: str) -> list[str]:
    return [f"lower={word.lower()}", f"shape={shape(word)}"]


AROUND: dict[int, Callable[[str], list[str]]] = {0: _own, -1: _near, 1: _near, -2: _far, 2: _far}
"""By the distance from a word the features of the word there."""
REACH = max(AROUND)


class TagBag(BagOfWords):
    """Tags of words, by one linear model a tag."""

    def __init__(self, train: Sequence[Example], decode: Callable[[Sequence[str]], list[str]] = list) -> None:
        """
        Args:
            train: of very many some are learnt from, evenly spread.
            decode: brings the tags of a sentence into a form that the task scores.

        Raises:
            NoBagOfWords: there are too many words for so many tags.
        """
        from sklearn.feature_extraction.text import CountVectorizer

        self.train = evenly(train, lambda example: len(example["tokens"]), MOST_WORDS)
        self.examples = len(self.train)
        self.decode = decode
        self.tags = [tag for example in self.train for tag in example["tags"]]
        if not self.tags:
            raise NoBagOfWords("the training examples have no words")
        words = sorted({EDGE, *(word for example in self.train for word in example["tokens"])})
        self.vectorizers = {
            place: CountVectorizer(analyzer=features, binary=True, dtype=np.float32).fit(words)
            for place, features in AROUND.items()
        }
        self.features = self.rows(self.train)
        work = self.features.nnz * len(set(self.tags))
        if work > MOST_WORK:
            raise NoBagOfWords(f"{len(set(self.tags)):,} tags for {len(self.tags):,} words would take too long")
        self.strengths = STRENGTHS if work <= FEW_WORK else STRENGTHS[:1]

    def rows(self, examples: Sequence[Example]) -> Any:
        """A row a word. What a word looks like is worked out once, however often it occurs."""
        from scipy import sparse

        words = sorted({EDGE, *(word for example in examples for word in example["tokens"])})
        numbers = {word: number for number, word in enumerate(words)}
        edge = [numbers[EDGE]] * REACH
        line: list[int] = list(edge)
        places: list[int] = []
        for example in examples:
            places += range(len(line), len(line) + len(example["tokens"]))
            line += [numbers[word] for word in example["tokens"]] + edge
        at, standing = np.array(places, dtype=np.int64), np.array(line, dtype=np.int64)
        blocks = [self.vectorizers[place].transform(words)[standing[at + place]] for place in AROUND]
        return sparse.hstack(blocks, format="csr", dtype=np.float32)

    def fit(self, strength: float) -> Any:
        from sklearn.linear_model import SGDClassifier

        # A support vector machine, which leaves alone what is right by a margin: most words are plainly no entities.
        alpha = 1 / (strength * len(self.tags))
        model = SGDClassifier("hinge", alpha=alpha, max_iter=EPOCHS, tol=None, random_state=0)
        return model.fit(self.features, self.tags)

    def predict(self, model: Any, rows: Any, examples: Sequence[Example]) -> list[Prediction]:
        said = iter(model.predict(rows).tolist()) if rows.shape[0] else iter(())
        return [{"tags": self.decode([next(said) for _ in example["tokens"]])} for example in examples]
