"""Opening a folder runs no code of it, whichever verb does: a run, a task's model, an encoder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import PreTrainedTokenizerFast

from mlm_pretrain.cli import main
from mlm_pretrain.config_file import load_config
from mlm_pretrain.demo.models import find
from mlm_pretrain.run import RunDirectory, write_json
from tests.conftest import tiny_config
from tests.models.checkpoints import bring_code, tiny_checkpoint

Verb = Callable[[Path], list[str]]
VERBS: dict[str, Verb] = {
    "run": lambda run: ["run", str(run)],
    "tokenizer": lambda run: ["tokenizer", str(run), "--force"],
    "prepare": lambda run: ["prepare", str(run), "--force"],
    "pretrain": lambda run: ["pretrain", str(run), "--force"],
    "evaluate": lambda run: ["evaluate", str(run), "--force"],
    "finetune": lambda run: ["finetune", str(run), "--force"],
    "finetune the run's model": lambda run: ["finetune", str(run), "--force", "tasks.0.model=null"],
    "report": lambda run: ["report", str(run), "--out", str(run.parent / "page.html")],
    "plan": lambda run: ["plan", str(run)],
    "push": lambda run: ["push", str(run), "--dry-run", "--repo-id", "me/it"],
    "config": lambda run: ["config", "show", str(run)],
    "predict": lambda run: ["predict", str(run / "tasks" / "topic"), str(run.parent / "texts.jsonl")],
    "evaluate a task": lambda run: [
        "evaluate",
        str(run / "tasks" / "topic"),
        "--data",
        str(run.parent / "texts.jsonl"),
    ],
    "embed": lambda run: ["embed", str(run / "model"), str(run.parent / "texts.jsonl"), "--output", "v.npy"],
}


@pytest.fixture(scope="module")
def stranger(
    corpus: Path, tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A run's folder from somebody else, all of whose checkpoints bring code, and whose config says that it may run;
    and the file that the code makes."""
    root = tmp_path_factory.mktemp("stranger")
    mark, encoder = root / "ran", root / "encoder"
    tiny_checkpoint(encoder, "bert", tokenizer)
    bring_code(encoder, mark, "harbour")
    rows = [{"text": f"{word} of an array", "label": word} for word in ("shape", "size") * 10]
    (root / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    named = {"path": str(encoder), "trust_remote_code": True}
    task = {"task": "classification", "name": "topic", "train": str(root / "texts.jsonl"), "model": named, "seeds": [0]}
    config = tiny_config(corpus, root, training={"budget": {"steps": 2}}, tasks=[task])
    raw = {**config.model_dump(mode="json"), "model": {**named, "attn_implementation": "sdpa"}}
    run = RunDirectory.of(config)
    for folder in (run.model, run.task("topic")):
        shutil.copytree(encoder, folder)
    tokenizer.save_pretrained(run.tokenizer)
    run.config.write_text(yaml.safe_dump(raw))
    run.validation.write_text(json.dumps({"text": "the shape of an array", "source": "files", "key": 0}) + "\n")
    write_json(run.results, {"tasks": {"topic": {"task": "classification", "metric": "accuracy"}}})
    return run.root, mark


@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_runs_code_that_a_folder_allows_itself(
    verb: str, stranger: tuple[Path, Path], tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    source, mark = stranger
    monkeypatch.chdir(tmp_path)
    run = shutil.copytree(source.parent, tmp_path / "copy") / source.name
    status = main(VERBS[verb](run))
    said = capsys.readouterr().err
    assert not mark.exists()
    assert status in (0, 2)
    if status == 2:
        assert "code of its own" in said or "trust_remote_code" in said, said


def test_the_page_runs_none(stranger: tuple[Path, Path]) -> None:
    run, mark = stranger
    for place in (run, run / "model", run / "tasks" / "topic"):
        with pytest.raises(ValueError, match="code of its own, which never runs here"):
            find([place])
    assert not mark.exists()


def test_a_config_of_ones_own_and_the_command_line_count(stranger: tuple[Path, Path], tmp_path: Path) -> None:
    run, mark = stranger
    assert load_config(run).model.trust_remote_code is False
    assert load_config(run).tasks[0].origin.trust_remote_code is False  # type: ignore[union-attr]
    assert load_config(run, ["model.trust_remote_code=true"]).model.trust_remote_code
    own = shutil.copy(run / "config.yaml", tmp_path / "mine.yaml")
    assert load_config(own).model.trust_remote_code
    assert main(["plan", str(run), "model.trust_remote_code=true"]) == 0
    assert mark.exists()
    mark.unlink()
