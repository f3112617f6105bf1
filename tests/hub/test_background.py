"""Checkpoints that are sent while a run goes on: nothing on the way may stop it, hold it up or get lost."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from mlm_pretrain import stages
from mlm_pretrain.config import Config
from mlm_pretrain.errors import UserError
from mlm_pretrain.hub.background import Sender, sending
from mlm_pretrain.hub.checkpoints import Outbox
from mlm_pretrain.run import RunDirectory
from tests.conftest import tiny_config
from tests.hub_server import TOKEN, Fault, HubServer
from tests.hub_server.clients import client, command_line, run_command
from tests.training.launching import losses, wait_until

STEPS = [f"step-{step:08d}" for step in (4, 8, 12)]
PUBLISH = {"hub_model_id": "tester/mini", "push_every": 4}
TRAINING = {"budget": {"steps": 14}, "save_steps": 2, "save_total_limit": 1}

LOAD = """
import sys
from transformers import AutoModelForMaskedLM, AutoTokenizer
for revision in sys.argv[1:]:
    AutoTokenizer.from_pretrained("tester/mini", revision=revision)
    print(revision, AutoModelForMaskedLM.from_pretrained("tester/mini", revision=revision).num_parameters())
"""


def _ready(corpus: Path, folder: Path, **publish: object) -> tuple[RunDirectory, Path]:
    """A run whose tokenizer stands, and its config as a file."""
    config = tiny_config(corpus, folder, training=TRAINING, publish={**PUBLISH, **publish})
    stages.train_tokenizer(config)
    file = folder / "config.yaml"
    file.write_text(config.to_yaml(), encoding="utf-8")
    return RunDirectory.of(config), file


def _sent(hub: HubServer) -> dict[str, bytes]:
    branches = hub.repos["tester/mini"].branches if hub.repos else {}
    return {name: files["model.safetensors"] for name in branches if (files := branches[name].files) and name != "main"}


@pytest.fixture(scope="module")
def unbroken(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDirectory, dict[str, bytes]]:
    """The same run without a Hub, and the weights of each of its checkpoints."""
    from mlm_pretrain.training.loop import pretrain

    config = tiny_config(corpus, tmp_path_factory.mktemp("unbroken"), training=TRAINING)
    stages.train_tokenizer(config)
    run = RunDirectory.of(config)
    weights = {}

    def keep(step: int, checkpoint: Path) -> None:
        weights[checkpoint.name] = (checkpoint / "model.safetensors").read_bytes()

    pretrain(config, run, on_save=keep)
    assert set(weights) == {f"step-{step:08d}" for step in range(2, 15, 2)}
    return run, weights


def test_a_run_sends_its_checkpoints(
    corpus: Path, hub: HubServer, tmp_path: Path, unbroken: tuple[RunDirectory, dict[str, bytes]]
) -> None:
    run, file = _ready(corpus, tmp_path)
    # The Hub takes weights in, and doesn't answer before the run is through with its last step.
    held = Fault("PUT /_lfs/", "hold")
    hub.faults += [held, Fault("POST .*/objects/batch", status=500, times=1), Fault("POST .*/branch/", "drop", times=1)]
    with command_line(hub, tmp_path / "home", "pretrain", file) as process:
        wait_until(lambda: (run.model / "config.json").exists(), process)
        assert not _sent(hub)
        assert len(list(run.checkpoints.iterdir())) == 1  # the others are pruned, what is unsent is kept
        held.release.set()
        said = process.communicate(timeout=120)[0]
        assert process.returncode == 0, said
    assert "publish: 3 checkpoints were sent to tester/mini" in said and TOKEN not in said
    whole, weights = unbroken
    assert _sent(hub) == {name: weights[name] for name in STEPS}
    assert (run.model / "model.safetensors").read_bytes() == (whole.model / "model.safetensors").read_bytes()
    assert losses(run) == losses(whole)
    assert not Outbox(run).entries()
    files = hub.repos["tester/mini"].files_at(STEPS[-1])
    assert set(files) == {"README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert not any(str(tmp_path).encode() in data or str(corpus).encode() in data for data in files.values())
    loaded = client(LOAD, *STEPS, endpoint=hub.endpoint, home=tmp_path / "fresh")
    assert loaded.stdout.count("step-") == 3


def test_a_hub_that_fails_costs_nothing_and_push_sends_the_rest(
    corpus: Path, hub: HubServer, tmp_path: Path, unbroken: tuple[RunDirectory, dict[str, bytes]]
) -> None:
    run, file = _ready(corpus, tmp_path)
    hub.faults.append(Fault("POST /api/repos/create", status=401, message="Invalid user token"))
    said = run_command(hub, tmp_path / "home", "pretrain", file)
    told = [line for line in said.splitlines() if "publish: not sent yet" in line]
    assert len(told) == 1
    assert all(name in told[0] for name in STEPS) and "(the login was refused (401)" in told[0]
    assert f"`mlm-pretrain push {run.root}` sends them" in told[0]
    assert (
        said.count("the login was refused") <= 2 and TOKEN not in said
    )  # during the run, if it is told then, and behind it
    assert losses(run) == losses(unbroken[0])
    assert json.loads(run.end.read_text(encoding="utf-8"))["reason"] == "finished"
    assert [entry.name for entry in Outbox(run).entries()] == STEPS

    hub.faults.clear()
    run_command(hub, tmp_path / "home", "push", run.root)
    assert _sent(hub) == {name: unbroken[1][name] for name in STEPS}
    assert "config.json" in hub.repos["tester/mini"].files and not Outbox(run).entries()


@pytest.mark.parametrize("killed", [1, 3])  # with so many unsent: the run is not through, or it is
def test_killed_while_sending_the_next_start_sends(
    killed: int, corpus: Path, hub: HubServer, tmp_path: Path, unbroken: tuple[RunDirectory, dict[str, bytes]]
) -> None:
    run, file = _ready(corpus, tmp_path)
    held = Fault("PUT /_lfs/", "hold")
    hub.faults.append(held)
    with command_line(hub, tmp_path / "home", "pretrain", file) as process:
        wait_until(lambda: held.count and len(list(run.outbox.glob("step-*"))) >= killed, process)
        process.kill()
        process.wait()
    assert Outbox(run).entries()[0].name == STEPS[0]
    hub.faults.clear()
    held.release.set()
    run_command(hub, tmp_path / "home", "pretrain", file)
    assert _sent(hub) == {name: unbroken[1][name] for name in STEPS}
    assert losses(run) == losses(unbroken[0])
    assert not list(run.outbox.glob("*step*"))


# -- in this process: nobody is reached (HF_HUB_OFFLINE) ----------------------------------------------------------


@pytest.fixture
def made(corpus: Path, tmp_path: Path, unbroken: tuple[RunDirectory, dict[str, bytes]]) -> tuple[RunDirectory, Config]:
    config = tiny_config(corpus, tmp_path, publish=PUBLISH)
    run = RunDirectory.of(config)
    run.write_config(config)
    return run, config


def _checkpoint(run: RunDirectory, step: int, like: Path) -> Path:
    folder = run.checkpoint(step)
    folder.mkdir(parents=True)
    for file in like.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_what_is_kept_for_sending(
    made: tuple[RunDirectory, Config],
    unbroken: tuple[RunDirectory, dict[str, bytes]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each checkpoint that a multiple of `push_every` lies before; hard links, and no optimizer state."""
    run, config = made
    (like,) = unbroken[0].checkpoints.iterdir()
    with sending(run, config.publish) as on_save:
        assert on_save is not None
        for step in (3, 5, 6, 7, 12, 13):
            on_save(step, _checkpoint(run, step, like))
        began = time.monotonic()
        on_save(17, run.checkpoint(17))  # which isn't there
        assert time.monotonic() - began < 1
    entries = Outbox(run).entries()
    assert [entry.name for entry in entries] == ["step-00000005", "step-00000012"]
    for entry in entries:
        assert not (entry / "optimizer.safetensors").exists() and not (entry / "random.safetensors").exists()
        same = run.checkpoints / entry.name / "model.safetensors"
        assert (entry / "model.safetensors").stat().st_ino == same.stat().st_ino
    said = capsys.readouterr().err
    assert "HF_HUB_OFFLINE is set" in said
    assert "step-00000017 is not kept for sending" in said
    assert "not sent yet: step-00000005, step-00000012" in said


def test_an_error_of_the_run_is_told_at_once(
    made: tuple[RunDirectory, Config], unbroken: tuple[RunDirectory, dict[str, bytes]]
) -> None:
    run, config = made
    (like,) = unbroken[0].checkpoints.iterdir()
    began = time.monotonic()
    with pytest.raises(ZeroDivisionError), sending(run, config.publish) as on_save:
        assert on_save is not None
        on_save(4, _checkpoint(run, 4, like))
        raise ZeroDivisionError
    assert time.monotonic() - began < 5
    # The process before may have been killed between a save and the outbox.
    for entry in Outbox(run).entries():
        Outbox(run).remove(entry)
    Sender(run, config.publish).take_up()
    assert [entry.name for entry in Outbox(run).entries()] == ["step-00000004"]


def test_what_push_every_needs(made: tuple[RunDirectory, Config], corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="push_every needs hub_model_id"):
        tiny_config(corpus, tmp_path, publish={"push_every": 4})
    run, config = made
    with sending(run, config.publish.model_copy(update={"push_every": None})) as on_save:
        assert on_save is None
    run.config.write_text(run.config.read_text(encoding="utf-8") + f"# {TOKEN}\n", encoding="utf-8")
    with pytest.raises(UserError, match="looks like a Hub access token"), sending(run, config.publish):
        pass
