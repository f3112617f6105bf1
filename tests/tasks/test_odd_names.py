"""Names and texts that would steer a terminal, break a table or run as HTML: from fine-tuning to cards and reports."""

from __future__ import annotations

import json
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from mlm_pretrain import cli
from mlm_pretrain.config_file import load_config, make_config
from mlm_pretrain.escaping import markdown_code
from mlm_pretrain.run import RunDirectory
from tests.hub_server.cards import card_problems
from tests.tasks.conftest import make_tokenizer, tiny_masked_lm
from tests.test_escaping import Console, is_harmless

CLASSES = [
    "\x1b[31mred\x1b[0m",
    "<img src=x onerror=alert(2)>",
    "two\nlines\r\nand a | bar",
    "``ticks``",
    "$e^x$ \\(y\\)",
    "\u202eturned",
    " off ",
    "C:\\temp",
    "/r/films",
    "null",
    "café → ☃",
]
COLUMN = "la|bel `\x1b[1m`"


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd")
    tokenizer = make_tokenizer("bpe")
    tiny_masked_lm("bert", len(tokenizer)).save_pretrained(folder / "encoder")
    tokenizer.save_pretrained(folder / "encoder")
    texts = [{"text": f"the train {number}", COLUMN: CLASSES[number % len(CLASSES)]} for number in range(45)]
    # A type of entities is a word: no blanks, as its tag stands in a line of its own.
    types = ["a|b", "<u>", "`x`", "$y$", "\x1b[2J"]
    words = [{"tokens": ["in", f"Berlin{k}"], "ner_tags": ["O", f"B-{types[k % len(types)]}"]} for k in range(30)]
    common = {"model": str(folder / "encoder"), "seeds": [0], "max_steps": 2, "bf16": False}
    tasks = [
        {
            **common,
            "task": "classification",
            "name": "c",
            "train": write(folder / "c|d.jsonl", texts),
            "label_column": COLUMN,
        },
        {**common, "task": "ner", "name": "n", "train": write(folder / "n.jsonl", words)},
    ]
    path = folder / "config.yaml"
    path.write_text(
        make_config({"run": {"name": "r", "output_dir": str(folder)}, "tasks": tasks}).to_yaml(), encoding="utf-8"
    )
    return path


@pytest.fixture(scope="module")
def said(config: Path) -> dict[str, str]:
    """What each verb sends to a console that knows ASCII alone."""
    folder = config.parent
    task = folder / "r" / "tasks" / "c"
    write(folder / "texts.jsonl", [{"text": "ein \x1b[31m Zug → ☃ 𝄞"}])
    commands = {
        "finetune": ["finetune", str(config)],
        "evaluate": ["evaluate", str(task), "--data", str(folder / "c|d.jsonl"), f"label_column={json.dumps(COLUMN)}"],
        "predict": ["predict", str(task), str(folder / "texts.jsonl")],
        "report": ["report", str(folder / "r")],
        "push": ["push", str(folder / "r"), "--repo-id", "somebody/odd", "--dry-run"],
        "config": ["config", "show", str(config)],
        "error": ["evaluate", str(task), "--data", str(folder / "c|d.jsonl")],
    }
    shown = {}
    with pytest.MonkeyPatch.context() as patch:
        for name, command in commands.items():
            out, err = Console("ascii"), Console("ascii")
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            assert cli.main(command) == (2 if name == "error" else 0), (err.sent.getvalue(), command)
            shown[name] = out.sent.getvalue().decode("ascii")
            shown[f"{name}, stderr"] = err.sent.getvalue().decode("ascii")
    return shown


def test_nothing_that_is_said_steers_a_terminal(said: dict[str, str]) -> None:
    for name, text in said.items():
        assert all(is_harmless(line) for line in text.split("\n")), name
    table = said["evaluate"].split("\n\n")[1].splitlines()
    assert len(table) == 2 + len(CLASSES)
    assert r"two\nlines\r\nand a | bar" in said["evaluate"]
    assert "\nerror: " in said["error, stderr"] and r"\x1b[1m" in said["error, stderr"]


def test_what_a_program_reads_is_lossless_on_any_console(said: dict[str, str], config: Path) -> None:
    (line,) = said["predict"].splitlines()
    assert json.loads(line)["text"] == "ein \x1b[31m Zug → ☃ 𝄞"
    again = config.with_name("again.yaml")
    again.write_text(said["config"], encoding="utf-8")
    assert load_config(again) == load_config(config)


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.found.add(tag)


def test_cards_show_every_name_and_run_none(said: dict[str, str], config: Path) -> None:
    run = RunDirectory(config.parent / "r")
    scores = (run.task("c") / "README.md").read_text(encoding="utf-8").split("| Class |")[1]
    shown = run.read_results()["tasks"]["c"]["details"]["by_class"]
    assert "/r/films" in shown and all(f"| {markdown_code(name)} |" in scores for name in shown)
    for task in ("c", "n"):
        card = (run.task(task) / "README.md").read_text(encoding="utf-8")
        assert card_problems(card) == []
        assert all(map(is_harmless, card.split("\n")))
        body = card.split("---\n", 2)[2]
        tokens = MarkdownIt("commonmark").enable("table").parse(body)
        inline = [child for token in tokens for child in token.children or ()]
        assert not [token for token in tokens if token.type == "html_block"]
        assert {child.content for child in inline if child.type == "html_inline"} <= {"<code>", "</code>"}
        assert "\u202e" not in card
    report = run.report.read_text(encoding="utf-8")
    assert not {"img", "u"} & Tags(report).found
    assert all(map(is_harmless, report.split("\n")))
