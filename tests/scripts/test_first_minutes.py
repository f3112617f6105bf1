"""What the README's first figures are made of."""

from __future__ import annotations

import pytest


def _results(pretrained: float, bag: float | None) -> dict[str, object]:
    bags = {} if bag is None else {"bag_of_words": bag, "bag_of_words_std": 0.0}
    task = {"metric": "f1", "pretrained": pretrained, "scratch": 0.5, "majority": 0.2, "labels": ["a", "b"], **bags}
    return {
        "seconds": {"pretrain": 60.0},
        "pretraining": {"steps": 10, "tokens": 1000, "parameters": 5},
        "heldout": {"loss": 4.0},
        "fill_mask": [{"text": "a [MASK].", "predictions": [{"token": "b", "score": 0.5}]}],
        "tasks": {"names": task},
    }


def test_the_lead_is_the_smallest_over_the_runs_and_to_the_best_of_the_others() -> None:
    import first_minutes

    runs = [first_minutes.facts_of(_results(*each)) for each in ((0.7, 0.6), (0.9, 0.4), (0.8, 0.72))]
    row = first_minutes.over_seeds(runs)["names"]
    assert row["lead"] == pytest.approx(0.08)
    assert (row["pretrained"], row["pretrained_std"]) == pytest.approx((0.8, 0.1))
    assert (row["scratch"], row["majority"]) == pytest.approx((0.5, 0.2))
    assert first_minutes.table({"names": row}).splitlines()[-1].endswith("+8.0 points")


def test_what_a_run_does_not_have_is_left_out() -> None:
    import first_minutes

    facts = first_minutes.facts_of(_results(0.45, None))
    assert (facts["heldout_loss"], facts["fill_mask"]) == (4.0, {"a [MASK].": ["b"]})
    row = first_minutes.over_seeds([facts])["names"]
    assert row == {"pretrained": 0.45, "scratch": 0.5, "majority": 0.2, "lead": pytest.approx(-0.05)}
    assert "-5.0 points" in first_minutes.table({"names": row})
