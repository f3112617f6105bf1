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
        *("t", "f1", "–", "0.500", "±", "–", "–", "0.250"),
    ]
    assert "b (–)" in said and "nan" not in said


def test_an_encoder_that_a_bag_of_words_beats_is_named(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    points = [{"fraction": share, "examples": 8, "pretrained": share, "bag_of_words": 0.625} for share in (0.5, 1.0)]
    tasks = {
        "ahead": {"metric": "f1", "pretrained": 0.75, "bag_of_words": 0.625, "learning_curve": points},
        "beaten": {"metric": "accuracy", "pretrained": 0.5, "bag_of_words": 0.625, "majority": 0.25},
        "without": {"metric": "f1", "pretrained": 0.1},
    }
    write_json(run.results, {"tasks": tasks})
    lines = summary(run).split("\n")
    header = next(line for line in lines if line.startswith("task "))
    beaten = next(line for line in lines if line.startswith("beaten "))
    assert beaten[header.index("bag of words") :].split() == ["0.625", "0.250"]
    assert [line for line in lines if "behind" in line] == [
        "beaten is behind a bag of words: accuracy 0.500 against 0.625"
    ]
    assert next(line for line in lines if line.startswith("50%")).split() == ["50%", "8", "0.500", "–", "0.625"]
