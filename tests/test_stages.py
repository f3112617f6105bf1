"""The stages on a small real corpus, and what a user sees when something is wrong."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from mlm_pretrain import cli, stages
from mlm_pretrain.config import Config, SourceConfig, TextConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.hardware.device import make_accelerator
from mlm_pretrain.run import BESIDE, RunDirectory
from mlm_pretrain.text.mixture import survey
from mlm_pretrain.training.loop import Pretraining
from tests.conftest import tiny_config


@pytest.fixture(scope="module")
def finished(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    config = tiny_config(
        corpus, tmp_path_factory.mktemp("finished"), evaluation={"fill_mask": ["Return the [MASK] of the list."]}
    )
    stages.run_all(config)
    return config


def test_a_run_leaves_what_the_next_one_needs(finished: Config) -> None:
    run = RunDirectory.of(finished)
    results = json.loads(run.results.read_text(encoding="utf-8"))
    assert results["heldout"]["perplexity"] == pytest.approx(math.exp(results["heldout"]["loss"]))
    assert 0 <= results["heldout"]["accuracy"] <= results["heldout"]["top5_accuracy"] <= 1
    assert sum(part["masked_tokens"] for part in results["heldout"]["by_source"].values()) > 0
    assert set(results["seconds"]) == {"tokenizer", "pretrain", "evaluate", BESIDE}
    assert len(results["fill_mask"][0]["predictions"]) == 3
    assert run.card.exists()
    tokenizer = AutoTokenizer.from_pretrained(run.model)
    model = AutoModelForMaskedLM.from_pretrained(run.model)
    assert model.dtype == torch.float32
    assert model(**tokenizer("a [MASK]", return_tensors="pt")).logits.shape[-1] == len(tokenizer)


def test_what_stands_is_skipped_and_what_changed_is_not(
    finished: Config, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    copy = tmp_path / "tiny"
    shutil.copytree(RunDirectory.of(finished).root, copy)
    config = finished.model_copy(update={"run": finished.run.model_copy(update={"output_dir": str(tmp_path)})})
    capsys.readouterr()
    stages.run_all(config)
    said = capsys.readouterr().err
    for stage in ("tokenizer", "pretrain", "evaluate"):
        assert f"{stage}: up to date, skipped" in said
    changed = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"fill_mask": []})})
    stages.run_all(changed)
    said = capsys.readouterr().err
    assert "pretrain: up to date, skipped" in said
    assert "evaluate: up to date, skipped" not in said


def test_the_held_out_loss_does_not_depend_on_the_batch_size(finished: Config) -> None:
    from mlm_pretrain.evaluation.masked_lm import evaluate

    figures = []
    for size in (1, 7, 64):
        training = finished.training.model_copy(update={"per_device_eval_batch_size": size})
        config = finished.model_copy(update={"training": training})
        figures.append(evaluate(config, RunDirectory.of(config))["heldout"])
    assert figures[0]["loss"] == pytest.approx(figures[1]["loss"], rel=1e-5)
    assert figures[0]["loss"] == pytest.approx(figures[2]["loss"], rel=1e-5)
    assert figures[0]["masked_tokens"] == figures[2]["masked_tokens"]


def test_the_export_has_the_logits_that_training_saw(finished: Config) -> None:
    run = RunDirectory.of(finished)
    trainer = Pretraining(finished, run)  # from its last checkpoint
    exported = AutoModelForMaskedLM.from_pretrained(run.model).eval()
    ids = torch.randint(5, 500, (2, 20))
    with torch.inference_mode():
        seen = trainer.model.eval()(input_ids=ids).logits
        torch.testing.assert_close(exported(input_ids=ids).logits, seen, rtol=0, atol=0)
    assert not exported.base_model._forward_hooks


@pytest.mark.parametrize("budget", [{"tokens": 3000}, {"minutes": 0.05}], ids=["tokens", "minutes"])
def test_a_budget_ends_where_it_says(budget: dict[str, float], corpus: Path, tmp_path: Path) -> None:
    config = tiny_config(corpus, tmp_path, training={"budget": budget})
    stages.train_tokenizer(config)
    trainer = Pretraining(config, RunDirectory.of(config))
    trainer.train()
    figures = trainer.figures()
    if "tokens" in budget:
        assert 3000 <= figures["tokens"] < 3000 + 8 * 48
    else:
        assert 2.5 < figures["seconds"] < 4.5


def test_a_schedule_of_the_mask_rate_and_gradient_checkpointing_train(corpus: Path, tmp_path: Path) -> None:
    config = tiny_config(
        corpus,
        tmp_path,
        objective={"mlm_probability": {"start": 0.3, "end": 0.15, "steps": 6}, "mask_count": "exact"},
        training={"gradient_checkpointing": True, "eval_steps": 4, "report_to": ["tensorboard"]},
    )
    run = RunDirectory.of(config)
    stages.pretrain(config)
    records = [json.loads(line) for line in run.metrics.read_text(encoding="utf-8").splitlines()]
    assert [record["step"] for record in records if "heldout_loss" in record] == [4, 8]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(next(run.trackers.rglob("events*")).parent))
    events.Reload()
    logged = [event.value for event in events.Scalars("loss")]
    assert logged == pytest.approx([record["loss"] for record in records if "loss" in record])


def test_mixed_precision_is_what_was_asked_for() -> None:
    from mlm_pretrain.config import OptimizerSection

    assert make_accelerator(OptimizerSection(bf16=True)).mixed_precision == "bf16"
    assert make_accelerator(OptimizerSection(bf16=False)).mixed_precision == "no"
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="fp16: needs a GPU"):
            make_accelerator(OptimizerSection(fp16=True, bf16=False))


def _run_cli(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    capsys.readouterr()
    status = cli.main(arguments)
    return status, capsys.readouterr().err


def test_bad_input_is_one_line_and_exit_code_two(
    finished: Config, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(tiny_config(corpus, tmp_path).to_yaml(), encoding="utf-8")
    (tmp_path / "empty.jsonl").touch()
    run = RunDirectory.of(finished)
    broken = tmp_path / "broken"
    shutil.copytree(run.root, broken)
    (broken / "model" / "model.safetensors").write_bytes(b"nonsense")
    for arguments, said in (
        (["run", str(tmp_path / "absent.yaml")], "no such config"),
        (["pretrain", str(path), "training.learning_rat=1"], "did you mean 'learning_rate'"),
        (["tokenizer", str(path), "text.sources.0.path=/no/such/folder"], "/no/such/folder"),
        (["tokenizer", str(path), f"text.sources.0.path={tmp_path / 'empty.jsonl'}"], "empty"),
        (["tokenizer", str(path), "text.sources.0.text_column=body"], "body"),
        (["tokenizer", str(path), "text.sources.0.source=file"], "did you mean 'files'"),
        (["tokenizer", str(path), "tokenizer.path=/no/tokenizer"], "/no/tokenizer"),
        (["pretrain", str(path), "model.path=/no/model"], "/no/model"),
        (["pretrain", str(path), "training.optim=adamv"], "did you mean 'adamw'"),
        (["pretrain", str(path), "run.name=b", "training.lr_scheduler_type=cosin"], "did you mean 'cosine'"),
        (["pretrain", str(path), "run.name=c", "objective.name=clm"], "did you mean 'mlm'"),
        (["pretrain", str(path), "run.name=d", "training.report_to=[tensorbored]"], "training.report_to"),
        (["pretrain", str(path), "run.name=e", "training.report_to=[dvclive]"], "pip install dvclive"),
        (["evaluate", str(path)], "no model"),
        (["evaluate", str(broken), "--force"], "damaged"),
        (["finetune", str(run.root)], "names no task"),
        (["finetune", str(run.root), "tasks=[{task: ner, name: a, train: x}]", "--task", "b"], "no task is named 'b'"),
        (["push", str(run.root), "--dry-run"], "hub_model_id"),
    ):
        status, printed = _run_cli(capsys, *arguments)
        lines = [line for line in printed.splitlines() if line.startswith("error: ")]
        assert status == 2, (arguments, printed)
        assert len(lines) == 1, (arguments, printed)
        assert said in lines[0], (arguments, lines)
        assert "Traceback" not in printed


def test_config_show_resolves(config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml(), encoding="utf-8")
    assert cli.main(["config", "show", str(path), "training.weight_decay=0.1"]) == 0
    assert "weight_decay: 0.1" in capsys.readouterr().out


def test_the_plan_of_a_finished_run_stands_beside_what_happened(
    finished: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    root = str(RunDirectory.of(finished).root)
    assert cli.main(["plan", root]) == 0
    said = capsys.readouterr().out
    assert "this run's own, over 8 steps" in said
    assert "happened" in said
    assert cli.main(["plan", root, "--json"]) == 0
    assert {what for what, _, _ in json.loads(capsys.readouterr().out)["comparison"]} > {"steps", "tokens", "seconds"}
    assert cli.main(["plan", root, "--json", "training.bf16=true", "--gpus", "8", "--gpu", "h100-sxm"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["machine"]["count"] == 8
    assert figures["comparison"] == []
    assert _run_cli(capsys, "plan", root, "--gpu", "h1")[0] == 2


def test_a_refused_change_leaves_config_and_tokenizer_as_they_were(corpus: Path, tmp_path: Path) -> None:
    config = tiny_config(corpus, tmp_path)
    run = RunDirectory.of(config)
    stages.pretrain(config)
    before = {path: path.read_bytes() for path in (run.config, run.validation, run.tokenizer / "tokenizer.json")}
    for section in ({"tokenizer": {"vocab_size": 500}}, {"training": {"learning_rate": 1e-4}}):
        name, values = next(iter(section.items()))
        changed = Config.model_validate({**config.model_dump(), name: {**config.model_dump()[name], **values}})
        with pytest.raises(UserError, match=f"{name}.{next(iter(values))} was"):
            stages.pretrain(changed)
    assert {path: path.read_bytes() for path in before} == before


def test_held_out_text_may_hold_any_line_break(tmp_path: Path) -> None:
    lines = [f"line {number}\u2028of a document\u0085with breaks\x0b of every kind" for number in range(300)]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines), encoding="utf-8")
    config = tiny_config(tmp_path / "text.jsonl", tmp_path, training={"budget": {"steps": 2}, "eval_steps": 1})
    stages.pretrain(config)
    assert stages.evaluate(config)["documents"] > 10


def test_many_small_files_are_all_read(tmp_path: Path) -> None:
    for number in range(150):
        (tmp_path / f"{number}.txt").write_text(f"file number {number} has a text of its own\n", encoding="utf-8")
    source = SourceConfig(source="files", path=str(tmp_path), document="file")
    seen = survey(TextConfig(sources=[source], validation_fraction=0.1), sample_bytes=1_000_000)
    (record,) = seen.sources.values()
    assert record["documents"] + record["held_out"] == 150
    assert record["complete"]
    assert len(seen.sample) == record["documents"]
    assert len(seen.validation) == record["held_out"] > 0


def test_weights_that_are_not_finite_are_never_saved(corpus: Path, tmp_path: Path) -> None:
    config = tiny_config(corpus, tmp_path, training={"logging_steps": 100, "save_steps": 4})
    stages.train_tokenizer(config)
    trainer = Pretraining(config, RunDirectory.of(config))

    def ruin(step: int, batch: object) -> None:
        if step == 5:
            next(trainer.model.parameters()).data.fill_(float("nan"))

    with pytest.raises(UserError, match=r"not finite .* at step 6 \(rows 40–47 of the run, of "):
        trainer.train(on_batch=ruin)
    assert [path.name for path in trainer.run.checkpoints.iterdir()] == ["step-00000004"]
