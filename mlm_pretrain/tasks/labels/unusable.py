"""Labelled rows that can't be used, in all tasks and from all sources: found in one pass, and reported together."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

from mlm_pretrain.errors import UserError

PLACES = 3
"""Of each reason, so many are named."""

_PLACE = re.compile(r"(.*?(?::|, (?:\w+ )*))(\d+)")


class BadExample(UserError):
    """A labelled row that can't be used."""

    def __init__(self, place: str, problem: str, reason: str, part: str = "") -> None:
        """
        Args:
            place: file and line of the row; `part`: where in it, as `word 4`.
            problem: what is wrong with it and what is allowed.
            reason: the same in a few words without the row's own, under which it is counted.
        """
        super().__init__(f"{place}{', ' * bool(part)}{part}: {problem}")
        self.place = place
        self.reason = reason


class Unusable:
    """The rows of one task that can't be used, by split and reason, and how many there are of all."""

    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()
        """Of each split, good and bad."""
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        """By split, the rows of each reason."""
        self._places: dict[str, list[str]] = defaultdict(list)
        self._first: dict[str, BadExample] = {}

    def add(self, split: str, error: BadExample) -> None:
        self._first.setdefault(split, error)
        self.counts[split][error.reason] += 1
        places = self._places[error.reason]
        if len(places) < PLACES:
            places.append(error.place)

    def refuse(self) -> None:
        """
        Raises:
            UserError: if there are any; it names the first, and counts all by their reasons.
        """
        self.refuse_empty_splits()
        if not self._first:
            return
        first = next(iter(self._first.values()))
        if sum(reasons.total() for reasons in self.counts.values()) == 1:
            raise UserError(f"{first}; mend the row, or set on_bad_examples: drop")
        raise UserError(f"{first}; {self.describe()}; mend the rows, or set on_bad_examples: drop")

    def refuse_empty_splits(self) -> None:
        """
        Raises:
            UserError: no row of some split can be used.
        """
        for split, first in self._first.items():
            rows, reasons = self.rows[split], self.counts[split]
            if rows == 1 == reasons.total():
                raise UserError(str(first))
            if rows == reasons.total():
                every = f"the same for each of the {rows:,} examples"
                several = f"none of the {rows:,} examples can be used: {_listed(reasons)}"
                raise UserError(f"{first}; {every if len(reasons) == 1 else several}")

    def describe(self) -> str:
        """How many of how many, by reason, with the first places of each."""
        reasons = sum(self.counts.values(), Counter[str]())
        where = {reason: f" ({_joined(self._places[reason], reasons[reason])})" for reason in reasons}
        return f"{reasons.total():,} of {self.rows.total():,} examples can't be used: {_listed(reasons, where)}"

    def dropped(self) -> dict[str, dict[str, int]]:
        """By split and reason, as results record it."""
        return {split: dict(reasons.most_common()) for split, reasons in self.counts.items() if reasons}


def _listed(reasons: Counter[str], notes: dict[str, str] | None = None) -> str:
    return ", ".join(f"{reason} {count:,}{(notes or {}).get(reason, '')}" for reason, count in reasons.most_common())


def _joined(places: list[str], count: int) -> str:
    """Places without folders, a file's name once: `a.csv:3, 8, b.csv:2, …`."""
    named, before = [], ""
    for place in (place.rpartition("/")[2] for place in places):
        match = _PLACE.fullmatch(place)
        named.append(match[2] if match and match[1] == before else place)
        before = match[1] if match else ""
    return ", ".join([*named, *["…"] * (count > len(places))])
