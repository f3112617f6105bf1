"""Those who talk to the test's Hub: processes of their own, since huggingface_hub reads its environment on import."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.hub_server.repos import TOKEN
from tests.hub_server.server import HubServer


def environment(endpoint: str, home: Path, token: str | None = TOKEN) -> dict[str, str]:
    """That of a user of the Hub at `endpoint`, with a home of its own."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    made = kept | {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    made |= {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "NO_PROXY": "127.0.0.1,localhost"}
    return made | ({"HF_TOKEN": token} if token is not None else {})


def client(
    script: str, *arguments: str | Path, endpoint: str, home: Path, token: str | None = TOKEN
) -> subprocess.CompletedProcess[str]:
    """Run Python as a user of the Hub."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    env = environment(endpoint, home, token)
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done


@contextmanager
def command_line(hub: HubServer, home: Path, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """`mlm-pretrain` as a user of the Hub; killed where it is still there behind the block."""
    command = [sys.executable, "-m", "mlm_pretrain", *map(str, arguments)]
    env = environment(hub.endpoint, home)
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def run_command(hub: HubServer, home: Path, *arguments: str | Path, status: int = 0) -> str:
    """`mlm-pretrain` to its end; what it has said."""
    with command_line(hub, home, *arguments) as process:
        said = process.communicate(timeout=120)[0]
        assert process.returncode == status and "Traceback" not in said, said
    return said
