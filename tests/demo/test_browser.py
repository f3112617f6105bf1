"""The page in a browser, before a real server: what a person types and sees. One server and one Chromium for all."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from mlm_pretrain.cli import main
from mlm_pretrain.demo import serve
from mlm_pretrain.errors import UserError
from mlm_pretrain.run import RunDirectory
from tests.demo.conftest import HOSTILE_LABEL

pytestmark = pytest.mark.browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
HOSTILE = '<script>window.hurt=1</script> the <img src=x onerror="window.hurt=1"> river ${window.hurt=1} {{7*7}}'
PATIENCE = 120_000.0
"""Milliseconds; a busy machine takes long to start a browser."""
expect.set_options(timeout=PATIENCE)
WIDTHS = {"wide": 1280, "narrow": 390}
WATCH = """
import os, socket
def watched(connect):
    def checked(self, address):
        if isinstance(address, tuple) and not str(address[0]).startswith(("127.", "::1", "localhost")):
            with open(os.environ["CALLS"], "a") as calls:
                calls.write(f"{address}\\n")
        return connect(self, address)
    return checked
socket.socket.connect = watched(socket.socket.connect)
socket.socket.connect_ex = watched(socket.socket.connect_ex)
lookup = socket.getaddrinfo
def asked(host, *rest, **more):
    if host not in (None, "127.0.0.1", "localhost", b"127.0.0.1", b"localhost"):
        with open(os.environ["CALLS"], "a") as calls:
            calls.write(f"look-up of {host}\\n")
    return lookup(host, *rest, **more)
socket.getaddrinfo = asked
"""
"""Notes in a file whom a Python process calls beyond this machine."""


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("watch")
    (folder / "sitecustomize.py").write_text(WATCH)
    (folder / "calls").touch()
    return folder / "calls"


@pytest.fixture(scope="module")
def port(demo_run: RunDirectory, calls: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a server of the command line, ended with Ctrl-C."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    environment = {**os.environ, "PYTHONPATH": str(calls.parent), "CALLS": str(calls)}
    # What conftest turns off for every process is what is on for users.
    environment.pop("HF_HUB_OFFLINE", None)
    command = [sys.executable, "-m", "mlm_pretrain", "demo", str(demo_run.root), "--port", str(port)]
    with log.open("w") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    try:
        deadline = time.monotonic() + PATIENCE / 1000
        while f"http://localhost:{port}" not in log.read_text():
            assert server.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield port
    finally:
        server.send_signal(signal.SIGINT)
        try:
            assert server.wait(timeout=60) == 0
        finally:
            server.kill()
            server.wait()
    assert "Traceback" not in log.read_text()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.fail('no Chromium: `apt-get install chromium`, or leave these tests out with -m "not browser"')
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="module", params=WIDTHS)
def page(request: pytest.FixtureRequest, browser: Browser, port: int) -> Iterator[Page]:
    """The page in a window; at the end, nothing of it was wider, ran, or came from elsewhere."""
    width = WIDTHS[request.param]
    page = browser.new_page(viewport={"width": width, "height": 900})
    asked: list[str] = []
    broken: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: broken.append(str(error)))
    page.set_default_timeout(PATIENCE)
    page.goto(f"http://localhost:{port}")
    expect(page.get_by_role("button", name="Guess")).to_be_visible(timeout=PATIENCE)
    yield page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("window.hurt") is None
    assert broken == []
    assert len(asked) > 5 and {url for url in asked if not url.startswith(f"http://localhost:{port}/")} == set()
    page.close()


def turn_to(page: Page, name: str) -> None:
    """Go to a tab, which in a narrow window may be in the menu."""
    tab = page.get_by_role("tab", name=name, exact=True)
    if tab.count():
        tab.click()
    else:
        page.locator(".overflow-menu > button").click()
        page.locator(".overflow-dropdown").get_by_text(name, exact=True).click()


def box(page: Page, label: str) -> Locator:
    return page.get_by_label(label, exact=True).locator("visible=true")


def press(page: Page, name: str, place: int = 0) -> Locator:
    """Press a button; the answer, once it is another than before."""
    answer = page.locator(".tabitem:visible [role=status], [role=tabpanel]:visible [role=status]").nth(place)
    before = answer.inner_html() if answer.count() else ""
    page.get_by_role("button", name=name).locator("visible=true").click()
    expect(answer).to_be_visible()
    expect(answer).not_to_have_js_property("innerHTML", before)
    return answer


def fits(page: Page) -> bool:
    return page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_masks(page: Page) -> None:
    turn_to(page, "Fill mask")
    assert box(page, "Text with [MASK] where the model is to guess").input_value().count("[MASK]") == 2
    answer = press(page, "Guess")
    expect(answer).to_contain_text("Mask 2 of 2")
    assert answer.locator(".bar").count() == 10
    box(page, "Text with [MASK] where the model is to guess").fill("no mask")
    expect(press(page, "Guess").get_by_role("alert")).to_have_text(re.compile(r"write \[MASK\]"))


def test_classes_and_why(page: Page) -> None:
    turn_to(page, "Classification")
    box(page, "Text").fill(f"Berlin {HOSTILE}")
    answer = press(page, "Predict")
    expect(answer).to_contain_text(HOSTILE_LABEL)  # a label is text too
    assert answer.locator(".bar").count() == 3
    why = press(page, "Why this label?", place=1)
    expect(why).to_contain_text("Integrated gradients")
    expect(why.locator(".values")).to_have_text(f"Berlin {HOSTILE}")
    assert why.locator(".values mark").count() > 5
    assert fits(page)


def test_labels_and_numbers(page: Page) -> None:
    turn_to(page, "Labels")
    box(page, "Text").fill("The river Spree flows.")
    assert press(page, "Predict").locator(".bar").count() == 2
    turn_to(page, "Regression")  # a model of pairs, as its config says
    box(page, "Text").fill("The river Spree flows.")
    expect(press(page, "Predict")).to_contain_text("trained on pairs of texts; give the second one too")
    box(page, "Second text").fill("A river flows.")
    expect(press(page, "Predict")).to_have_text(re.compile(r"^-?[\d.e-]+$"))


def test_words(page: Page) -> None:
    turn_to(page, "Entities")
    text = f"The train to {HOSTILE} " + "unbroken" * 40
    box(page, "Text").fill(text)
    marked = press(page, "Label the words")
    expect(marked.locator("mark").first).to_be_visible()
    shown = marked.locator(".text").evaluate(
        "e => { e = e.cloneNode(true); e.querySelectorAll('small').forEach(s => s.remove()); return e.textContent }"
    )
    assert shown == text
    assert fits(page)
    turn_to(page, "Word tags")
    box(page, "Text").fill("The train stops.")
    expect(press(page, "Label the words").locator("mark")).to_have_count(4)


def test_questions(page: Page) -> None:
    turn_to(page, "Answers")
    box(page, "Question").fill("where?")
    expect(press(page, "Answer").get_by_role("alert")).to_have_text("The context is empty; write something")
    box(page, "Context").fill(f"It flows through Berlin. {HOSTILE}")
    answer = press(page, "Answer")
    expect(answer.locator(".text")).to_have_text(f"It flows through Berlin. {HOSTILE}")
    expect(answer.locator("mark")).to_have_count(1)


def test_neighbours(page: Page) -> None:
    turn_to(page, "Neighbours")
    box(page, "Sentence").fill("the train")
    # What stands there by default may come a moment after the box, over what was written meanwhile.
    expect(box(page, "Candidates, one a line")).not_to_have_value("")
    box(page, "Candidates, one a line").fill(f"a river\n{HOSTILE}\nthe train")
    answer = press(page, "Compare")
    expect(answer.locator(".name")).to_have_count(3)
    assert answer.locator(".name").first.inner_text() == "the train"
    assert HOSTILE in answer.locator(".name").all_inner_texts()
    assert fits(page)


def test_tokens_and_long_text(page: Page) -> None:
    turn_to(page, "Tokens")
    box(page, "Text").fill(f"{HOSTILE} 🙂")
    answer = press(page, "Tokenise")
    expect(answer.locator(".tokens")).to_have_text(f"{HOSTILE} 🙂")
    assert answer.locator("tbody tr").count() > 20
    box(page, "Text").fill("river " * 4000)
    expect(press(page, "Tokenise")).to_contain_text("The text has 24,000 characters; the page reads the first 20,000.")
    assert fits(page)


# -- the server -----------------------------------------------------------------------------------------------------


def test_only_this_machine_is_served_and_nobody_called(port: int, calls: Path) -> None:
    with socket.socket() as client, pytest.raises(ConnectionRefusedError):
        client.connect(("127.0.0.2", port))  # a server on all addresses would answer here
    assert calls.read_text() == ""


def test_a_port_that_is_taken(port: int, demo_run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", str(demo_run.root), "--port", str(port)]) == 2
    assert capsys.readouterr().err.strip() == (
        f"error: 127.0.0.1:{port}: can't be listened on (Address already in use); give another --port or --host"
    )


def test_without_gradio(monkeypatch: pytest.MonkeyPatch, demo_run: RunDirectory) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    with pytest.raises(UserError, match=r"pip install 'mlm-pretrain\[demo\]'"):
        serve([demo_run.root])
