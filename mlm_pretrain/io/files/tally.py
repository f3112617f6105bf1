"""What was read of a file, in one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from mlm_pretrain.escaping import counted

REASONS = {
    "undecodable": "can't be read",
    "line_too_long": "too long a line",
    "header": "repeated header",
    "not_text": "no text",
    "ambiguous_quotes": "with quotes that may mean two things",
}


class Tally:
    """Records, drops by reason, and the longest record of a file."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.records = 0
        self.dropped: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        """Lines of CoNLL files that are no words."""
        self.unquoted = 0
        """Rows of tables whose quotes were taken for characters."""
        self.over_lines = 0
        """Rows of tables with a quoted field that holds line ends; or with one that swallowed the rows after it."""
        self.longest = 0
        """Characters of the longest value, or words of the longest list, in the row at `longest_at`."""
        self.longest_at = ""
        self._unit = "character"

    def count(self, row: Mapping[str, Any], place: str) -> None:
        """Count one more record."""
        self.records += 1
        for value in row.values():
            if isinstance(value, str | list) and len(value) > self.longest:
                self.longest, self.longest_at = len(value), place
                self._unit = "character" if isinstance(value, str) else "word"

    def __str__(self) -> str:
        """As `data/train.tsv: 300 records, the longest has 96 characters (line 27); dropped: 2 empty`."""
        parts = [f"{self.file}: {counted(self.records, 'record')}"]
        if self.longest:
            at = self.longest_at.removeprefix(self.file).removeprefix(", ").replace(":", "line ", 1)
            parts[0] += f", the longest has {counted(self.longest, self._unit)} ({at})"
        if self.dropped:
            parts.append(f"dropped: {dropped_in_words(self.dropped)}")
        parts += [f"{counted(count, f'{reason} line')} skipped" for reason, count in sorted(self.skipped.items())]
        if self.over_lines:
            parts.append(f"{counted(self.over_lines, 'record')} over several lines, by quotes")
        if self.unquoted:
            where = counted(self.unquoted, "record")
            parts.append(f"quotes are characters in {where} (quoting: minimal reads them as quoting)")
        return "; ".join(parts)


def dropped_in_words(dropped: Mapping[str, int]) -> str:
    """As `3 can't be read, 1 repeated header`."""
    return ", ".join(f"{count:,} {REASONS.get(reason, reason)}" for reason, count in sorted(dropped.items()))
