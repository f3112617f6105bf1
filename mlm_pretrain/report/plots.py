"""Figures of a report: the same drawing as SVG, whose ink follows the page from light to dark, and as a PNG file.

No text of a figure is code: matplotlib escapes it, formulas are off, and what a page doesn't need of an SVG file
(prologue, metadata, comments, names that two figures would share) is taken out.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from mlm_pretrain import plots
from mlm_pretrain.escaping import visible

# Okabe & Ito (2008); those of their colours that stand out from white and from near-black alike.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
LINES = ("-", "--", ":", "-.")
"""With more than four of a kind, the colours come again in the next of these."""
NEUTRAL = "#7F7F7F"
"""A grey that stands out from both grounds."""
WIDTH, HEIGHT = 4.4, 2.75
LONGEST_NAME = 30
# What the SVG has in place of these colours is said by the page.
INK, FAINT = "#010203", "#010204"
_PAGE_COLORS = {INK: "currentColor", FAINT: "var(--line)"}


def line_style(number: int) -> dict[str, Any]:
    """How the line with this number looks."""
    return {"color": COLORS[number % len(COLORS)], "linestyle": LINES[number // len(COLORS) % len(LINES)]}


def short(name: str) -> str:
    name = visible(name)
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def count_axis() -> EngFormatter:
    """Ticks as 200k, 1.5M."""
    return EngFormatter(sep="")


class Gallery:
    """Draws the figures of one report.

    Args:
        folder: where the PNG files go; those of the same names are replaced.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names: set[str] = set()

    def draw(
        self, name: str, alt: str, fill: Callable[[Figure], None], size: tuple[float, float] = (WIDTH, HEIGHT)
    ) -> Markup:
        """Draw a figure twice: as SVG for the page, which is returned, and as `<folder>/<name>.png`.

        Args:
            name: made unlike that of any other figure of the report.
            alt: what it shows, for those who don't see it.
            fill: draws into an empty figure; called once for each form.
            size: inches.
        """
        name = self.unused(name)
        with _style("#1B1F24", "#E3E3E3"):
            drawn = plots.figure(*size)
            fill(drawn)
            plots.save(drawn, self.folder / f"{name}.png")
        with _style(INK, FAINT), warnings.catch_warnings():
            # The page's own fonts draw the text; here it is only measured.
            warnings.filterwarnings("ignore", message="Glyph .* missing")
            drawn = plots.figure(*size)
            fill(drawn)
            written = io.StringIO()
            drawn.savefig(written, format="svg", transparent=True, metadata=dict.fromkeys(_SVG_METADATA))
        return _for_a_page(written.getvalue(), name, alt)

    def unused(self, name: str) -> str:
        """A file name (without its ending) made of this one, that no other figure has had."""
        plain = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "figure"
        name, number = plain, 1
        while name in self._names:
            number += 1
            name = f"{plain}-{number}"
        self._names.add(name)
        return name


_SVG_METADATA = ("Creator", "Date", "Format", "Type")


def _style(ink: str, faint: str) -> AbstractContextManager[None]:
    settings = {
        **plots.STYLE,
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor"), ink),
        **dict.fromkeys(("xtick.labelcolor", "ytick.labelcolor", "legend.labelcolor"), ink),
        **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), NEUTRAL),
        "grid.color": faint,
        "axes.grid": True,
        "axes.titlelocation": "left",
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.prop_cycle": f"cycler('color', {list(COLORS)})",
        "lines.linewidth": 1.4,
        "legend.fontsize": 8,
        "svg.fonttype": "none",
        "svg.hashsalt": "mlm_pretrain",
        "text.parse_math": False,
    }
    installed = set(plots.get_font_names())
    return rc_context({**settings, "font.family": [name for name in plots.FONTS if name in installed]})


def _for_a_page(svg: str, name: str, alt: str) -> Markup:
    """An SVG file as an element of a page."""
    svg = re.sub(r"<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, count=1, flags=re.DOTALL)
    for color, shown in _PAGE_COLORS.items():
        svg = re.sub(color, shown, svg, flags=re.IGNORECASE)
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg))

    def identity(match: re.Match[str]) -> str:
        return f' id="{name}-{match[1]}"' if match[1] in used else ""

    svg = re.sub(r' id="([^"]*)"', identity, svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", svg)
    # The page says how wide it is.
    opening = re.match(r"<svg[^>]*>", svg)
    assert opening
    box = re.search(r'viewBox="[^"]*"', opening[0])
    assert box
    head = f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" {box[0]} role="img" aria-label="{escape(visible(alt))}">'
    return Markup(re.sub(r"\n\s*", "\n", head + svg[opening.end() :]))
