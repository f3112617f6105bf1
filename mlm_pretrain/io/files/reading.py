"""How a file of text is to be read, where its name doesn't say: `encoding`, `quoting`, `delimiter`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from mlm_pretrain.errors import UserError

Quoting = Literal["minimal", "none"]

_QUOTING: dict[str, Quoting] = {"minimal": "minimal", "none": "none", "0": "minimal", "3": "none"}
_TYPED_TAB = {"\\t": "\t", "tab": "\t"}


@dataclass(frozen=True)
class Reading:
    """The keys of a source or a task, and the flags of `predict`, `evaluate` and `embed`."""

    encoding: str = "utf-8"
    quoting: Quoting | None = None
    """Tables: minimal, a quoted field may hold delimiters and line ends; none, quotes are characters like others.
    By default what the table shows (see `tables.py`)."""
    delimiter: str | None = None
    """Tables: the character between two columns; by default a tab in .tsv, else a comma."""

    @classmethod
    def of(cls, section: Any) -> Reading:
        """That of a section of the config."""
        return cls(section.encoding, section.quoting, section.delimiter)

    @classmethod
    def checked(cls, encoding: str = "utf-8", quoting: Any = None, delimiter: str | None = None) -> Reading:
        """From values that nobody has looked at.

        Raises:
            UserError: one of them can't be.
        """
        found: dict[str, Any] = {"encoding": encoding, "quoting": quoting, "delimiter": delimiter}
        for name, check in (("encoding", check_encoding), ("quoting", check_quoting), ("delimiter", check_delimiter)):
            try:
                found[name] = check(found[name])
            except UserError as error:
                raise UserError(f"{name}: {error}") from None
        return cls(**found)


def check_encoding(name: str) -> str:
    """
    Raises:
        UserError: Python has no text encoding of this name.
    """
    try:
        "".encode(name)
    except (LookupError, UnicodeError, ValueError):
        raise UserError(f"Python knows no encoding '{name}'; try utf-8") from None
    return name


def check_quoting(value: Any) -> Quoting | None:
    """
    Returns:
        `minimal` or `none`, also for 0 and 3, as `csv`, pandas and `load_dataset` call them.

    Raises:
        UserError: it is neither.
    """
    if value is None:
        return None
    if str(value) not in _QUOTING:
        raise UserError(f"{value!r}; allowed: minimal (quoted fields may hold delimiters and line ends), none")
    return _QUOTING[str(value)]


def check_delimiter(value: str | None) -> str | None:
    """
    Raises:
        UserError: it is not one character, or one that can't separate columns.
    """
    value = _TYPED_TAB.get(value, value) if isinstance(value, str) else value
    if value is None or (isinstance(value, str) and len(value) == 1 and value not in '"\r\n'):
        return value
    raise UserError(f"{value!r}; give one character, as ';' or '\\t'")
