"""The time that a figure may take, under a clock of the tests' own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bench.py"


class Clock:
    """Goes on only when something is done."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

    def work(self, seconds: float) -> Callable[[int], float]:
        """A system whose every round takes so long."""

        def system(number: int) -> float:
            self.seconds += seconds
            return 10.0 * number + seconds

        return system


@pytest.mark.parametrize(
    ("preparing", "rounds"),
    [(0.0, 7), (49.0, 3), (75.0, 1), (99.0, 1), (500.0, 1)],  # a round of 13 s
)
def test_rounds_are_as_many_as_fit_into_what_preparation_has_left_but_one_at_least(
    preparing: float, rounds: int
) -> None:
    from figures.budget import Budget

    clock = Clock()
    budget = Budget(100.0, clock)
    clock.seconds += preparing
    found = budget.in_turn({"ours": clock.work(5.0), "theirs": clock.work(8.0)})
    assert found == {
        "ours": [10.0 * number + 5.0 for number in range(rounds)],
        "theirs": [10.0 * number + 8.0 for number in range(rounds)],
    }
    assert budget.rounds == rounds
    assert rounds == 1 or budget.elapsed() <= budget.seconds


def test_a_round_that_may_be_as_long_as_the_longest_is_not_begun() -> None:
    from figures.budget import Budget

    clock = Clock()
    lengths = iter([20.0, 50.0, 5.0, 5.0])

    def uneven(number: int) -> float:
        clock.seconds += next(lengths)
        return clock.seconds

    assert Budget(119.0, clock).in_turn({"one": uneven}) == {"one": [20.0, 70.0]}


@pytest.mark.parametrize(("left", "idle"), [(100.0, 6.0), (30.0, 2.0), (60.0, 0.0)])
def test_so_many_rounds_fit_as_windows_are_made_for(left: float, idle: float) -> None:
    from figures.budget import ROUNDS, Budget

    clock = Clock()
    budget = Budget(left, clock)
    seconds = budget.window(2, idle)
    assert (
        len(budget.in_turn({"a": clock.work(seconds + idle / 2), "b": clock.work(seconds + idle / 2)})["a"]) == ROUNDS
    )


def test_windows_are_neither_so_short_that_they_say_nothing_nor_endless() -> None:
    from figures.budget import LEAST_SECONDS, MOST_SECONDS, Budget

    assert Budget(0.0, Clock()).window(5) == LEAST_SECONDS
    assert Budget(1e6, Clock()).window(5) == MOST_SECONDS


def test_the_table_says_what_the_time_went_into() -> None:
    from figures.budget import Budget

    clock = Clock()
    budget = Budget(10.0, clock)
    with budget.spending("preparing"):
        clock.seconds += 4.0
    clock.seconds += 1.0
    budget.in_turn({"ours": clock.work(2.0)})
    assert [line.split() for line in budget.table().splitlines()[2:]] == [
        ["preparing", "4.0", "1"],
        ["rounds:", "ours", "4.0", "2"],
        ["everything", "else", "1.0"],
        ["together", "9.0"],
    ]
    assert budget.left() == 1.0


def test_what_is_kept_is_made_once_and_again_when_what_it_depends_on_changes(tmp_path: Path) -> None:
    from figures.budget import Budget
    from figures.setting import Bench, open_work

    made: list[int] = []

    def make(folder: Path) -> None:
        folder.mkdir()
        made.append(len(made))
        (folder / "number").write_text(str(len(made)))

    def number(**depends: Any) -> str:
        bench = Bench(Budget(1.0), tmp_path / "own", open_work(tmp_path / "work"))
        return (bench.kept("thing", depends, make) / "number").read_text()

    assert [number(size=1), number(size=1), number(size=2), number(size=1)] == ["1", "1", "2", "1"]


def test_what_failed_is_not_kept(tmp_path: Path) -> None:
    from figures.budget import Budget
    from figures.setting import Bench, open_work

    def fail(folder: Path) -> None:
        folder.mkdir()
        raise KeyError

    work = open_work(tmp_path / "work")
    with pytest.raises(KeyError):
        Bench(Budget(1.0), tmp_path, work).kept("thing", {}, fail)
    assert [folder.name.rpartition("-")[0] for folder in work.iterdir()] == ["bench-compiled"]


def test_what_is_not_used_for_long_is_deleted_and_nothing_else(tmp_path: Path) -> None:
    from figures.budget import Budget
    from figures.setting import UNUSED_DAYS, Bench, open_work

    work = open_work(tmp_path)
    bench = Bench(Budget(1.0), tmp_path, work)
    old, new = (bench.kept("thing", {"number": number}, Path.mkdir) for number in range(2))
    theirs = tmp_path / "of-the-user"
    theirs.mkdir()
    long_ago = time.time() - 86400 * (UNUSED_DAYS + 1)
    for folder in (old, theirs):
        os.utime(folder, (long_ago, long_ago))
    open_work(tmp_path)
    assert (old.exists(), new.exists(), theirs.exists()) == (False, True, True)


def test_a_session_works_when_it_is_asked_to_and_says_why_it_ends(here: None) -> None:
    from figures.session import Session

    from mlm_pretrain.errors import UserError

    with Session(_double, 7.0) as session:
        assert session.first == 7.0
        assert [session(1.0), session(3.0)] == [2.0, 6.0]
        with pytest.raises(UserError, match="too long"):
            session(100.0)
    with pytest.raises(UserError, match="at once"):
        Session(_refuse)


def _double(rounds: Any, first: float) -> None:
    from mlm_pretrain.errors import UserError

    result = first
    while (seconds := rounds.next(result)) is not None:
        if seconds > 10:
            raise UserError("too long")
        result = 2 * seconds


def _refuse(rounds: Any) -> None:
    from mlm_pretrain.errors import UserError

    raise UserError("at once")


def test_help_names_every_figure_and_about_says_what_it_measures() -> None:
    import bench

    said = subprocess.run([sys.executable, SCRIPT, "--help"], capture_output=True, text=True, check=True).stdout
    assert all(f"  {name} " in said for name in bench.FIGURES)
    about = subprocess.run([sys.executable, SCRIPT, "order", "--about"], capture_output=True, text=True, check=True)
    assert "SHA-256" in about.stdout


def test_numbers_are_written_with_commit_machine_and_versions(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import bench

    monkeypatch.setattr(bench, "load_figure", lambda name: lambda setting: {"ratio": 1.5})
    arguments = ["bench.py", "order", "packing", "--minutes", "4", "--work", str(tmp_path), "--json"]
    monkeypatch.setattr(sys, "argv", [*arguments, str(tmp_path / "out.json")])
    bench.main()
    written = json.loads((tmp_path / "out.json").read_text())
    assert (written["order.ratio"], written["packing.ratio"], written["minutes"]) == (1.5, 1.5, 4.0)
    assert {"commit", "processor", "cores", "device", "torch"} <= set(written["machine"])
    assert "time went into" in capsys.readouterr().out
