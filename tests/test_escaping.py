"""Whatever text comes: a table stays a table, a terminal is steered by nobody, a line of JSON is one."""

from __future__ import annotations

import io
import json
import sys
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from mlm_pretrain import escaping
from mlm_pretrain.cli.options import Parser
from mlm_pretrain.console import telemetry
from mlm_pretrain.console.bars import progress
from mlm_pretrain.errors import UserError, nearest

ANY = st.text(st.characters(), max_size=40)
NASTY = "\x1b[2J\x9b31m a|b `c` ``d` \\| <img src=x> &amp; $y$ *z* _u_ ~~w~~ [t](u) ![t](u) \u202eabc\r\n\n| - |\n"
# Marks that turn the direction of a line around.
TURNING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def is_harmless(text: str) -> bool:
    """Whether a terminal shows a line as it is: no control character, no mark of direction, no end of a line."""
    return not any(
        unicodedata.category(each) in ("Cc", "Cs", "Zl", "Zp")
        or unicodedata.bidirectional(each) in TURNING
        or each in "\u200e\u200f\u061c"
        for each in text
    )


@example(text=NASTY)
@given(text=ANY)
def test_a_line_for_a_terminal_has_no_character_that_steers_it(text: str) -> None:
    assert is_harmless(escaping.visible(text))
    assert all(is_harmless(line) for line in escaping.terminal(text).split("\n"))
    assert escaping.terminal(text).count("\n") == text.count("\n")
    plain = "".join(each for each in text if is_harmless(each) and each != "\ufeff")
    assert escaping.visible(plain) == plain or any("\ufff9" <= each <= "\ufffb" for each in plain)


def cells(source: str) -> list[list[str]]:
    """The cells of a table as a reader sees them, text alone; fails on anything but one table."""
    tokens = MarkdownIt("commonmark").enable("table").enable("strikethrough").parse(source)
    assert {token.type.rsplit("_", 1)[0] for token in tokens} <= {"table", "thead", "tbody", "tr", "th", "td", "inline"}
    rows: list[list[str]] = []
    for token in tokens:
        if token.type == "tr_open":
            rows.append([])
        if token.type == "inline":
            inner = [child for child in token.children or () if child.content not in ("<code>", "</code>")]
            assert {child.type for child in inner} <= {"text", "text_special", "code_inline"}, inner
            rows[-1].append("".join(child.content for child in inner))
    return rows


@example(name=NASTY, text=NASTY)
@example(name="||", text="|---|")
@example(name="\\", text="\\")
@example(name="a\\|b", text="`|`")
@given(name=ANY, text=ANY)
def test_any_text_is_one_cell_and_nothing_in_it_is_markdown(name: str, text: str) -> None:
    row = f"| {escaping.markdown_code(name)} | {escaping.markdown(text)} | 1 |"
    header, shown, last = cells(f"| a | b | c |\n| --- | --- | --- |\n{row}\n| x | y | 2 |\n")
    assert (header, last) == (["a", "b", "c"], ["x", "y", "2"])
    assert shown[0].strip() == (escaping.visible(name) or " ").strip()
    assert shown[1] == escaping.visible(" ".join(text.split()))
    assert shown[2] == "1"
    # What is Markdown already isn't escaped again.
    assert escaping.markdown(escaping.markdown_code(name)) == escaping.markdown_code(name)


@pytest.mark.parametrize("text", ["http://x.example", "see HTTPS://x.example", "www.x.example", "me@x.example"])
def test_an_address_becomes_no_link_of_its_own_accord(text: str) -> None:
    shown = escaping.markdown(text)
    assert not any(sign in shown.lower() for sign in ("http:", "https:", "www.", "@"))


@example(text=NASTY)
@given(text=ANY)
def test_a_line_of_json_is_read_back_and_steers_no_terminal(text: str) -> None:
    for encoding in ("utf-8", "ascii", "latin-1"):
        line = escaping.json_line({text: [text]}, io.TextIOWrapper(io.BytesIO(), encoding=encoding))
        assert is_harmless(line)
        assert json.loads(line) == {text: [text]}
        line.encode(encoding)


@given(rows=st.lists(st.tuples(ANY, ANY), min_size=1, max_size=4))
def test_a_table_on_a_terminal_has_a_line_a_row(rows: list[tuple[str, str]]) -> None:
    lines = telemetry.table(rows, header=("name", "")).split("\n")
    assert len(lines) == 2 + len(rows)
    assert all(map(is_harmless, lines))


@example(message=NASTY, name=NASTY)
@given(message=ANY, name=ANY)
def test_an_error_is_one_harmless_line(message: str, name: str) -> None:
    said = str(UserError(f"{message}{nearest(name, [message, name + 'x', 'a'])}"))
    assert is_harmless(said) and "\n" not in said


@pytest.mark.parametrize(
    "text", ["=1+1", " =HYPERLINK(A1)", "@SUM(1)", "+cmd|' /C calc'!A0", "-2+3+cmd|'x'!A0", "\t=1"]
)
def test_a_spreadsheet_calculates_no_text(text: str) -> None:
    assert escaping.csv_cell(text) == f"'{text}"


@pytest.mark.parametrize(
    "value", ["@somebody is (mostly) right!", "- a point (first)", "-5", "+1 (good)", "a=b", 3, -0.5]
)
def test_other_texts_and_numbers_stay_as_they_are(value: object) -> None:
    assert escaping.csv_cell(value) == value


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_none_is_a_dash(value: float | None) -> None:
    assert telemetry.figure(value) == "–" and telemetry.figure(0.25, ".1%") == "25.0%"


def test_an_error_is_short_and_keeps_its_beginning_and_its_remedy() -> None:
    said = str(UserError(f"data.jsonl:7: label is '{'x' * 1_100_000}'; a label is a name"))
    assert len(said) <= escaping.LONGEST_LINE
    assert said.startswith("data.jsonl:7: label is 'xxx") and said.endswith("xxx'; a label is a name")
    assert "1,099," in said  # how much was left out
    names = [f"name {number}" for number in range(5000)]
    assert len(nearest("y" * 10**6, names)) < 1000
    assert escaping.given(10**5000) == "a int of very many digits" and len(escaping.given("x" * 10**6)) < 300


class Console(io.TextIOWrapper):
    """A console of some encoding, as Python opens it."""

    def __init__(self, encoding: str) -> None:
        self.sent = io.BytesIO()
        super().__init__(self.sent, encoding=encoding, errors="strict", write_through=True)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_a_console_of_any_encoding_takes_everything(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = Console(encoding), Console(encoding)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    escaping.take_any_console()
    telemetry.show("a → b ± c, naïve ☃ 𝄞 \ud800")
    telemetry.say("held-out – über")
    with progress(3, "größe → ☃") as bar:
        bar.update(3)
    with pytest.raises(SystemExit):
        Parser("prog").error("'☃\x1b[31m' is no file")
    shown = out.sent.getvalue().decode(encoding)
    assert all(is_harmless(line) for line in (shown + err.sent.getvalue().decode(encoding)).splitlines())
    if encoding == "ascii":
        assert shown == "a -> b +- c, na\\xefve \\u2603 \\U0001d11e \\ud800\n"
    assert escaping.fits("naïve", out) == (encoding != "ascii")
