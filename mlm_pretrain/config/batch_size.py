"""Which rows a step has, where the batch size may change at certain steps."""

from __future__ import annotations


class Staged:
    """A whole number that may change at certain steps.

    Args:
        value: a number, or {step from which it holds: number} in ascending order.
    """

    def __init__(self, value: int | dict[int, int]) -> None:
        self._stages = value if isinstance(value, dict) else {0: value}
        self.values = sorted(set(self._stages.values()))
        """All that occur, ascending."""
        self.begins = list(self._stages)
        """The steps from which they hold, ascending."""
        self.last = list(self._stages.values())[-1]
        """That of the last stage."""

    def at(self, step: int) -> int:
        """The number of a step, counted from 0."""
        return self._stages[max(begin for begin in self._stages if begin <= step)]

    def described(self, unit: str) -> str:
        """In words, as "64 sequences, 256 from step 5,000"."""
        first, *later = self._stages.items()
        return f"{first[1]:,} {unit}" + "".join(f", {value:,} from step {step:,}" for step, value in later)


class BatchSize(Staged):
    """Rows per optimizer step over a run: `training.global_batch_size`."""

    def rows_before(self, step: int) -> int:
        """The rows of all steps before this one, which is the number of its first row."""
        begins = [begin for begin in self._stages if begin < step]
        ends = [*begins[1:], step]
        return sum((end - begin) * self._stages[begin] for begin, end in zip(begins, ends, strict=False))

    def mean(self, steps: int) -> float:
        """Rows a step over the first steps."""
        return self.rows_before(steps) / steps
