"""Runs to make pages of, and pages as a browser sees them."""

from __future__ import annotations

import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from mlm_pretrain.config_file import make_config
from mlm_pretrain.run import RunDirectory

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """What a browser would see: elements, their attributes, and the text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: Counter[str] = Counter()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert self._open == []
        self.words = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        self.attributes += attrs
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self.text += f" {data}"


def read_page(path: Path) -> Page:
    """The page, which needs nothing but itself."""
    source = path.read_text(encoding="utf-8")
    assert source.startswith("<!DOCTYPE html>")
    page = Page(source)
    assert not {"script", "img", "link", "iframe", "object", "form"} & set(page.elements)
    for name, value in page.attributes:
        assert not name.startswith("on")
        assert name not in ("src", "href", "action") and (name != "xlink:href" or str(value).startswith("#"))
    assert not re.search(r"@import|url\((?!#)", source)
    names = [value for name, value in page.attributes if name == "id"]
    assert len(names) == len(set(names))
    return page


def steps(count: int, every: int = 2) -> list[dict[str, Any]]:
    """Records as pretraining writes them."""
    return [
        {
            "step": step,
            "loss": 9.0 - 5 * step / (count * every),
            "accuracy": 0.5 * step / (count * every),
            "grad_norm": 1.5,
            "tokens_per_second": 9000.5,
            "data_wait": 0.01,
            "learning_rate": 1e-3,
            "tokens": 4000 * step,
            "seconds": 0.5 * step,
        }
        for step in range(every, count * every + 1, every)
    ]


def write_lines(path: Path, records: list[dict[str, Any]], ending: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records) + ending, encoding="utf-8")


def make_run(root: Path, results: dict[str, Any] | None = None, **config: Any) -> RunDirectory:
    run = RunDirectory(root)
    run.write_config(make_config({"run": {"name": root.name, "output_dir": str(root.parent)}, **config}))
    if results:
        run.record(results)
    return run


TASKS: dict[str, Any] = {
    "topic": {
        "task": "classification",
        "metric": "accuracy",
        "pretrained": 0.75,
        "pretrained_std": 0.05,
        "pretrained_seeds": [0.7, 0.8],
        "scratch": 0.5,
        "scratch_std": 0.0,
        "scratch_seeds": [0.5, 0.5],
        "scratch_sweep": {"0.001": 0.4, "0.01": 0.45},
        "bag_of_words": 0.8125,
        "majority": 0.25,
        "seeds": [3, 5],
        "learning_rate": 0.0007,
        "train_examples": 80,
        "test_examples": 8,
        "details": {"accuracy": 0.75, "by_class": {name: {"f1": 0.7, "support": 4.0} for name in ("good", "bad")}},
        "history": [[{"epoch": 1.0, "loss": 2.0, "validation": 0.6}, {"epoch": 2.0, "loss": 1.0, "validation": 0.8}]]
        * 2,
        "learning_curve": [
            {
                "fraction": share,
                "examples": int(80 * share),
                "pretrained": share / 2,
                "pretrained_std": 0.01,
                "bag_of_words": share / 3,
            }
            for share in (0.25, 1.0)
        ],
        "sweep": {
            "trials": [
                {"learning_rate": 1e-4, "num_train_epochs": 3.0, "accuracy": 0.61},
                {"learning_rate": 1e-3, "num_train_epochs": 6.0, "accuracy": 0.83},
            ]
        },
    }
}
