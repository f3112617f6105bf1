"""What a task's model got wrong, as its `errors.jsonl` has it: counted, and shown in the text where it happened."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlm_pretrain.config.public import without_places
from mlm_pretrain.report.runs import Record, json_lines
from mlm_pretrain.tasks.kinds.word_labelling import CONTEXT

SHOWN = 24
"""Mistakes of a task on the page."""
LONGEST_TEXT = 320
ENTITY_KINDS = {
    "missed": "missed",
    "wrong_type": "wrong type",
    "wrong_span": "wrong words",
    "invented": "invented",
}


@dataclass(frozen=True)
class Piece:
    """A part of a text: `gold` where it is what is right, `predicted` where it is what the model said."""

    text: str
    gold: bool = False
    predicted: bool = False


@dataclass(frozen=True)
class Mistake:
    """One, to be shown: the text in pieces, and what was right and what predicted in words."""

    pieces: list[Piece]
    right: str
    predicted: str
    kind: str = ""
    score: float | None = None
    place: str = ""


@dataclass
class Mistakes:
    """Those of a task.

    `confusion` counts (right, predicted) where both are one name; `kinds` counts (kind, type) of entities.
    """

    total: int = 0
    shown: list[Mistake] = field(default_factory=list)
    confusion: Counter[tuple[str, str]] = field(default_factory=Counter)
    kinds: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def has_entities(self) -> bool:
        return bool(self.kinds)


def read_mistakes(path: Path) -> Mistakes | None:
    """Read a task's mistakes; None if they weren't recorded. Damaged lines are skipped.

    Of entities the first of every kind are shown, of words the first, else the first as the file has them: those that
    the model was surest of.
    """
    if not path.is_file():
        return None
    made = Mistakes()
    by_kind: dict[str, list[Mistake]] = {}
    for record in json_lines(path):
        made.total += 1
        kind = str(record.get("kind", ""))
        if kind in ENTITY_KINDS:
            made.kinds[kind, str(record.get("type"))] += 1
        right, predicted = record.get("label", record.get("tag")), record.get("predicted")
        if isinstance(right, str) and isinstance(predicted, str):
            made.confusion[right, predicted] += 1
        known = by_kind.setdefault(kind, [])
        if len(known) < SHOWN:
            known.append(_mistake(record, kind))
    share = max(SHOWN // max(len(by_kind), 1), 1)
    made.shown = [mistake for kind in (*ENTITY_KINDS, "") for mistake in by_kind.get(kind, [])[:share]]
    return made


def confusion_of(mistakes: Mistakes, support: Mapping[str, float]) -> list[list[int]] | None:
    """The confusion matrix that follows from the mistakes and how many examples each class has.

    Args:
        support: of every class among the examples.

    Returns:
        Counts [true class, predicted class], in the order of `classes_of`; None if they don't belong together.
    """
    classes = classes_of(mistakes, support)
    numbers = {name: number for number, name in enumerate(classes)}
    matrix = [[0] * len(classes) for _ in classes]
    for (right, predicted), count in mistakes.confusion.items():
        matrix[numbers[right]][numbers[predicted]] += count
    for name, number in numbers.items():
        # Means over seeds, of whole numbers that don't change with the seed.
        matrix[number][number] = round(support.get(name, 0)) - sum(matrix[number])
    complete = mistakes.total == sum(mistakes.confusion.values())
    return matrix if complete and all(count >= 0 for row in matrix for count in row) else None


def classes_of(mistakes: Mistakes, support: Mapping[str, float]) -> list[str]:
    return sorted({*support, *(name for pair in mistakes.confusion for name in pair)})


def _mistake(record: Record, kind: str) -> Mistake:
    place = str(without_places(record.get("place", "")))
    score = record.get("score")
    score = float(score) if isinstance(score, int | float) else None
    if kind in ENTITY_KINDS:
        return _entity_mistake(record, kind, place)
    if "tag" in record:
        at = _find(record, str(record.get("text", "")))
        pieces = _pieces(str(record.get("context", "")), at, at)
        return Mistake(pieces, str(record["tag"]), str(record.get("predicted")), place=place)
    right, predicted = _said(record)
    return Mistake([Piece(_cut(_text(record)))], right, predicted, score=score, place=place)


def _said(record: Record) -> tuple[str, str]:
    """What was right, and what was predicted."""
    if "missing" in record:
        gone, more = _list(record["missing"]), _list(record.get("extra", []))
        return _list(record.get("label", [])), "; ".join(
            part for part in (f"without {gone}" if gone else "", f"with {more}" if more else "") if part
        )
    right = record["answers"] if "answers" in record else record.get("label")
    return _list(right) or "no answer", _list(record.get("predicted")) or "no answer"


def _list(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)


def _text(record: Record) -> str:
    known = {"place", "label", "predicted", "score", "error", "missing", "extra", "answers"}
    return " ⏐ ".join(str(value) for key, value in record.items() if key not in known and isinstance(value, str))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}…"


def _entity_mistake(record: Record, kind: str, place: str) -> Mistake:
    context, name = str(record.get("context", "")), str(record.get("type"))
    at = _find(record, str(record.get("text", "")))
    gold = predicted = at
    right, said = name, str(record.get("predicted_type", "nothing"))
    if kind == "invented":
        gold, right, said = None, "nothing", name
    elif kind == "missed":
        predicted = None
    elif kind == "wrong_span":
        said = name
        predicted = _overlapping(context, str(record.get("predicted_text", "")), at)
    return Mistake(_pieces(context, gold, predicted), right, said, ENTITY_KINDS[kind], place=place)


Place = tuple[int, int]


def _find(record: Record, text: str) -> Place | None:
    """Where a mistake's words are in its context, which has as much of the text on both sides of them."""
    context = str(record.get("context", ""))
    room = max((CONTEXT - len(text)) // 2, 0)
    if not text:
        return None
    from_left, from_right = room + 1, len(context) - 1 - room - len(text)
    for is_cut, begin in ((context.startswith("…"), from_left), (context.endswith("…"), from_right)):
        if is_cut and context[max(begin, 0) : begin + len(text)] == text and begin >= 0:
            return begin, begin + len(text)
    found = [begin for begin in range(len(context)) if context.startswith(text, begin)]
    number = int(record.get("first", record.get("number", 0)) or 0)
    if not found:
        return None
    # The whole sentence is there: the one with as many words before it.
    begin = min(found, key=lambda place: abs(len(context[:place].split()) - number))
    return begin, begin + len(text)


def _overlapping(context: str, text: str, at: Place | None) -> Place | None:
    """Where other words are that share some with those at a place."""
    if at is None or not text:
        return None
    starts = range(max(at[0] - len(text) + 1, 0), at[1])
    begin = next((begin for begin in starts if context.startswith(text, begin)), None)
    return None if begin is None else (begin, begin + len(text))


def _pieces(text: str, gold: Place | None, predicted: Place | None) -> list[Piece]:
    places: Sequence[Place] = [place for place in (gold, predicted) if place]
    ends = sorted({0, len(text), *(end for place in places for end in place)})

    def within(begin: int, place: Place | None) -> bool:
        return place is not None and place[0] <= begin < place[1]

    return [
        Piece(text[begin:end], within(begin, gold), within(begin, predicted)) for begin, end in itertools.pairwise(ends)
    ]
