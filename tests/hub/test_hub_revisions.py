"""Checkpoints as branches, releases as tags, and pushes that were interrupted."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoTokenizer, BertForMaskedLM

from mlm_pretrain.config_file import load_config, make_config
from mlm_pretrain.errors import UserError
from mlm_pretrain.hub.files import Repository, model_repositories
from mlm_pretrain.hub.push import push
from mlm_pretrain.io.whole import write_folder
from mlm_pretrain.run import RunDirectory
from tests.hub_server import TOKEN, Fault, HubServer, card_problems
from tests.hub_server.clients import client, environment, run_command

MODEL = {"README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}

LOAD = """
import json, sys
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

equal = {}
for revision, folder in zip(sys.argv[1::2], sys.argv[2::2]):
    logits = []
    for place, options in (("tester/mini", {"revision": revision}), (folder, {})):
        tokenizer = AutoTokenizer.from_pretrained(place, **options)
        batch = tokenizer(["return the [MASK] of an array"], return_tensors="pt")
        with torch.no_grad():
            logits.append(AutoModelForMaskedLM.from_pretrained(place, **options)(**batch).logits)
    equal[revision] = torch.equal(*logits)
print(json.dumps(equal))
"""


PUSHES = """
import sys
from mlm_pretrain.config_file import load_config
from mlm_pretrain.errors import UserError
from mlm_pretrain.hub.push import push
from mlm_pretrain.run import RunDirectory

for line in sys.stdin:
    try:
        done = push(RunDirectory(sys.argv[1]), load_config(sys.argv[1]), checkpoints=True, tag=line.strip() or None)
        print("sent", len(done), flush=True)
    except UserError as error:
        print(error, flush=True)
"""


@contextmanager
def pusher(hub: HubServer, run: RunDirectory, home: Path) -> Iterator[Callable[..., str]]:
    """A process that pushes as often as it is told to, with a tag if it is given one, and gives a line each time."""
    process = subprocess.Popen(
        [sys.executable, "-c", PUSHES, str(run.root)],
        env=environment(hub.endpoint, home),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin and process.stdout

    def once(tag: str = "") -> str:
        assert process.stdin and process.stdout
        process.stdin.write(f"{tag}\n")
        process.stdin.flush()
        return process.stdout.readline().strip()

    try:
        yield once
    finally:
        process.kill()
        process.communicate()


def add_checkpoint(run: RunDirectory, step: int) -> Path:
    """A checkpoint as training leaves one, its weights other than those of any other step."""

    def fill(folder: Path) -> None:
        torch.manual_seed(step)
        model = BertForMaskedLM.from_pretrained(run.model)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(run.model).save_pretrained(folder)
        (folder / "optimizer.safetensors").write_bytes(b"moments")
        state = {"progress": {"step": step, "tokens": 1000 * step}, "identity": {"text": "/home/somebody/corpus"}}
        (folder / "trainer_state.json").write_text(json.dumps(state), encoding="utf-8")

    write_folder(run.checkpoint(step), fill, manifest=True)
    return run.checkpoint(step)


def _weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_checkpoints_are_revisions_and_releases_tags(
    copy_run: Callable[[], RunDirectory], hub: HubServer, tmp_path: Path
) -> None:
    run = copy_run()
    checkpoints = {f"step-{step:08d}": add_checkpoint(run, step) for step in (500, 20_000)}
    run.metrics.write_text('{"step": 500, "loss": 4.5, "heldout_loss": 4.25}\n', encoding="utf-8")
    hub.chunk_size = 5000  # weights go up in parts
    hub.page = 1
    listed = run_command(hub, tmp_path, "push", run.root, "--checkpoints", "--tag", "v1.0", "--dry-run")
    assert "tester/mini, tag v1.0: dry run" in listed and "tester/mini-library, tag v1.0: dry run" in listed
    assert "tester/mini@step-00020000: dry run" in listed
    assert f"model.safetensors  {len(_weights(run.model)):,} bytes" in listed
    assert not hub.requests and not run.outbox.exists()

    with pusher(hub, run, tmp_path) as once:
        assert once("v1.0") == "sent 5"
        _check_revisions(hub, checkpoints)
        assert not list(run.outbox.glob("step-*"))  # whatever was sent is let go

        # Again: nothing is new, so no commit is made and no weights are sent; and a release stays what it is.
        before = {name: dict(each.branches) for name, each in hub.repos.items()}
        sent = len(hub.asked("PUT "))
        assert once("v1.0") == "sent 5"
        assert {name: each.branches for name, each in hub.repos.items()} == before
        assert len(hub.asked("PUT ")) == sent
        run.record({"pretraining": {"steps": 1204}})
        assert "tester/mini: the tag 'v1.0' stands already" in once("v1.0")
        assert hub.repos["tester/mini"].tags["v1.0"] == before["tester/mini"]["main"]

    places = {**checkpoints, "main": run.model, "v1.0": run.model}
    loaded = client(
        LOAD, *[str(each) for pair in places.items() for each in pair], endpoint=hub.endpoint, home=tmp_path / "fresh"
    )
    assert json.loads(loaded.stdout.splitlines()[-1]) == dict.fromkeys(places, True)


def _check_revisions(hub: HubServer, checkpoints: dict[str, Path]) -> None:
    repo = hub.repos["tester/mini"]
    assert set(repo.branches) == {"main", *checkpoints}
    for branch, folder in checkpoints.items():
        files = repo.files_at(branch)
        assert set(files) == MODEL
        assert files["model.safetensors"] == _weights(folder)
        assert not card_problems(files["README.md"].decode())
        assert b"somebody" not in b"".join(files.values()) and b"moments" not in b"".join(files.values())
    card = repo.files_at("step-00000500")["README.md"].decode()
    assert "after 500 steps and 500,000 tokens" in card and "held-out loss (nats a masked token): 4.2500" in card
    assert yaml.safe_load(card.split("---")[1])["license"] == "apache-2.0"
    assert "Nothing was measured" in repo.files_at("step-00020000")["README.md"].decode()
    assert len(hub.asked("PUT /_lfs_part/")) > 10 and not hub.asked("PUT /_lfs/")
    assert {name: {tag: at.oid for tag, at in each.tags.items()} for name, each in hub.repos.items()} == {
        name: {"v1.0": each.commits[-1]} for name, each in hub.repos.items()
    }


def test_an_interrupted_push_goes_on_where_it_was(
    copy_run: Callable[[], RunDirectory], hub: HubServer, tmp_path: Path
) -> None:
    run = copy_run()
    add_checkpoint(run, 500)
    faults = [
        (Fault("GET /api/whoami", status=401, message="Invalid user token"), "the login was refused (401)"),
        (Fault("POST /api/repos/create", status=503), "answered 503"),
        (Fault("POST .*/objects/batch", status=403, message="storage limit"), "(403) (storage limit)"),
        (Fault("PUT /_lfs/", status=413, message="too large"), "no room for it (413) (too large)"),
        (Fault("PUT /_lfs/", "corrupt"), "answered 400 (content does not match its sha256)"),
        (Fault("POST .*/commit/", status=500), "answered 500"),
        (Fault("POST .*/commit/", "drop"), "no connection to"),
        (Fault("POST .*mini-library/commit/", status=500), "push to tester/mini-library: the Hub answered 500"),
        (Fault("POST .*/branch/", status=500), "push to tester/mini@step-00000500: the Hub answered 500"),
        (Fault("POST .*/commit/step-", "cut"), "push to tester/mini@step-00000500: no connection"),
    ]
    with pusher(hub, run, tmp_path) as once:
        for fault, told in faults:
            hub.faults[:] = [fault]
            line = once()
            assert told in line and f"everything is kept in {run.root}" in line and TOKEN not in line, line
        # What the client retries by itself isn't even seen.
        hub.faults[:] = [Fault("PUT /_lfs/", "drop", times=1), Fault("POST .*/objects/batch", status=502, times=1)]
        assert once() == "sent 4"
    # Two attempts were refused or spoilt; what had arrived once, was not sent again.
    assert sorted(hub.objects) == sorted(
        {request.path.split("/")[-1] for request in hub.asked("PUT /_lfs/") if request.status == 200}
    )
    assert len([request for request in hub.asked("PUT /_lfs/") if request.status == 200]) == len(hub.objects) == 4
    assert all(len(repo.commits) == 2 for repo in hub.repos.values())
    assert hub.repos["tester/mini"].files_at("step-00000500")["model.safetensors"] == _weights(run.checkpoint(500))


def test_damaged_checkpoints_and_other_tags_are_left(
    copy_run: Callable[[], RunDirectory], capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy_run()
    for step in (500, 600):
        add_checkpoint(run, step)
    (run.checkpoint(500) / "model.safetensors").write_bytes(b"half")
    config = load_config(run.root)
    assert [str(each.revision) for each in push(run, config, dry_run=True, checkpoints=True)] == [
        *["None"] * 3,
        "step-00000600",
    ]
    assert "step-00000500: not sent: model.safetensors is damaged" in capsys.readouterr().err
    for tag in ("main", "step-00000500", "v 1", "v1..0", "-v1", "v1.lock", "v1.", ""):
        with pytest.raises(UserError, match=r"--tag: '.*' can't name a release"):
            push(run, config, dry_run=True, tag=tag)
    for tag in ("v1.0", "1", "2026-05_a+b"):
        assert push(run, config, dry_run=True, tag=tag)[0].tag == tag


def test_checkpoints_go_without_a_model_and_further_repositories_too(copy_run: Callable[[], RunDirectory]) -> None:
    run = copy_run()
    config = load_config(run.root)
    space = Repository("tester/mini-demo", {"app.py": b"print()"}, repo_type="space", space_sdk="gradio")
    sent = push(run, config, dry_run=True, further=[lambda run, publish: space], tag="v1")
    assert [(each.repo_id, each.tag) for each in sent][-1] == ("tester/mini-demo", None)
    add_checkpoint(run, 500)
    (run.model / "model.safetensors").unlink()
    only = push(run, config, dry_run=True, checkpoints=True)
    assert [(each.repo_id, each.revision) for each in only] == [("tester/mini", "step-00000500")]
    shutil.rmtree(run.model)  # a run of nothing but tasks
    assert [each.repo_id for each in push(run, config, dry_run=True)] == ["tester/mini-entities", "tester/mini-library"]


def test_secrets_are_refused_and_written_nowhere(copy_run: Callable[[], RunDirectory], tmp_path: Path) -> None:
    run = copy_run()
    plain = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    plain["text"]["sources"][1]["options"] = {"storage_options": {"password": "hunter2"}}
    run.config.write_text(yaml.safe_dump(plain), encoding="utf-8")
    with pytest.raises(
        UserError, match=r"text\.sources\.1\.options\.storage_options\.password: holds .* a secret"
    ) as e:
        push(run, load_config(run.root), dry_run=True)
    assert "hunter2" not in str(e.value)

    sources = [{"source": "hub", "path": "a/b", "options": {"token": TOKEN}}]
    fresh = RunDirectory(tmp_path / "fresh")
    with pytest.raises(UserError, match=r"text\.sources\.0\.options\.token: .*access token") as e:
        fresh.write_config(make_config({"text": {"sources": sources}}))
    assert TOKEN not in str(e.value) and not fresh.root.exists()


def test_the_login_itself_is_looked_for(copy_run: Callable[[], RunDirectory], monkeypatch: pytest.MonkeyPatch) -> None:
    run = copy_run()
    monkeypatch.setenv("HF_TOKEN", "an-unusual-token-of-an-own-server")
    push(run, load_config(run.root), dry_run=True)
    run.record({"note": "an-unusual-token-of-an-own-server"})
    with pytest.raises(UserError, match=r"results\.json: holds what looks like the Hub access token of your login"):
        push(run, load_config(run.root), dry_run=True)


def test_where_one_works_and_where_keys_lie_are_no_secrets(
    copy_run: Callable[[], RunDirectory], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copy_run()
    monkeypatch.setenv("PWD", str(tmp_path))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    (tmp_path / "key.json").touch()
    run.record({"note": f"read {tmp_path}/corpus.txt with {tmp_path}/key.json"})
    push(run, load_config(run.root), dry_run=True)


def test_what_is_not_finite_is_sent_as_null(copy_run: Callable[[], RunDirectory]) -> None:
    run = copy_run()
    run.metrics.write_text('{"step": 3, "tokens": 30, "loss": NaN}\n')
    run.results.write_text(run.results.read_text().rstrip().removesuffix("}") + ', "seconds": {"pretrain": Infinity}}')
    files = model_repositories(run, load_config(run.root).publish.model_copy(update={"hub_model_id": "me/it"}))[0].files
    sent = {name: files[name] for name in ("metrics.jsonl", "results.json")}
    assert b'"loss": null' in sent["metrics.jsonl"] and b'"pretrain": null' in sent["results.json"]


def test_pictures_of_the_card_go_with_it(copy_run: Callable[[], RunDirectory]) -> None:
    run = copy_run()
    (run.model / "curves").mkdir()
    (run.model / "curves" / "loss.png").write_bytes(b"a picture")
    (run.model / "other.png").write_bytes(b"another")
    (run.root / "secret.png").write_bytes(b"outside")
    config = load_config(run.root)
    shows = "![loss](curves/loss.png) ![gone](gone.png) ![out](../secret.png) ![far](https://example.org/x.png)"
    described = config.model_copy(update={"publish": config.publish.model_copy(update={"description": shows})})
    encoder = push(run, described, dry_run=True)[0]
    assert {name for name in encoder.files if name.endswith(".png")} == {"curves/loss.png"}
