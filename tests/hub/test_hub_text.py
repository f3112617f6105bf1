"""Pretraining on a dataset that is streamed from the Hub, over HTTP, with what can happen on the way."""

from __future__ import annotations

from pathlib import Path

from mlm_pretrain.run import RunDirectory
from tests.conftest import tiny_config
from tests.hub_server import TOKEN, Fault, HubServer
from tests.hub_server.clients import client, command_line, run_command
from tests.training.launching import losses, wait_for_steps

UPLOAD = """
import json, sys
from pathlib import Path
from datasets import Dataset
rows = [json.loads(line) for file in sorted(Path(sys.argv[1]).glob("*.jsonl")) for line in file.open(encoding="utf-8")]
Dataset.from_list(rows).push_to_hub("tester/texts", num_shards=3, private=True)
print(len(rows))
"""


def _config(name: str, corpus: Path, folder: Path) -> tuple[RunDirectory, Path]:
    source = {"source": "hub", "path": "tester/texts", "split": "train"}
    text = {"sources": [source], "validation_fraction": 0.1}
    config = tiny_config(
        corpus,
        folder,
        run={"name": name},
        text=text,
        training={"budget": {"steps": 40}, "save_steps": 5},
    )
    file = folder / f"{name}.yaml"
    file.write_text(config.to_yaml(), encoding="utf-8")
    return RunDirectory.of(config), file


def test_a_streamed_run_is_killed_and_goes_on(corpus: Path, hub: HubServer, tmp_path: Path) -> None:
    uploaded = client(UPLOAD, corpus, endpoint=hub.endpoint, home=tmp_path / "home")
    assert uploaded.returncode == 0, uploaded.stderr
    shards = [path for path in hub.repos["datasets/tester/texts"].files if path.endswith(".parquet")]
    assert len(shards) == 3

    whole, file = _config("whole", corpus, tmp_path)
    said = run_command(hub, tmp_path / "home", "pretrain", file)
    assert len(losses(whole)) == 40 and TOKEN not in said
    reads = hub.asked("GET /_cdn/")
    assert any(read.range for read in reads) and not any(read.token for read in reads)

    broken, file = _config("broken", corpus, tmp_path)
    with command_line(hub, tmp_path / "home", "pretrain", file) as process:
        wait_for_steps(broken, 12, process)
        process.kill()
        process.wait()
    assert 12 <= len(losses(broken)) < 40
    # Some of the reads fail, one connection ends in the middle of an answer, and one answer is slow to come.
    slow = Fault("GET /_cdn/", "hold", times=1)
    faults = [slow, Fault("GET /_cdn/", "cut", times=1), Fault("GET /_cdn/", status=503, times=2)]
    hub.faults += faults
    with command_line(hub, tmp_path / "home", "pretrain", file) as process:
        while not slow.count:
            assert process.poll() is None
        slow.release.set()
        said = process.communicate(timeout=120)[0]
    assert process.returncode == 0, said
    assert "going on from" in said
    assert all(fault.count for fault in faults)
    assert losses(broken) == losses(whole)
    weights = [(run.model / "model.safetensors").read_bytes() for run in (whole, broken)]
    assert weights[0] == weights[1]


def test_a_hub_that_is_gone_is_one_line(corpus: Path, hub: HubServer, tmp_path: Path) -> None:
    _, file = _config("gone", corpus, tmp_path)
    said = run_command(hub, tmp_path / "home", "pretrain", file, status=2)
    assert "error: tester/texts: cannot" in said.splitlines()[-1]
    assert TOKEN not in said
