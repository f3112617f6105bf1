"""The page answers to names that are its own."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from mlm_pretrain.demo.hosts import known_names
from mlm_pretrain.run import RunDirectory


@pytest.fixture(scope="module")
def port(demo_run: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a server of the command line."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number = int(probe.getsockname()[1])
    log = tmp_path_factory.mktemp("hosts") / "log"
    command = [sys.executable, "-m", "mlm_pretrain", "demo", str(demo_run.model), "--port", str(number)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with log.open("w") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    try:
        deadline = time.monotonic() + 120
        while "Ctrl-C ends it" not in log.read_text():
            assert server.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield number
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(timeout=30)
        finally:
            server.kill()


def _asked(port: int, host: str, path: str = "/", method: str = "GET") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, headers={"Host": host})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_other_names_get_nothing_of_the_page(port: int) -> None:
    for host in ("localhost", f"localhost:{port}", "LOCALHOST", f"127.0.0.1:{port}", f"[::1]:{port}"):
        assert _asked(port, host)[0] == 200, host
    for host in ("rebound.example", f"rebound.example:{port}", "localhost.rebound.example", "127.0.0.1.example", ""):
        for path, method in (("/", "GET"), ("/config", "GET"), ("/gradio_api/queue/join", "POST")):
            status, content = _asked(port, host, path, method)
            assert status == 421 and b"gradio" not in content, (host, path)


def test_who_listens_everywhere_answers_to_the_machine_and_a_space_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPACE_ID", raising=False)
    assert known_names("127.0.0.1") == {"localhost", "127.0.0.1"}
    everywhere = known_names("0.0.0.0")
    assert everywhere is not None and socket.gethostname().lower() in everywhere
    monkeypatch.setenv("SPACE_ID", "me/page")
    assert known_names("0.0.0.0") is None
