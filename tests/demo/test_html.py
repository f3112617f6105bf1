"""What looks like HTML in a text, a token or a label is text on the page."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from markupsafe import Markup

from mlm_pretrain.demo import html

HOSTILE = "\"><script>hurt()</script><img src=x onerror='hurt()'>&lt; </div>"
NOTES = [HOSTILE]
PAGES = {
    "problem": html.problem(HOSTILE),
    "guesses": html.guesses({"masks": [[{"token": HOSTILE, "score": 0.5}]] * 2, "notes": NOTES}),
    "scores": html.scores({"scores": {HOSTILE: 0.7, "other": 0.3}, "predicted": [HOSTILE], "notes": NOTES}),
    "number": html.scores({"number": 1.5, "notes": NOTES}),
    "spans": html.spans(
        {"text": HOSTILE, "spans": [{"start": 2, "end": 9, "label": HOSTILE, "score": 0.5}], "notes": NOTES}
    ),
    "answer": html.span_of_context(
        {"text": HOSTILE, "answer": HOSTILE[2:9], "start": 2, "end": 9, "score": 0.5, "notes": NOTES}
    ),
    "no answer": html.span_of_context({"text": "", "answer": "", "start": 0, "end": 0, "score": 0.5, "notes": NOTES}),
    "nearest": html.nearest({"neighbours": [{"text": HOSTILE, "cosine": -0.2}], "notes": NOTES}),
    "attributions": html.attributions(
        {"label": HOSTILE, "logit": 1.0, "baseline": 0.5, "gap": 0.0, "steps": 32, "notes": NOTES}
        | {"pieces": [{"text": HOSTILE, "value": 0.5, "part": 0}, {"text": HOSTILE, "value": None, "part": 1}]}
    ),
    "tokens": html.tokens(
        {"text": HOSTILE, "count": 1, "unknown": 1, "notes": NOTES}
        | {"tokens": [{"token": HOSTILE, "id": 3, "start": 0, "end": 5, "unknown": True}]}
    ),
    "heading": html.heading([HOSTILE], HOSTILE),
}
TAGS = {"div", "p", "span", "mark", "small", "b", "hr", "table", "thead", "tbody", "tr", "th", "td", "code", "h1"}
ATTRIBUTES = {"class", "style", "title", "dir", "role", "tabindex"}


class _Reader(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: dict[str, set[str]] = {}
        self.text = ""
        self.depth = 0
        self.feed(str(page))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.depth += tag != "hr"
        for name, value in attrs:
            self.attributes.setdefault(name, set()).add(value or "")

    def handle_endtag(self, tag: str) -> None:
        self.depth -= 1

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("name", PAGES)
def test_hostile_text_is_text(name: str) -> None:
    page = PAGES[name]
    assert isinstance(page, Markup)
    read = _Reader(page)
    assert read.depth == 0
    assert read.tags <= TAGS and set(read.attributes) <= ATTRIBUTES
    assert HOSTILE in read.text
    assert not any(word in style for style in read.attributes.get("style", ()) for word in ("hurt", "url", ";"))


def test_bars_stay_between_0_and_1() -> None:
    rows = [{"text": "a", "cosine": -0.25}, {"text": "b", "cosine": 1.0000001}]
    styles = _Reader(html.nearest({"neighbours": rows, "notes": []})).attributes["style"]
    assert styles == {"width: 0.0%", "width: 100.0%"}


def test_many_labels_are_cut_and_counted() -> None:
    scores = {f"label {number}": 1 / (number + 1) for number in range(1000)}
    read = _Reader(html.scores({"scores": scores, "predicted": [], "notes": []}))
    assert "… and 970 labels with lower scores" in read.text and "label 31" not in read.text
    assert "no label reaches a half" in read.text


def test_bytes_of_one_character_stand_once() -> None:
    rows = [
        {"token": t, "id": 1, "start": s, "end": e, "unknown": False} for t, s, e in [("a", 0, 1), *[("ð", 2, 3)] * 4]
    ]
    page = html.tokens({"text": "a 🙂", "tokens": rows, "count": 5, "unknown": 0, "notes": []})
    assert page.count("🙂") == 1 and page.count("<tr") == 6
