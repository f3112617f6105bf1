"""What people do to a run's folder: copies beside ours, links, deleted results, flipped bits, killed writers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from mlm_pretrain.cli import main
from mlm_pretrain.run import RunDirectory, checkpoints_in
from tests.conftest import contents

TIMES = {"seconds", "activities", "examples_per_second", "tokens_per_second", "history"}


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    capsys.readouterr()
    code = main(arguments)
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return code, said.out + said.err


def without_times(results: Any) -> Any:
    if isinstance(results, dict):
        return {key: without_times(value) for key, value in results.items() if key not in TIMES}
    return results


def flip(path: Path) -> None:
    """One bit of the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_copies_beside_what_is_ours_are_left_alone(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    newest = checkpoints_in(run.checkpoints)[-1]
    folders = [newest.with_name(f"{newest.name}.bak"), newest.with_name("step-latest"), run.tasks / "weather.bak"]
    shutil.copytree(newest, folders[0])
    shutil.copytree(newest, folders[1])
    shutil.copytree(run.task("weather"), folders[2])
    (run.checkpoints / "step-00000099").write_text("a file of this name")
    before = [contents(folder) for folder in folders]
    root = str(run.root)
    for arguments in (
        ["run", root],
        ["pretrain", root, "training.budget.steps=12"],
        ["evaluate", root, "--force"],
        ["finetune", root, "--force"],
        ["report", root],
        ["plan", root],
    ):
        code, said = call(capsys, *arguments)
        assert code == 0, said
    code, said = call(capsys, "push", root, "--dry-run", "--repo-id", "me/tiny", "--checkpoints")
    assert code == 0, said
    assert "me/tiny-weather:" in said and "me/tiny@step-00000012" in said
    assert "bak" not in said and "latest" not in said
    assert [contents(folder) for folder in folders] == before
    assert json.loads(run.end.read_text())["checkpoint"] == str(run.checkpoint(12))


@pytest.mark.parametrize("name", ["model", "tokenizer", "tasks/weather"])
def test_a_link_in_the_place_of_a_folder_is_told_before_any_work(
    name: str, run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run.root / name).rename(tmp_path / "elsewhere")
    (run.root / name).symlink_to(tmp_path / "elsewhere")
    before = contents(tmp_path)
    code, said = call(capsys, "run", str(run.root), "training.budget.steps=30")
    assert code == 2
    assert f"error: {run.root / name}: a symlink to {tmp_path / 'elsewhere'} is where a folder is to be written" in said
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "arguments",
    [["report"], ["plan"], ["push", "--dry-run", "--repo-id", "a/b"], ["evaluate"], ["finetune"], ["pretrain"]],
    ids=lambda arguments: arguments[0],
)
def test_every_verb_copes_without_results(
    arguments: list[str], run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    results = json.loads(run.results.read_text())
    run.results.write_text("{ half")
    verb, *rest = arguments
    code, said = call(capsys, verb, str(run.root), *rest)
    assert code == 2 and f"{run.results}: damaged" in said and "delete it" in said
    run.results.unlink()
    code, said = call(capsys, verb, str(run.root), *rest)
    assert code == 0, said
    code, said = call(capsys, "run", str(run.root))
    assert code == 0, said
    assert without_times(json.loads(run.results.read_text())) == without_times(results)
    # Nothing was done twice: the stages have noted what they came to.
    assert said.count("up to date, skipped") == 4


def test_a_stage_whose_results_are_nowhere_runs_again(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    results = json.loads(run.results.read_text())
    notes = json.loads((run.root / "stages.json").read_text())
    for note in notes.values():
        del note["results"]
    (run.root / "stages.json").write_text(json.dumps(notes))
    run.results.unlink()
    code, said = call(capsys, "run", str(run.root))
    assert code == 0, said
    assert "skipped" not in said
    assert without_times(json.loads(run.results.read_text())) == without_times(results)


VERBS = {
    "model/model.safetensors": ("pretrain", "evaluate", "finetune", "push"),
    "model/tokenizer.json": ("pretrain", "evaluate", "finetune", "push"),
    "tokenizer/tokenizer.json": ("tokenizer", "pretrain --force", "evaluate --force"),
    "validation.jsonl": ("tokenizer", "evaluate --force"),
    "tasks/weather/model.safetensors": ("finetune", "push"),
}


@pytest.mark.parametrize("name", VERBS)
def test_a_flipped_bit_is_told_by_who_reads_it_next(
    name: str, run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(run.root / name)
    results = run.results.read_bytes()
    for verb in VERBS[name]:
        extra = ["--dry-run", "--repo-id", "a/b"] if verb == "push" else []
        first, *rest = verb.split()
        code, said = call(capsys, first, str(run.root), *rest, *extra)
        assert code == 2, (verb, said)
        assert f"error: {run.root / name}: damaged (its size or SHA-256 is not the one that was written)" in said, verb
    assert run.results.read_bytes() == results
    stage = {"model": "pretrain", "tokenizer": "tokenizer", "tasks": "finetune"}.get(name.split("/")[0], "tokenizer")
    code, said = call(capsys, stage, str(run.root), "--force")
    assert code == 0, said
    code, said = call(capsys, "run", str(run.root))
    assert code == 0, said


def test_a_damaged_model_is_used_by_nobody_outside_of_its_run(
    run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("rain again\n")
    flip(run.task("weather") / "model.safetensors")
    code, said = call(capsys, "predict", str(run.task("weather")), str(texts))
    assert code == 2 and "damaged" in said
    code, said = call(capsys, "embed", str(run.task("weather")), str(texts), "--output", str(tmp_path / "v.npy"))
    assert code == 2 and "damaged" in said
    other = [f"run.output_dir={tmp_path / 'other'}", f"model.path={run.model}"]
    flip(run.model / "model.safetensors")
    code, said = call(capsys, "pretrain", str(run.root / "config.yaml"), *other)
    assert code == 2 and "damaged" in said
    # Who has changed it on purpose says so.
    (run.task("weather") / "manifest.json").unlink()
    code, said = call(capsys, "predict", str(run.task("weather")), str(texts))
    assert code == 0, said


def test_a_manifest_of_somebody_else_is_no_reason_to_refuse(
    run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run.task("weather") / "manifest.json").write_text(json.dumps({"name": "an app", "icons": []}))
    (tmp_path / "texts.txt").write_text("rain again\n")
    code, said = call(capsys, "predict", str(run.task("weather")), str(tmp_path / "texts.txt"))
    assert code == 0, said


def test_an_absurd_held_out_loss_is_an_error_and_no_result(
    run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    results = json.loads(run.results.read_text())
    file = run.model / "model.safetensors"
    save_file({name: tensor * 1e4 for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
    (run.model / "manifest.json").unlink()
    code, said = call(capsys, "evaluate", str(run.root), "--force")
    assert code == 2
    assert f"error: {run.model}: its held-out loss is" in said and "where guessing gives 6.4" in said
    assert json.loads(run.results.read_text()) == results


def test_what_killed_writers_left_is_removed_by_who_holds_the_run_next(
    run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    left = [".results.json.4711.tmp", ".config.yaml.1.tmp", "model/.README.md.12.tmp", "tasks/weather/.README.md.9.tmp"]
    folders = [".model.tmp", ".tokenizer.tmp", "tasks/.weather.tmp"]
    for name in folders:
        (run.root / name).mkdir()
        left.append(f"{name}/half")
    for name in left:
        (run.root / name).write_text("half of it")
    predicting = run.root / ".labelled.jsonl.part.json.7.tmp"
    predicting.write_text("{}")
    mine = run.root / "notes.tmp"
    mine.write_text("of the user")
    code, said = call(capsys, "evaluate", str(run.root), "--force")
    assert code == 0, said
    assert not [name for name in (*left, *folders) if (run.root / name).exists()]
    assert predicting.exists() and mine.exists()
