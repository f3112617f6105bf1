"""The end of a command, from whatever the records hold."""

from __future__ import annotations

from pathlib import Path

from mlm_pretrain.io.whole import write_json
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.summary import summary


def test_numbers_that_were_not_finite_are_dashes(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    nothing = float("nan")
    heldout = {"loss": nothing, "perplexity": nothing, "accuracy": 0.5, "masked_tokens": 12}
    scores = {"pretrained": nothing, "pretrained_std": nothing, "pretrained_seeds": [nothing, 0.5], "majority": 0.25}
    odd = {"metric": "f1", "scratch": 0.5, "scratch_std": nothing, "scratch_seeds": [0.5, nothing], **scores}
    guess = {"text": "a [MASK]\x1b[2J", "predictions": [{"token": "b", "score": nothing}]}
    write_json(run.results, {"heldout": heldout, "tasks": {"t": odd}, "fill_mask": [guess]})
    said = summary(run)
    assert "loss –, perplexity –, accuracy 0.500 on 12 tokens" in said
    assert next(part for part in said.split("\n") if part.startswith("t ")).split() == [
        *("t", "f1", "–", "0.500", "±", "–", "0.250"),
    ]
    assert "b (–)" in said and "nan" not in said
