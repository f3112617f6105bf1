"""A run that somebody else made may hold symlinks: nothing outside of it is sent, shown or written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mlm_pretrain import stages
from mlm_pretrain.cards.card import write_cards
from mlm_pretrain.config_file import load_config
from mlm_pretrain.demo.models import find
from mlm_pretrain.errors import UserError
from mlm_pretrain.hub.background import sending
from mlm_pretrain.hub.push import push
from mlm_pretrain.report.page import write_report
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.stages.common import holding
from tests.hub.test_hub import PUSH
from tests.hub.test_hub_revisions import add_checkpoint
from tests.hub_server import HubServer
from tests.hub_server.clients import client

MARK = "words of the neighbour"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder of somebody else's, with what could pass for a model and for records."""
    folder = tmp_path / "neighbour"
    folder.mkdir()
    for name in ("config.json", "results.json", "mistakes.jsonl", "vocab.txt", "note.png", "README.md"):
        (folder / name).write_text(json.dumps({"model_type": "bert", "text": MARK}) + "\n", encoding="utf-8")
    return folder


def _listing(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _replace(path: Path, target: Path) -> None:
    if path.is_symlink() or path.exists():
        path.rename(path.with_name(f"{path.name}-as-it-was"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


PLACES = {
    "model/vocab.txt": "vocab.txt",
    "model/README.md": "README.md",
    "tasks/library/added_tokens.json": "config.json",
    "tasks/library": "",
    "tasks/entities": "",
    "tokenizer/merges.txt": "vocab.txt",
    "tokenizer": "",
    "model": "",
    "results.json": "results.json",
    "metrics.jsonl": "mistakes.jsonl",
    "outbox": "",
    "outbox/step-00000007": "",
}


@pytest.mark.parametrize(("place", "target"), PLACES.items(), ids=PLACES)
def test_nothing_is_pushed_through_a_link_that_leads_out(
    copy_run: Callable[[], RunDirectory], outside: Path, place: str, target: str
) -> None:
    run = copy_run()
    _replace(run.root / place, outside / target)
    before = _listing(outside)
    if place == "model/README.md":  # the card is written anew, in the link's place
        files = push(run, load_config(run.root), dry_run=True)[0].files
        assert "README.md" in files and MARK not in (run.model / "README.md").read_text(encoding="utf-8")
    else:
        with pytest.raises(UserError, match=r"a symlink leads out of .*mini"):
            push(run, load_config(run.root), dry_run=True)
    assert _listing(outside) == before


def test_a_real_push_sends_nothing_of_the_neighbour(
    copy_run: Callable[[], RunDirectory], outside: Path, hub: HubServer, tmp_path: Path
) -> None:
    run = copy_run()
    (run.model / "merges.txt").symlink_to(outside / "vocab.txt")
    refused = client(PUSH, run.root, endpoint=hub.endpoint, home=tmp_path)
    assert refused.returncode == 2 and "merges.txt: a symlink leads out of" in refused.stdout
    assert not hub.repos
    # A hard link is a file of the run, and a link within the run is followed.
    (run.model / "merges.txt").unlink()
    os.link(run.model / "tokenizer.json", run.model / "merges.txt")
    (run.task("library") / "vocab.txt").symlink_to("../../model/tokenizer.json")
    sent = client(PUSH, run.root, endpoint=hub.endpoint, home=tmp_path)
    assert sent.returncode == 0, sent.stdout + sent.stderr
    assert {"merges.txt"} <= set(hub.repos["tester/mini"].files)
    assert {"vocab.txt"} <= set(hub.repos["tester/mini-library"].files)
    assert MARK.encode() not in b"".join(request.body for request in hub.requests)


def test_checkpoints_are_sent_from_the_run_alone(copy_run: Callable[[], RunDirectory], outside: Path) -> None:
    run = copy_run()
    checkpoint = add_checkpoint(run, 300)
    (run.checkpoints / "step-00000300.bak").symlink_to(outside)  # a name that isn't ours
    assert len(push(run, load_config(run.root), dry_run=True, checkpoints=True)) == 4
    (checkpoint / "added_tokens.json").symlink_to(outside / "config.json")
    with pytest.raises(UserError, match=r"added_tokens\.json: a symlink leads out"):
        push(run, load_config(run.root), dry_run=True, checkpoints=True)
    (checkpoint / "added_tokens.json").unlink()
    (run.checkpoints / "step-00000400").symlink_to(outside)
    with pytest.raises(UserError, match=r"step-00000400: a symlink leads out"):
        push(run, load_config(run.root), dry_run=True, checkpoints=True)


@pytest.mark.parametrize("place", ["model", "tasks/entities", "tasks", "tokenizer/report.json"])
def test_cards_reports_and_the_demo_stay_in_the_run(
    copy_run: Callable[[], RunDirectory], outside: Path, place: str
) -> None:
    run = copy_run()
    _replace(run.root / place, outside / ("config.json" if place.endswith("json") else ""))
    before = _listing(outside)
    for verb in (write_cards, lambda run: write_report([run.root])):
        with pytest.raises(UserError, match=r"a symlink leads out"):
            verb(run)
    if not place.startswith("tokenizer"):
        with pytest.raises(UserError, match=r"a symlink leads out"):
            find([run.root])
    assert _listing(outside) == before


def test_a_report_shows_and_writes_nothing_outside(copy_run: Callable[[], RunDirectory], outside: Path) -> None:
    run = copy_run()
    assert MARK not in write_report([run.root]).read_text(encoding="utf-8")
    mistakes = run.task_errors("library")
    mistakes.symlink_to(outside / "mistakes.jsonl")
    with pytest.raises(UserError, match=r"library\.errors\.jsonl: a symlink leads out"):
        write_report([run.root])
    mistakes.unlink()
    folder = run.tasks / "library.evaluation" / "more"
    folder.mkdir(parents=True)
    (folder / "results.json").symlink_to(outside / "results.json")
    with pytest.raises(UserError, match=r"results\.json: a symlink leads out"):
        write_report([run.root])
    (folder / "results.json").unlink()
    # A task's name in the records is a name, no path.
    run.record_task("../../neighbour/mistakes", {"task": "classification", "metric": "accuracy"})
    with pytest.raises(UserError, match=r"names '.*neighbour/mistakes\.errors\.jsonl', which is outside of"):
        write_report([run.root])


def test_pictures_are_not_drawn_through_links(copy_run: Callable[[], RunDirectory], outside: Path) -> None:
    run = copy_run()
    run.metrics.write_text("".join(f'{{"step": {n}, "tokens": {n}, "loss": 2.5}}\n' for n in (1, 2, 3)))
    before = _listing(outside)
    (run.model / ".loss.png.tmp").symlink_to(outside / "note.png")
    (run.root / "report").symlink_to(outside)
    write_cards(run)
    with pytest.raises(UserError, match=r"report: a symlink leads out"):
        write_report([run.root])
    assert (run.model / "loss.png").read_bytes().startswith(b"\x89PNG") and _listing(outside) == before


def test_locks_and_files_on_their_way_are_no_way_out(copy_run: Callable[[], RunDirectory], outside: Path) -> None:
    run = copy_run()
    before = _listing(outside)
    (run.root / ".lock").unlink(missing_ok=True)
    (run.root / ".lock").symlink_to(outside / "config.json")
    (run.root / f".README.md.{os.getpid()}.tmp").symlink_to(outside / "note.png")
    with run.locked():
        write_cards(run)
    assert _listing(outside) == before


def test_a_run_that_is_named_by_a_relative_path_is_looked_at_as_well(
    copy_run: Callable[[], RunDirectory], outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = copy_run().root
    monkeypatch.chdir(whole.parent)
    sent = push(RunDirectory(whole.name), load_config(whole.name), dry_run=True)
    assert [list(each.files) for each in sent] == [
        list(each.files) for each in push(RunDirectory(whole), load_config(whole), dry_run=True)
    ]
    (whole / "model" / "vocab.txt").symlink_to(outside / "vocab.txt")
    with pytest.raises(UserError, match=r"^mini/model/vocab\.txt: a symlink leads out of mini"):
        push(RunDirectory(whole.name), load_config(whole.name), dry_run=True)


def test_checkpoints_on_another_disk_are_no_obstacle_until_they_are_to_be_sent(
    copy_run: Callable[[], RunDirectory], tmp_path: Path
) -> None:
    run = copy_run()
    run.checkpoints.mkdir(exist_ok=True)
    run.checkpoints.rename(tmp_path / "large-disk")
    run.checkpoints.symlink_to(tmp_path / "large-disk")
    add_checkpoint(run, 300)
    config = load_config(run.root)
    with holding(config):
        assert len(push(run, config, dry_run=True)) == 3
    with pytest.raises(UserError, match=r"checkpoints/step-\d+: a symlink leads out"):
        push(run, config, dry_run=True, checkpoints=True)
    publish = config.publish.model_copy(update={"push_every": 100})
    with pytest.raises(UserError, match=r"checkpoints: a symlink leads out"), sending(run, publish):
        pass


@pytest.mark.parametrize("record", ["metrics.jsonl", "results.json", "end.json"])
def test_records_that_lead_out_are_refused_before_a_stage_writes(
    copy_run: Callable[[], RunDirectory], outside: Path, record: str
) -> None:
    run = copy_run()
    _replace(run.root / record, outside / "mistakes.jsonl")
    before = _listing(outside)
    with pytest.raises(UserError, match=r"a symlink leads out of"):
        stages.pretrain(load_config(run.root), force=True)
    assert _listing(outside) == before
