"""Answers as HTML. Everything that comes from a text, a label or a file's name goes through `Markup.format`, which
escapes it: what looks like HTML in a text is shown, and never run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from markupsafe import Markup

from mlm_pretrain.demo.answers import Answer

COLOURS = 8
"""Of labels, in `STYLE`; further labels begin again."""
MOST_BARS = 30

STYLE = """
.gradio-container { max-width: 64rem !important; margin: 0 auto !important; }
.mlm { --toward: 0, 114, 178; --against: 213, 94, 0; --line: rgba(128, 128, 128, 0.35);
  color: var(--body-text-color); line-height: 1.5; overflow-wrap: anywhere; }
.dark .mlm { --toward: 60, 160, 230; --against: 230, 120, 0; }
.mlm h1 { font-size: 1.6em; font-weight: 700; }
.mlm p { margin: 0.35em 0; }
.mlm .note { font-size: 0.9em; opacity: 0.8; }
.mlm .problem { border-left: 4px solid rgb(213, 94, 0); padding: 0.35em 0.75em; }
.mlm .text { white-space: pre-wrap; line-height: 2.1; font-size: 1.05em; }
.mlm .bars { display: grid; grid-template-columns: minmax(4em, max-content) minmax(4em, 1fr) max-content;
  gap: 0.3em 0.75em; align-items: center; margin: 0.4em 0 0.9em; max-width: 48em; }
.mlm .bars.wide { grid-template-columns: minmax(0, 1fr) minmax(3em, 9em) max-content; max-width: 60em; }
.mlm .bars .name { max-width: 40vw; }
.mlm .bars.wide .name { max-width: none; }
.mlm .bars .number { text-align: right; font-variant-numeric: tabular-nums; }
.mlm .bar { height: 0.8em; border-radius: 0.2em; background: rgba(128, 128, 128, 0.18); }
.mlm .bar > span { display: block; height: 100%; min-width: 1px; border-radius: 0.2em; background: rgb(0, 114, 178); }
.mlm .chosen { font-weight: 700; }
.mlm mark { color: inherit; border-radius: 0.25em; padding: 0.15em 0.2em; box-decoration-break: clone;
  -webkit-box-decoration-break: clone; }
.mlm mark small { margin-left: 0.35em; font-size: 0.72em; white-space: nowrap; }
.mlm .values mark, .mlm .tokens mark { padding: 0.15em 0; }
.mlm .colour-0 { background: rgba(0, 114, 178, 0.28); } .mlm .colour-1 { background: rgba(230, 159, 0, 0.32); }
.mlm .colour-2 { background: rgba(0, 158, 115, 0.28); } .mlm .colour-3 { background: rgba(204, 121, 167, 0.32); }
.mlm .colour-4 { background: rgba(86, 180, 233, 0.32); } .mlm .colour-5 { background: rgba(213, 94, 0, 0.28); }
.mlm .colour-6 { background: rgba(240, 228, 66, 0.38); } .mlm .colour-7 { background: rgba(128, 128, 128, 0.28); }
.mlm .scroll { overflow-x: auto; width: fit-content; max-width: 100%; max-height: 32em; margin-top: 0.8em;
  border: 1px solid var(--line); border-radius: 0.4em; }
.mlm table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.mlm th, .mlm td { text-align: left; padding: 0.2em 0.6em; border: 0; border-bottom: 1px solid var(--line);
  white-space: pre-wrap; }
.mlm td.number, .mlm th.number { text-align: right; }
.mlm code { font-family: ui-monospace, Menlo, Consolas, monospace; }
.mlm .unknown { outline: 2px solid rgb(213, 94, 0); outline-offset: -2px; }
"""


def page(*parts: Markup) -> Markup:
    """Parts as the content of one place of the page; readers for the blind speak it when it changes."""
    return Markup('<div class="mlm" role="status">{}</div>').format(Markup("").join(parts))


def problem(message: str) -> Markup:
    return page(Markup('<p class="problem" role="alert">{}</p>').format(message))


def notes(answer: Answer) -> Markup:
    return _join(Markup('<p class="note">{}</p>').format(note) for note in answer["notes"])


def guesses(answer: Answer) -> Markup:
    """Of `fill_mask`: bars for every mask."""
    masks = answer["masks"]
    parts = []
    for number, found in enumerate(masks, start=1):
        if len(masks) > 1:
            parts.append(Markup("<p>Mask {} of {}</p>").format(number, len(masks)))
        parts.append(_bars([(each["token"] or "␣", each["score"]) for each in found], [found[0]["token"]]))
    return page(*parts, notes(answer))


def scores(answer: Answer) -> Markup:
    """Of `classify`: a bar a label, or the number of a regression."""
    if "number" in answer:
        return page(Markup('<p class="chosen">{:.4g}</p>').format(answer["number"]), notes(answer))
    rows = list(answer["scores"].items())
    said = ", ".join(answer["predicted"]) or "no label reaches a half"
    rest = len(rows) - MOST_BARS
    more = Markup('<p class="note">… and {} labels with lower scores</p>').format(rest) if rest > 0 else Markup("")
    head = Markup('<p>Predicted: <span class="chosen">{}</span></p>').format(said)
    return page(head, _bars(rows[:MOST_BARS], answer["predicted"]), more, notes(answer))


def spans(answer: Answer) -> Markup:
    """Of `label_words`: the text with its spans highlighted."""
    text, found = answer["text"], answer["spans"]
    colour = {label: n % COLOURS for n, label in enumerate(sorted({each["label"] for each in found}))}
    parts, before = [], 0
    for each in found:
        parts.append(Markup("{}").format(text[before : each["start"]]))
        parts.append(
            Markup('<mark class="colour-{}">{}<small><b>{}</b> {:.2f}</small></mark>').format(
                colour[each["label"]], text[each["start"] : each["end"]], each["label"], each["score"]
            )
        )
        before = each["end"]
    parts.append(Markup("{}").format(text[before:]))
    nothing = Markup("") if found else Markup("<p>The model finds nothing in this text.</p>")
    return page(nothing, Markup('<div class="text" dir="auto">{}</div>').format(_join(parts)), notes(answer))


def span_of_context(answer: Answer) -> Markup:
    """Of `answer_question`: the answer, and the context with it highlighted."""
    if not answer["answer"]:
        none = Markup("<p>The model finds no answer in this context (score {:.3f}).</p>").format(answer["score"])
        return page(none, notes(answer))
    text, start, end = answer["text"], answer["start"], answer["end"]
    said = Markup('<p><span class="chosen" dir="auto">{}</span> (score {:.3f}, characters {}–{})</p>')
    context = Markup('<div class="text" dir="auto">{}<mark class="colour-0">{}</mark>{}</div>')
    return page(
        said.format(answer["answer"], answer["score"], start, end),
        context.format(text[:start], text[start:end], text[end:]),
        notes(answer),
    )


def nearest(answer: Answer) -> Markup:
    """Of `neighbours`: lines with bars of their cosine."""
    rows = [(each["text"], each["cosine"]) for each in answer["neighbours"]]
    return page(_bars(rows, (), wide=True), notes(answer))


def attributions(answer: Answer) -> Markup:
    """Of `attribute`: the text with what speaks for the label in blue, against it in orange."""
    pieces = answer["pieces"]
    strongest = max((abs(each["value"]) for each in pieces if each["value"] is not None), default=0.0) or 1.0
    parts: list[Markup] = []
    for number, each in enumerate(pieces):
        if number and each["part"] != pieces[number - 1]["part"]:
            parts.append(Markup("<hr>"))
        parts.append(_piece(each["text"], each["value"], strongest))
    head = Markup(
        '<p>Why <span class="chosen">{}</span>: <mark style="background: rgba(var(--toward), 0.4)">blue</mark> speaks '
        'for it, <mark style="background: rgba(var(--against), 0.4)">orange</mark> against it.</p>'
    )
    foot = Markup(
        '<p class="note">Integrated gradients: the tokens add {:+.3f} to the logit of this label, from {:.3f} with '
        "every token masked to {:.3f} (difference {:+.3f}, {} points). Rest on a token to see its share.</p>"
    )
    total = sum(each["value"] or 0.0 for each in pieces)
    low, high = answer["baseline"], answer["logit"]
    return page(
        head.format(answer["label"]),
        Markup('<div class="text values" dir="auto">{}</div>').format(_join(parts)),
        foot.format(total, low, high, high - low, answer["steps"]),
        notes(answer),
    )


def tokens(answer: Answer) -> Markup:
    """Of `tokenise`: the text cut into its tokens, and a table of them."""
    rows, count, unknown = answer["tokens"], answer["count"], answer["unknown"]
    head = Markup("<p>{:,} tokens, {:.2f} characters a token, {}.</p>").format(
        count, len(answer["text"]) / max(count, 1), f"{unknown:,} unknown" if unknown else "none unknown"
    )
    row = Markup(
        '<tr{}><td class="number">{}</td><td><code>{}</code></td><td class="number">{}</td><td>{}</td><td>{}</td></tr>'
    )
    body = _join(
        row.format(
            Markup(' class="unknown"') if each["unknown"] else "",
            number,
            each["token"],
            each["id"],
            "–" if each["start"] is None else f"{each['start']}–{each['end']}",
            "unknown" if each["unknown"] else "",
        )
        for number, each in enumerate(rows, start=1)
    )
    table = Markup(
        '<div class="scroll" tabindex="0"><table><thead><tr><th class="number">#</th><th>token</th>'
        '<th class="number">id</th><th>characters</th><th></th></tr></thead><tbody>{}</tbody></table></div>'
    )
    cut = Markup('<div class="text tokens" dir="auto">{}</div>').format(_cut(answer["text"], rows))
    return page(head, cut, table.format(body), notes(answer))


def _cut(text: str, rows: Sequence[dict[str, Any]]) -> Markup:
    """The text in its tokens; those that share a character with the one before stand in its place."""
    parts, before, shown = [], 0, 0
    for row in rows:
        if row["start"] is None or row["end"] <= before:
            continue
        start = max(row["start"], before)
        mark = Markup('{}<mark class="colour-{}{}" title="{}, id {}">{}</mark>')
        unknown = " unknown" if row["unknown"] else ""
        piece = text[start : row["end"]]
        parts.append(mark.format(text[before:start], shown % 3, unknown, row["token"], row["id"], piece))
        before, shown = row["end"], shown + 1
    return _join(parts)


def heading(names: Sequence[str], about: str) -> Markup:
    title = Markup("<h1>{}</h1>").format(", ".join(names))
    return Markup('<div class="mlm">{}{}</div>').format(title, Markup('<p class="note">{}</p>').format(about))


def _bars(rows: Iterable[tuple[str, float]], chosen: Sequence[str], wide: bool = False) -> Markup:
    """Names, bars from 0 to 1, numbers."""
    row = Markup(
        '<span class="name{}" dir="auto">{}</span><span class="bar"><span style="width: {:.1f}%"></span></span>'
        '<span class="number">{:.3f}</span>'
    )
    lines = _join(
        row.format(" chosen" if name in chosen else "", name, 100 * min(max(share, 0.0), 1.0), share)
        for name, share in rows
    )
    return Markup('<div class="bars{}">{}</div>').format(" wide" if wide else "", lines)


def _piece(text: str, value: float | None, strongest: float) -> Markup:
    if value is None:
        return Markup("{}").format(text)
    colour = "toward" if value > 0 else "against"
    mark = Markup('<mark style="background: rgba(var(--{}), {:.2f})" title="{:+.3f}">{}</mark>')
    return mark.format(colour, 0.65 * abs(value) / strongest, value, text)


def _join(parts: Iterable[Markup]) -> Markup:
    return Markup("").join(parts)
