"""What only a CUDA device can show."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mlm_pretrain import stages
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.training.loop import Pretraining
from tests.conftest import tiny_config

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("precision", [{"bf16": True}, {"bf16": False, "fp16": True}, {"bf16": False}])
def test_pretraining_learns_resumes_and_exports(precision: dict[str, bool], corpus: Path, tmp_path: Path) -> None:
    config = tiny_config(corpus, tmp_path, training={**precision, "budget": {"steps": 20}, "save_steps": 10})
    stages.train_tokenizer(config)
    run = RunDirectory.of(config)
    whole = Pretraining(config, run)
    whole.train()
    losses = [json.loads(line)["loss"] for line in run.metrics.read_text(encoding="utf-8").splitlines()]
    assert losses[-1] < losses[0]
    # Taken up again behind step 10, the losses are the same.
    for file in run.checkpoint(20).iterdir():
        file.unlink()
    resumed = Pretraining(config, run)
    assert resumed.progress.step == 10
    resumed.train()
    again = [json.loads(line)["loss"] for line in run.metrics.read_text(encoding="utf-8").splitlines()]
    assert again == pytest.approx(losses, rel=1e-2)
    resumed.export()
    assert stages.evaluate(config)["loss"] > 0
