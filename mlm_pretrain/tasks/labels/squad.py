"""Answers in the rows of SQuAD, and their scores as its evaluation script computes them (Rajpurkar et al. 2018).

The scores are those of SQuAD 2.0, and of data without unanswerable questions those of SQuAD 1.1. The normalisation
drops English articles whatever the language, so that figures compare with published ones.
"""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

from mlm_pretrain.tasks.labels.names import whole_number
from mlm_pretrain.tasks.labels.unusable import BadExample

ABSENT = "an answer that isn't in its context"
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def read_answers(value: Any, column: str, place: str) -> list[tuple[str, int]]:
    """The texts and starts of a row's answers: the Hub's `{"text": [...], "answer_start": [...]}` or a list of records.

    Raises:
        BadExample: it is neither, nor JSON of either.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            problem = f'{column} is {value!r:.80}; write {{"text": [], "answer_start": []}} as JSON'
            raise BadExample(place, problem, "malformed answers") from None
    if isinstance(value, dict) and all(isinstance(value.get(key), list) for key in ("text", "answer_start")):
        pairs = list(zip(value["text"], value["answer_start"], strict=False))
        uneven = len(value["text"]) != len(value["answer_start"])
    elif isinstance(value, list) and all(isinstance(answer, dict) for answer in value):
        pairs, uneven = [(answer.get("text"), answer.get("answer_start")) for answer in value], False
    else:
        pairs, uneven = [], True
    pairs = [(text, whole_number(start)) for text, start in pairs]
    if uneven or not all(isinstance(text, str) and text.strip() and type(start) is int for text, start in pairs):
        problem = f'{column} is {value!r:.80}; it must be {{"text": [...], "answer_start": [...]}}, both of one length'
        raise BadExample(place, problem, "malformed answers")
    return pairs


def placed(text: str, start: int, context: str, column: str, place: str) -> tuple[dict[str, Any], bool]:
    """An answer where it stands in its context, without whitespace around, and whether that is elsewhere.

    Raises:
        BadExample: it is nowhere, or in several places.
    """
    moved = start < 0 or not context.startswith(text, start)
    if moved:
        count = sum(context.startswith(text, position) for position in range(len(context)))
        if count != 1:
            where = "nowhere in the context" if not count else f"{count} times elsewhere"
            problem = f"{column}: '{text}' isn't at answer_start {start}, but {where}"
            raise BadExample(place, problem, "an answer that is several times in its context" if count else ABSENT)
        start = context.index(text)
    begin = start + len(text) - len(text.lstrip())
    return {"text": text.strip(), "start": begin}, moved


def normalised(answer: str) -> str:
    """Lower case, without punctuation (ASCII), articles and superfluous whitespace."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1.0 if the prediction is one of the answers, after normalisation; no answers: where it is empty."""
    return float(normalised(prediction) in map(normalised, _gold(answers)))


def f1(prediction: str, answers: Sequence[str]) -> float:
    """F1 of the words that prediction and answer have in common, for the answer that fits best."""
    return max(_f1(normalised(prediction).split(), normalised(answer).split()) for answer in _gold(answers))


def squad_scores(predictions: Sequence[str], answers: Sequence[Sequence[str]]) -> dict[str, float]:
    """Means over the questions, between 0 and 1.

    Args:
        predictions: "" where none is given.
        answers: of each question all that count as right; none where it has no answer.

    Returns:
        `f1` and `exact_match`; where there are questions with and without an answer, the same of each kind too, as
        `f1_answerable`, `f1_unanswerable`, ….
    """
    rows = [
        (bool(right), {"f1": f1(prediction, right), "exact_match": exact_match(prediction, right)})
        for prediction, right in zip(predictions, answers, strict=True)
    ]
    kinds = {"": [scores for _, scores in rows]}
    if len({answerable for answerable, _ in rows}) == 2:
        kinds["_answerable"] = [scores for answerable, scores in rows if answerable]
        kinds["_unanswerable"] = [scores for answerable, scores in rows if not answerable]
    return {
        f"{name}{kind}": sum(scores[name] for scores in members) / len(members)
        for kind, members in kinds.items()
        for name in ("f1", "exact_match")
    }


def _gold(answers: Sequence[str]) -> Sequence[str]:
    return [answer for answer in answers if normalised(answer)] or [""]


def _f1(prediction: list[str], answer: list[str]) -> float:
    if not prediction or not answer:
        return float(prediction == answer)
    common = (Counter(prediction) & Counter(answer)).total()
    return 2 * common / (len(prediction) + len(answer))
