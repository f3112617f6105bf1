"""Who doesn't hold a run writes nothing of it; what a run says of itself is what it was run with."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from mlm_pretrain import stages
from mlm_pretrain.cli import main
from mlm_pretrain.run import RunDirectory
from tests.conftest import contents, tiny_config
from tests.training.launching import ENDLESS, launched, wait_for_steps, wait_until

HOLDER = """
import sys
from mlm_pretrain.run import RunDirectory
with RunDirectory(sys.argv[1]).locked():
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_elsewhere(run: RunDirectory) -> Iterator[None]:
    """Another process holds the run."""
    command = [sys.executable, "-c", HOLDER, str(run.root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == "held\n"
        yield
        process.stdin.close()


OTHER = ("training.learning_rate=0.5", "run.seed=9", "publish.hub_model_id=else/where", "training.logging_steps=7")


@pytest.mark.parametrize(
    "call",
    [
        ["run", *OTHER],
        ["tokenizer", "--force", "tokenizer.vocab_size=500"],
        ["prepare", "prepare.deduplicate=true"],
        ["pretrain", *OTHER],
        ["pretrain", "--force", "publish.hub_model_id=else/where"],
        ["evaluate", "--force", "evaluation.fill_mask=['A [MASK] word.']"],
        ["finetune", "--force", "tasks.0.learning_rate=0.25"],
        ["push", "--dry-run", "--repo-id", "else/where"],
        ["report"],
    ],
    ids=lambda call: " ".join(call[:2]),
)
def test_a_verb_that_is_refused_leaves_every_byte(
    call: list[str], run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(run.root)
    verb, *rest = call
    with held_elsewhere(run):
        capsys.readouterr()
        assert main([verb, str(run.root), *rest]) == 2
        said = capsys.readouterr().err
        assert next(line for line in said.splitlines() if line.startswith("error: ")).count("another process is") == 1
        assert contents(run.root) == before
    if verb in ("report", "push"):
        assert main([verb, str(run.root), *rest]) == 0


def test_a_report_on_a_run_that_is_busy_goes_elsewhere(run: RunDirectory, tmp_path: Path) -> None:
    before = contents(run.root)
    with held_elsewhere(run):
        assert main(["report", str(run.root), "--out", str(tmp_path / "now.html")]) == 0
    assert (tmp_path / "now.html").exists()
    assert contents(run.root) == before


def test_a_second_start_with_another_config_changes_nothing_of_the_first(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endless = {"budget": {"steps": ENDLESS}, "save_steps": 10}
    config = tiny_config(corpus, tmp_path, training=endless, publish={"hub_model_id": "first/one"})
    run = RunDirectory.of(config)
    stages.train_tokenizer(config)
    second = tmp_path / "second.yaml"
    second.write_text(config.to_yaml(), encoding="utf-8")
    with launched("none", run) as process:
        wait_for_steps(run, 5, process)
        wait_until(lambda: any(run.checkpoints.glob("step-*")), process)
        written = run.config.read_bytes()
        capsys.readouterr()
        for overrides in (OTHER, ("training.save_steps=3", "publish.hub_model_id=second/one")):
            assert main(["run", str(second), *overrides]) == 2
            assert main(["pretrain", str(second), *overrides]) == 2
        assert run.config.read_bytes() == written
        assert capsys.readouterr().err.count("another process is at work") == 4
        process.terminate()
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 143, said
    # The run goes on by its folder, as it was begun.
    step = max(int(path.name.removeprefix("step-")) for path in run.checkpoints.glob("step-*"))
    assert main(["pretrain", str(run.root), f"training.budget.steps={step + 1}"]) == 0
    assert yaml.safe_load(run.config.read_text())["publish"]["hub_model_id"] == "first/one"


def test_a_task_keeps_the_settings_that_its_results_came_with(run: RunDirectory) -> None:
    config = yaml.safe_load(run.config.read_text())
    old = config["tasks"][0]
    other = {**old, "name": "again", "learning_rate": 2e-3}
    file = run.root.parent / "mine.yaml"
    mine = {**config, "run": {**config["run"], "output_dir": str(run.root.parent)}}
    file.write_text(yaml.safe_dump({**mine, "tasks": [{**old, "learning_rate": 1e-5}, other]}))
    assert main(["finetune", str(file), "--task", "again"]) == 0
    tasks = {task["name"]: task["learning_rate"] for task in yaml.safe_load(run.config.read_text())["tasks"]}
    assert tasks == {"weather": old["learning_rate"], "again": 2e-3}
    assert "1e-05" not in (run.task("weather") / "README.md").read_text()
    file.write_text(yaml.safe_dump({**mine, "tasks": [{**old, "learning_rate": 1e-5}]}))
    assert main(["finetune", str(file)]) == 0
    tasks = {task["name"]: task["learning_rate"] for task in yaml.safe_load(run.config.read_text())["tasks"]}
    assert tasks == {"weather": 1e-5, "again": 2e-3}


def test_what_was_made_before_a_stage_was_begun_again_is_not_scored(
    run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    # A longer budget, that is stopped by a loss above an absurd bound.
    longer = ["training.budget.steps=20", "training.max_loss=0.001"]
    assert main(["pretrain", str(run.root), *longer]) == 2
    capsys.readouterr()
    for call in (["evaluate", str(run.root)], ["finetune", str(run.root)], ["push", str(run.root), "--dry-run"]):
        assert main(call) == 2
        said = capsys.readouterr().err
        assert f"error: {run.model}: was made before pretrain was begun again at" in said
    assert main(["pretrain", str(run.root), "training.max_loss=null"]) == 0
    assert main(["evaluate", str(run.root)]) == 0


def test_a_slip_in_a_tasks_data_changes_nothing_of_the_run(run: RunDirectory) -> None:
    before = contents(run.root)
    assert main(["finetune", str(run.root), "tasks.0.train=not-there.jsonl"]) == 2
    assert main(["finetune", str(run.root), "tasks.0.label_column=no_such_column"]) == 2
    assert contents(run.root) == before


def test_a_task_that_was_begun_again_is_not_sent_with_its_new_settings(
    run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    push = ["push", str(run.root), "--dry-run", "--repo-id", "me/it"]
    assert main(push) == 0
    assert main(["finetune", str(run.root), "tasks.0.learning_rate=1e30"]) == 2
    capsys.readouterr()
    assert main(push) == 2
    assert "was made before finetune weather was begun again at" in capsys.readouterr().err
    assert main(["finetune", str(run.root), "tasks.0.learning_rate=1e-3"]) == 0 and main(push) == 0
