"""What the comparison with Trainer rests on."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from mlm_pretrain.errors import UserError


class _Rounds:
    """Asks for rounds of these seconds, one after another."""

    def __init__(self, *seconds: float) -> None:
        self.results: list[Any] = []
        self._seconds = iter(seconds)

    def next(self, result: Any) -> float | None:
        self.results.append(result)
        return next(self._seconds, None)


def test_the_stopwatch_leaves_out_the_warmup_the_pauses_and_the_step_in_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    from figures import clocks

    now = [0.0]
    monkeypatch.setattr(clocks.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(clocks, "RESUME_STEPS", 1)
    rounds = _Rounds(10.0, 5.0)
    stopwatch = clocks.Stopwatch(rounds, compiled=1.0)
    begun = 0
    while not stopwatch.is_over():
        # The warm-up steps are slow, and have other tokens; so has the step after each pause.
        slow = begun < clocks.WARMUP_STEPS or begun in (clocks.WARMUP_STEPS + 1, clocks.WARMUP_STEPS + 6)
        stopwatch.tick(torch.tensor(1000 if slow else 50))
        begun += 1
        now[0] += 60.0 if slow else 2.5
    # One step as a first look, then 10 s and 5 s.
    assert [(speed.tokens_per_second, speed.step_seconds) for speed in rounds.results] == [(50 / 2.5, 2.5)] * 3
    assert begun == clocks.WARMUP_STEPS + 1 + (1 + 4) + (1 + 2) + 1
    assert rounds.results[0].facts == {"compiled": 1.0}


def test_the_deadline_ends_where_half_a_step_would_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    from figures import clocks

    now = [100.0]
    monkeypatch.setattr(clocks.time, "perf_counter", lambda: now[0])
    deadline = clocks.Deadline(seconds=10.0, began=100.0)
    now[0] += 3.0  # set-up
    steps = 0
    while not deadline.is_over():
        deadline.tick(1)
        now[0] += 2.0
        steps += 1
    assert steps == 3


def test_rows_are_the_documents_end_to_end(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    from figures.trainer import filled_rows

    tokenizer.save_pretrained(tmp_path)
    texts = ["Return the sum of all values.", "Raise an error.", "A list of numbers, or none."] * 20
    whole = [token for text in texts for token in tokenizer(text)["input_ids"]]
    rows = filled_rows(tmp_path, texts, length=16)
    assert rows.shape == (len(whole) // 16, 16)
    assert rows.flatten().tolist() == whole[: rows.size]
    assert (filled_rows(tmp_path, texts, length=16, count=3) == rows[:3]).all()


@pytest.mark.parametrize("enough", [0.0, 0.2, 0.3, 0.6, 0.9])
def test_the_least_share_is_found_in_few_runs(enough: float) -> None:
    from figures.time_to_loss import SHARES, least_share

    tried: list[float] = []

    def reaches(share: float) -> bool:
        tried.append(share)
        return share >= enough

    expected = next((share for share in SHARES if share >= enough), 1.0)
    assert least_share(reaches, SHARES) == expected
    assert tried[0] == 1 / 3
    assert len(tried) <= 3


def test_the_longest_documents_have_the_median() -> None:
    from figures.short_documents import longest

    lengths = [5, 40, 12, 29, 33, 7, 31]
    assert [lengths[place] for place in longest(lengths, 30)] == [40, 12, 29, 33, 31]
    assert longest([50, 60, 70], 30) == [0, 1, 2]
    assert longest([10, 20], 30) == [1]


def test_shares_that_there_is_no_time_for_are_not_tried() -> None:
    from figures.time_to_loss import SHARES, least_share

    assert least_share(lambda share: True, SHARES, lambda share: share >= 1 / 3) == 1 / 3
    assert least_share(lambda share: True, SHARES, lambda share: False) == 1.0


def test_ratios_are_of_the_same_round_and_to_the_best() -> None:
    from figures.loops import median_ratio

    assert median_ratio([4.0, 9.0, 30.0], [2.0, 1.0, 5.0]) == 6.0
    assert median_ratio([4.0, 9.0, 30.0], [2.0, 1.0, 5.0], [4.0, 3.0, 15.0]) == 2.0


def test_every_figure_is_there_and_says_what_it_is() -> None:
    import bench

    for name in bench.FIGURES:
        figure = bench.load_figure(name)
        assert figure.__name__ == name
        assert inspect.getdoc(figure) == bench.about(name)
        assert bench.about(name)


def test_labelled_sets_are_found_by_their_files(tmp_path: Path) -> None:
    from figures.labelled import labelled_sets

    for name in (
        "a/train_small.jsonl",
        "a/test.jsonl",
        "b/train.conll",
        "b/val.conll",
        "b/test.conll",
        "c/train.jsonl",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = {task.name: task for task in labelled_sets(tmp_path)}
    assert {name: task.task for name, task in found.items()} == {"a": "classification", "b": "ner"}
    assert found["a"].validation is None
    assert found["b"].validation == str(tmp_path / "b" / "val.conll")
    with pytest.raises(UserError, match="has no folder with train"):
        labelled_sets(tmp_path / "c")


def test_sets_that_there_is_no_time_for_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from figures.labelled import sets_in_time

    for name in "abcde":
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.jsonl").touch()
        (tmp_path / name / "test.jsonl").touch()

    def chosen(minutes: float) -> list[str]:
        bench = cast(Any, SimpleNamespace(data=tmp_path, minutes=minutes))
        return [task.name for task in sets_in_time(bench)]

    assert (chosen(0.1), chosen(3.9), chosen(5)) == (["a", "b"], ["a", "b", "c"], list("abcde"))
    said = capsys.readouterr().err
    assert "no time for c, d, e: --minutes 5 measures all sets" in said and said.count("no time for") == 2


def test_the_peer_labels_the_first_token_of_a_word_and_scores_entities(tokenizer: PreTrainedTokenizerFast) -> None:
    import numpy as np
    from figures.task_peer import _entity_f1, _words

    labels = ["O", "B-x", "I-x"]
    example = {"tokens": ["zipfile", "members", "of"], "tags": ["B-x", "I-x", "O"]}
    (row,) = _words([example], tokenizer, labels, 32)
    kept = [label for label in row["labels"] if label != -100]
    assert kept == [1, 2, 0]
    assert len(row["labels"]) == len(row["input_ids"]) > 5  # a word of several tokens
    right = np.eye(3)[[max(label, 0) for label in row["labels"]]]
    assert _entity_f1(right[None], [row["labels"]], labels) == 1.0
    assert _entity_f1(np.zeros_like(right)[None], [row["labels"]], labels) == 0.0
