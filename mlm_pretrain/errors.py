"""Errors that a user sees: one line that names the file, the place and the remedy.

Everything that a user can cause (a misspelt key, a missing column, a damaged checkpoint) is raised as a
`UserError`; the command line prints it in one line and exits with code 2. Anything else that is raised is a
defect of this package and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """What the user can mend. Its text is one line: file, place, what is wrong, what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(str(message).split()))


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which known name was probably meant.

    Returns:
        `"; did you mean 'x'?"` where a known name is close, else `"; allowed: …"` with all of them.
    """
    choices = sorted(known)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; allowed: {', '.join(choices)}"


def first_line(error: BaseException) -> str:
    """What another library's error says, as one line; its class where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
