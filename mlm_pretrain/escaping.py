"""Text of others, made fit for where it is shown: on a terminal, in Markdown, in JSON, in a spreadsheet.

Names of classes, columns, files and tasks, texts, and what libraries say of them may hold anything: sequences that
steer a terminal, marks that turn a line around, HTML, bars, backticks. Whatever is printed or written into a card goes
through here.
"""

from __future__ import annotations

import codecs
import io
import json
import re
import sys
from typing import Any

from mlm_pretrain.credentials import without_credentials

LONGEST_LINE = 1000
"""Characters of an error, and of a warning."""
LONGEST_VALUE = 200
"""Characters of a value that a message repeats."""

# Control characters (C0, C1), line and paragraph separators, marks that set the direction of writing, halves of
# characters. What joins letters (U+200C, U+200D) belongs to the writing of several languages, and stays.
_HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff]")
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
# Python writes these of its own accord on a console that can't show them; here are the nearest that it can.
_PLAIN = {"→": "->", "±": "+-", "–": "-", "—": "-", "…": "...", "×": "x", "★": "*", "⏐": "|", "\u00a0": " ", "₂": "2"}


# -- terminals ------------------------------------------------------------------------------------------------------


def visible(text: object) -> str:
    r"""A name or a text as it is shown on one line: what has no shape of its own is written as Python writes it.

    Credentials are taken out: addresses and settings come back in what libraries say of them.

    >>> print(visible("red\x1b[31m\nrow"))
    red\x1b[31m\nrow
    """
    return _HIDDEN.sub(lambda match: _escape(match[0]), without_credentials(str(text)))


def terminal(text: object) -> str:
    """What may be sent to a terminal: as `visible`, but line ends are kept."""
    return "\n".join(visible(line) for line in without_credentials(str(text)).split("\n"))


def shortened(text: str, longest: int = LONGEST_LINE) -> str:
    """A text whose middle is dropped if it is longer than so many characters; beginning and end say most."""
    if len(text) <= longest:
        return text
    note = f" … ({len(text) - longest:,} characters) … "
    begin = (longest - len(note)) * 3 // 5
    return text[:begin] + note + text[len(text) - (longest - len(note) - begin) :]


def one_line(text: object) -> str:
    """A message as one line of bounded length: runs of white space are one blank."""
    return shortened(visible(" ".join(str(text).split())))


def given(value: object) -> str:
    """What was given, as a message repeats it."""
    try:
        shown = repr(value)
    except ValueError:  # Python refuses to write out whole numbers of thousands of digits
        shown = f"a {type(value).__name__} of very many digits"
    return shortened(visible(shown), LONGEST_VALUE)


def counted(number: int, noun: str) -> str:
    """A number with its noun, as `1 record` and `2,000 records`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _escape(character: str) -> str:
    code = ord(character)
    return _SHORT.get(character) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def take_any_console() -> None:
    """Let standard output and standard error take any character, whatever their encoding.

    On a console that isn't UTF-8 (batch systems, old containers) what it can't show is replaced: signs of our own by
    the nearest in ASCII, letters by their numbers, as `\\u2192`.
    """
    codecs.register_error("mlm_pretrain.console", _replace)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="mlm_pretrain.console")


def fits(text: str, stream: Any) -> bool:
    """Whether a stream shows all of a text as it is."""
    try:
        text.encode(getattr(stream, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return terminal(text) == text


def _replace(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    unfit = error.object[error.start : error.end]
    pieces = (_PLAIN.get(each) or each.encode("ascii", "backslashreplace").decode() for each in unfit)
    return "".join(pieces), error.end


# -- JSON -----------------------------------------------------------------------------------------------------------


def json_line(data: Any, stream: Any = None) -> str:
    """Data as a line of JSON (without its end) that a terminal can be sent; what is hidden is escaped as JSON has it.

    Args:
        stream: where it goes; one that isn't UTF-8 gets ASCII alone.
    """
    encoding = str(getattr(stream, "encoding", None) or "utf-8").lower().replace("-", "").replace("_", "")
    line = json.dumps(data, ensure_ascii=encoding not in ("utf8", "utf16", "utf32"))
    return _HIDDEN.sub(lambda match: f"\\u{ord(match[0]):04x}", line)


# -- tables that spreadsheets open ----------------------------------------------------------------------------------

# What a spreadsheet calculates, and so may send away what is beside it: `=…`, `@f(…)`, `+f(…)`, `-2+cmd|…!A1`. A
# text that begins with a name (@somebody), a number or a hyphen is none.
_FORMULA = re.compile(r"\s*(?:=|@[\w.]+\(|[+-]\S*[(|!])")


def csv_cell(value: Any) -> Any:
    """A value of a table's cell; a text that spreadsheets would take for a formula has an apostrophe before it."""
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


# -- Markdown -------------------------------------------------------------------------------------------------------


class Markdown(str):
    """Text that is Markdown already, and not escaped again."""

    __slots__ = ()


_PUNCTUATION = re.compile(r"[!-/:-@\[-`{-~]")
# What Markdown, the HTML in it or the formulas of the Hub would read. Within words an underscore means nothing; a
# point, a hyphen and the like mean something at the beginning of a line alone, which a table's cell never is.
_MARKS = re.compile(r"[\\`*\[\]<>&$~|]|(?<![^\W_])_|_(?![^\W_])")
# Web addresses become links of their own accord; within these, nothing but a character's number keeps them from it.
_LINKS = re.compile(r"(?<=[Hh][Tt][Tt][Pp]):|(?<=[Hh][Tt][Tt][Pp][Ss]):|(?<=[Ff][Tt][Pp]):|(?<=[Ww]{3})\.|@")


def markdown(text: object) -> Markdown:
    """Text for a paragraph or a table's cell: one line, and nothing in it is Markdown."""
    if isinstance(text, Markdown):
        return text
    marked = _MARKS.sub(lambda match: _entity(match[0]), visible(" ".join(str(text).split())))
    return Markdown(_LINKS.sub(lambda match: _entity(match[0]), marked))


def markdown_code(text: object) -> Markdown:
    """Text as code, also in a table's cell: blanks and all, with a longer fence where it holds backticks."""
    shown = visible(text) or " "
    if "|" in shown or "<" in shown:
        # Renderers differ in how they read a bar after a backslash, and some look for HTML before they look for code;
        # none of them takes a character's number for either.
        return Markdown(f"<code>{_PUNCTUATION.sub(lambda match: _entity(match[0]), shown)}</code>")
    fence = "`" * (max((len(run) for run in re.findall("`+", shown)), default=0) + 1)
    # Where both ends are blank, Markdown takes one blank away from each.
    pad = " " if shown.strip() and (shown[0] in "` " or shown[-1] in "` ") else ""
    return Markdown(f"{fence}{pad}{shown}{pad}{fence}")


def _entity(character: str) -> str:
    if character in "\\`*[]_~":
        return f"\\{character}"
    return f"&#{ord(character)};"
