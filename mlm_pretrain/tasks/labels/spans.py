"""Entities given by characters of a text, as the IOB2 tags of its words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from mlm_pretrain.tasks.labels.names import whole_number
from mlm_pretrain.tasks.labels.schemes import Entity, tags_of
from mlm_pretrain.tasks.labels.unusable import BadExample
from mlm_pretrain.tasks.labels.words import Span

LABELS = ("label", "type", "entity_group", "entity")
"""What the type of an entity may be called in its mapping."""


class Given(NamedTuple):
    """An entity as the data has it."""

    start: int
    end: int
    label: str

    def __str__(self) -> str:
        return f"{self.label} {self.start}-{self.end}"


def read_spans(value: Any, text: str, column: str, place: str) -> list[Given]:
    """The entities of a text in their order, the longer of two that begin together first.

    Args:
        value: a list of `{start, end, label}` or `[start, end, label]`, or that as JSON (in csv), or a mapping of
            three lists (a nested feature of `datasets`).

    Raises:
        BadExample: something else, or a span outside the text.
    """
    problem = f"{column} must be a list of {{start, end, label}}; [] where there is no entity"
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise BadExample(place, f"{column} is not valid JSON; [] where there is no entity", "no entities") from None
    if isinstance(value, dict) and all(isinstance(part, list) for part in value.values()):
        if len(set(map(len, value.values()))) > 1:
            raise BadExample(place, f"the lists in {column} differ in length", "entities of uneven lists")
        value = [dict(zip(value, row, strict=True)) for row in zip(*value.values(), strict=True)]
    if not isinstance(value, list):
        raise BadExample(place, problem, "no entities")
    spans = [_read_span(item, text, column, place) for item in value]
    return sorted(spans, key=lambda span: (span.start, -span.end))


def _read_span(item: Any, text: str, column: str, place: str) -> Given:
    shown = f"{item!r:.80} in {column}; "
    if isinstance(item, dict):
        item = [item.get("start"), item.get("end"), next((item[name] for name in LABELS if name in item), None)]
    if not isinstance(item, list | tuple) or len(item) != 3:
        problem = f"{shown}an entity is {{start, end, label}} or [start, end, label]"
        raise BadExample(place, problem, "a malformed entity")
    start, end, label = map(whole_number, item)
    if type(start) is not int or type(end) is not int or not isinstance(label, str) or not label.strip():
        problem = f"{shown}start and end are characters, counted from 0, label is a name"
        raise BadExample(place, problem, "a malformed entity")
    if not 0 <= start < end <= len(text) or not text[start:end].strip():
        problem = "holds no text" if 0 <= start <= end <= len(text) else f"isn't in the text of {len(text)} characters"
        raise BadExample(place, f"{Given(start, end, label)} in {column} {problem}", "an entity that isn't in the text")
    return Given(start, end, label)


def outermost(spans: Sequence[Given], place: str) -> tuple[list[Given], list[str]]:
    """The entities that stand in no other, and a note on each that does.

    Args:
        spans: as `read_spans` orders them.

    Raises:
        BadExample: two overlap, and neither holds the other.
    """
    kept: list[Given] = []
    notes = []
    for span in spans:
        outer = kept[-1] if kept else None
        if outer is None or span.start >= outer.end:
            kept.append(span)
        elif span.end <= outer.end:
            notes.append(f"{span} in {outer}")
        else:
            problem = f"{outer} and {span} overlap; a word can have one label, so leave one of them out"
            raise BadExample(place, problem, "entities that overlap")
    return kept, notes


def tag_words(text: str, words: Sequence[Span], spans: Sequence[Given]) -> tuple[list[str], list[str]]:
    """The tags of the words, and a note on each entity that had to grow to whole words.

    Of two entities that share a word the first has it; what has no word left is in the first's.

    Args:
        words: the characters of the words, in order.
        spans: as `outermost` gives them.
    """
    entities: list[Entity] = []
    notes = []
    word = 0
    for span in spans:
        while word < len(words) and words[word][1] <= span.start:
            word += 1
        first = last = word
        while last < len(words) and words[last][0] < span.end:
            last += 1
        if last == first:
            notes.append(f"'{text[span.start : span.end]}', whose word is another entity's already")
            continue
        start, end = words[first][0], words[last - 1][1]
        if start < span.start or end > span.end or text[span.start : start].strip():
            notes.append(f"'{text[span.start : span.end]}' to '{text[start:end]}'")
        entities.append((span.label, first, last - 1))
        word = last
    return tags_of(entities, len(words)), notes
