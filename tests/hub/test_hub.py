from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlm_pretrain.config import Config
from mlm_pretrain.config_file import load_config
from mlm_pretrain.errors import UserError
from mlm_pretrain.hub.push import push
from mlm_pretrain.io.whole import read_json, write_json
from mlm_pretrain.run import RunDirectory
from tests.hub_server import TOKEN, Fault, HubServer
from tests.hub_server.clients import client

MODEL = {"README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
RECORDS = {"training_config.yaml", "results.json", "metrics.jsonl", "tokenizer_report.json"}

PUSH = """
import sys
from mlm_pretrain.config_file import load_config
from mlm_pretrain.errors import UserError
from mlm_pretrain.hub.push import push
from mlm_pretrain.run import RunDirectory

root, *overrides = sys.argv[1:]
try:
    for pushed in push(RunDirectory(root), load_config(root, overrides)):
        print(pushed.repo_id, len(pushed.files), pushed.commit_url)
except UserError as error:
    print(error)
    sys.exit(2)
"""

LOAD = """
import json, re, sys
import torch
from huggingface_hub import ModelCard, hf_hub_download
from transformers import (
    AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer
)

equal = {}
repositories = {
    "tester/mini": (AutoModelForMaskedLM, "model"),
    "tester/mini-library": (AutoModelForSequenceClassification, "tasks/library"),
    "tester/mini-entities": (AutoModelForTokenClassification, "tasks/entities"),
}
for repository, (kind, folder) in repositories.items():
    logits = []
    for place in (repository, sys.argv[1] + "/" + folder):
        tokenizer = AutoTokenizer.from_pretrained(place)
        batch = tokenizer(["return the [MASK] of an array", "a first text"], padding=True, return_tensors="pt")
        with torch.no_grad():
            logits.append(kind.from_pretrained(place)(**batch).logits)
    card = ModelCard.load(repository)
    card.validate()
    block = re.findall(r"```python\\n(.*?)```", card.text, flags=re.DOTALL)[0]
    assert repository in block
    exec(block.replace("print(", "("), {})
    equal[repository] = torch.equal(*logits)
print(json.dumps(equal))
"""


def test_push_and_load(finished_run: RunDirectory, hub: HubServer, tmp_path: Path) -> None:
    first = client(PUSH, finished_run.root, endpoint=hub.endpoint, home=tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr

    assert {name: set(repo.files) for name, repo in hub.repos.items()} == {
        "tester/mini": MODEL | RECORDS,
        "tester/mini-library": MODEL,
        "tester/mini-entities": MODEL,
    }
    assert all(repo.private and len(repo.commits) == 2 for repo in hub.repos.values())
    created = [json.loads(request.body) for request in hub.requests if request.path == "/api/repos/create"]
    assert [data["visibility"] for data in created] == ["private"] * 3
    weights = (finished_run.model / "model.safetensors").read_bytes()
    assert hub.repos["tester/mini"].files["model.safetensors"] == weights
    assert hub.repos["tester/mini"].lfs == {"model.safetensors"}
    sent = b"".join(request.body + request.path.encode() for request in hub.requests)
    assert TOKEN.encode() not in sent and b"private words" not in sent
    assert TOKEN not in first.stdout + first.stderr

    # Pushing again with nothing changed makes no commit; a change makes one, in its repository only.
    heads = {name: repo.commits[-1] for name, repo in hub.repos.items()}
    again = client(PUSH, finished_run.root, endpoint=hub.endpoint, home=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert {name: repo.commits[-1] for name, repo in hub.repos.items()} == heads

    _check_records(finished_run, hub)

    loaded = client(LOAD, finished_run.root, endpoint=hub.endpoint, home=tmp_path)
    assert loaded.returncode == 0, loaded.stderr
    assert json.loads(loaded.stdout.splitlines()[-1]) == dict.fromkeys(hub.repos, True)


def _check_records(finished_run: RunDirectory, hub: HubServer) -> None:
    """The records arrived, and tell nothing of this machine."""
    files = hub.repos["tester/mini"].files
    for repo in hub.repos.values():
        for name, data in repo.files.items():
            assert b"somebody" not in data and str(finished_run.root).encode() not in data, name
    published = yaml.safe_load(files["training_config.yaml"])
    assert Config.model_validate(published).text.sources[0].path == "corpus"
    assert published["training"] == load_config(finished_run.root).model_dump(mode="json")["training"]
    assert json.loads(files["results.json"])["tasks"] == read_json(finished_run.results)["tasks"]
    assert [json.loads(line)["step"] for line in files["metrics.jsonl"].splitlines()] == [1]


def _digest(run: RunDirectory) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in run.root.rglob("*") if path.is_file() and path.suffix != ".md"}


def test_refusals_are_one_line_and_lose_nothing(
    copy_run: Callable[[], RunDirectory], hub: HubServer, tmp_path: Path
) -> None:
    run = copy_run()
    before = _digest(run)

    def refused(*overrides: str, endpoint: str = hub.endpoint, token: str | None = TOKEN) -> str:
        done = client(PUSH, run.root, *overrides, endpoint=endpoint, home=tmp_path / "home", token=token)
        assert done.returncode == 2, done.stdout + done.stderr
        assert len(done.stdout.splitlines()) == 1
        assert f"everything is kept in {run.root}" in done.stdout
        assert f"`mlm-pretrain push {run.root}`" in done.stdout
        assert _digest(run) == before
        assert not hub.repos
        return done.stdout

    assert "refused (401)" in refused(token="hf_" + "AnotherTokenThatIsWrong99")
    assert "not logged in" in refused(token=None)
    assert "may not write there (403)" in refused("publish.hub_model_id=somebody-else/mini")
    assert "no connection to http://127.0.0.1:9" in refused(endpoint="http://127.0.0.1:9")
    hub.faults.append(Fault("POST /api/repos/create", status=503))
    assert "answered 503" in refused()
    sent = b"".join(request.body for request in hub.requests)
    assert b"AnotherToken" not in sent


def test_an_existing_public_repository_gets_nothing(finished_run: RunDirectory, hub: HubServer, tmp_path: Path) -> None:
    public = client(
        PUSH,
        finished_run.root,
        "publish.hub_private_repo=false",
        "publish.hub_model_id=open",  # without an owner: the one who is logged in
        endpoint=hub.endpoint,
        home=tmp_path,
    )
    assert public.returncode == 0, public.stdout
    assert not hub.repos["tester/open"].private
    assert b'model="tester/open"' in hub.repos["tester/open"].files["README.md"]
    head = hub.repos["tester/open"].commits[-1]
    done = client(PUSH, finished_run.root, "publish.hub_model_id=tester/open", endpoint=hub.endpoint, home=tmp_path)
    assert done.returncode == 2
    assert "exists and is public" in done.stdout
    assert hub.repos["tester/open"].commits[-1] == head


def test_dry_run_lists_and_contacts_nobody(
    copy_run: Callable[[], RunDirectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copy_run()
    # Any request would fail: the client refuses all of them, and no token is there.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    encoder, entities, library = push(run, load_config(run.root), dry_run=True)
    assert (encoder.repo_id, entities.repo_id, library.repo_id) == (
        "tester/mini",
        "tester/mini-entities",
        "tester/mini-library",
    )
    assert set(encoder.files) == MODEL | RECORDS and set(library.files) == MODEL
    assert encoder.files["model.safetensors"] == (run.model / "model.safetensors").stat().st_size
    assert encoder.commit_url is None
    assert f"model.safetensors  {encoder.files['model.safetensors']:,} bytes" in str(encoder)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        push(run, load_config(run.root))


@pytest.mark.parametrize("place", ["config.yaml", "results.json", "model/config.json", "tasks/library/tokenizer.json"])
def test_a_token_in_a_file_is_refused(copy_run: Callable[[], RunDirectory], place: str) -> None:
    run = copy_run()
    file = run.root / place
    if place == "config.yaml":
        changed = load_config(run.root).model_dump(mode="json")
        changed["text"]["sources"][1]["options"] = {"token": TOKEN}
        file.write_text(yaml.safe_dump(changed), encoding="utf-8")
    else:
        write_json(file, read_json(file) | {"note": f"Bearer {TOKEN}"})
    with pytest.raises(UserError, match="looks like a Hub access token") as caught:
        push(run, load_config(run.root), dry_run=True)
    assert file.name in str(caught.value)
    assert TOKEN not in str(caught.value)


def test_local_folders_in_model_configs_are_cut(copy_run: Callable[[], RunDirectory]) -> None:
    run = copy_run()
    for folder in (run.model, run.task("library")):
        config = read_json(folder / "config.json")
        write_json(folder / "config.json", config | {"_name_or_path": "/home/somebody/runs/mini/model"})
    sizes = {pushed.repo_id: pushed.files["config.json"] for pushed in push(run, load_config(run.root), dry_run=True)}
    on_disk = (run.model / "config.json").stat().st_size
    assert sizes["tester/mini"] == on_disk - len("/home/somebody/runs/mini/")


def test_what_is_missing_is_told(copy_run: Callable[[], RunDirectory], capsys: pytest.CaptureFixture[str]) -> None:
    run = copy_run()
    config = load_config(run.root)
    nameless = config.model_copy(update={"publish": config.publish.model_copy(update={"hub_model_id": None})})
    with pytest.raises(UserError, match=r"publish\.hub_model_id: no repository is named"):
        push(run, nameless)
    for name in ("a/b/c", "no spaces", "x--y", "-x"):
        with pytest.raises(UserError, match="can't name a repository"):
            push(run, config, repo_id=name)
    (run.task("library") / "model.safetensors").unlink()
    pushed = push(run, nameless, repo_id="tester/other", dry_run=True)
    assert [each.repo_id for each in pushed] == ["tester/other", "tester/other-entities"]
    assert re.search("task 'library' has no model", capsys.readouterr().err)
    (run.model / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no trained model to push; run `mlm-pretrain pretrain"):
        push(run, config, dry_run=True)


def test_damaged_weights_are_refused(copy_run: Callable[[], RunDirectory]) -> None:
    run = copy_run()
    weights = run.task("library") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"tasks/library.*: damaged weights"):
        push(run, load_config(run.root), dry_run=True)


def test_the_server_refuses_bad_cards(hub: HubServer, tmp_path: Path) -> None:
    """The checks that the other tests lean on do refuse."""
    script = """
import sys
from huggingface_hub import ModelCard
for content in sys.argv[1:]:
    try:
        ModelCard(content).validate()
        print("valid")
    except ValueError:
        print("refused")
"""
    cards: list[Any] = [
        "---\nlanguage: en\n---\n# fine\n",
        "---\nlanguage: English\n---\n# no code\n",
        "---\nbase_model: runs/mini/model\n---\n# a folder\n",
    ]
    done = client(script, *cards, endpoint=hub.endpoint, home=tmp_path)
    assert done.stdout.split() == ["valid", "refused", "refused"]
