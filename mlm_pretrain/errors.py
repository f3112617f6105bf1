"""Errors that a user sees: one line that names the file, the place and the remedy.

Everything that a user can cause (a misspelt key, a missing column, a damaged checkpoint) is raised as a
`UserError`; the command line prints it in one line and exits with code 2. Anything else that is raised is a
defect of this package and keeps its traceback.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator, Sequence

from mlm_pretrain.escaping import LONGEST_VALUE, one_line, shortened

MOST_CHOICES = 30
"""Names that a message lists."""


class UserError(ValueError):
    """What the user can mend. Its text is one line of bounded length: file, place, what is wrong, what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class UserErrors(UserError):
    """Several of them, each a line of its own."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__(" | ".join(faults))
        self.faults = [one_line(fault) for fault in faults]


class Faults:
    """Gathers what the user can mend, so that all of it is told at once.

    Example:
        >>> faults = Faults()
        >>> with faults.noted():
        ...     raise UserError("a.jsonl: no such file")
        >>> faults.lines
        ['a.jsonl: no such file']
    """

    def __init__(self) -> None:
        self.lines: list[str] = []

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """What is raised in here is noted; the same line once."""
        try:
            yield
        except UserError as error:
            found = error.faults if isinstance(error, UserErrors) else [str(error)]
            self.lines += [line for line in found if line not in self.lines]

    def raise_all(self) -> None:
        """
        Raises:
            UserError: what was noted, if anything was.
        """
        if len(self.lines) > 1:
            raise UserErrors(self.lines)
        for line in self.lines:
            raise UserError(line)


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which known name was probably meant.

    Returns:
        `"; did you mean 'x'?"` where a known name is close, else `"; allowed: …"` with all of them, or the first
        `MOST_CHOICES` and their number.
    """
    choices = sorted(known)
    close = difflib.get_close_matches(name[:LONGEST_VALUE], choices, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{shortened(close[0], LONGEST_VALUE)}'?"
    more = f", … ({len(choices):,} in all)" if len(choices) > MOST_CHOICES else ""
    return f"; allowed: {', '.join(choices[:MOST_CHOICES])}{more}"


def is_panic(error: BaseException) -> bool:
    """Whether a library that is written in Rust gave up: no `Exception`, by its own will."""
    return type(error).__name__ == "PanicException"


def told_of_panic(error: BaseException) -> UserError:
    return UserError(
        f"the tokenizer's library gave up ({shortened(first_line(error))}); its tokenizer.json may be damaged, or a "
        "text is more than it takes: --debug shows where"
    )


@contextlib.contextmanager
def panics_as_errors() -> Iterator[None]:
    """For processes beside the first, out of which nothing but an `Exception` comes."""
    try:
        yield
    except BaseException as error:
        if is_panic(error):
            raise told_of_panic(error) from error
        raise


def first_line(error: BaseException) -> str:
    """What another library's error says, as one line; its class where it says nothing."""
    return one_line((str(error).strip() or type(error).__name__).splitlines()[0])


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those that it came of."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
