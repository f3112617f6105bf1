from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread
from transformers import PreTrainedTokenizerFast

from mlm_pretrain import plan as plans
from mlm_pretrain.cli import main
from mlm_pretrain.config_file import load_config
from mlm_pretrain.errors import UserError
from mlm_pretrain.io.whole import write_json
from mlm_pretrain.report.curves import draw_curves
from mlm_pretrain.report.mistakes import classes_of, confusion_of, read_mistakes
from mlm_pretrain.report.page import write_report
from mlm_pretrain.report.plots import Gallery
from mlm_pretrain.report.runs import curve, read_runs
from mlm_pretrain.report.tables import differences
from mlm_pretrain.report.task_plots import histories
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.tasks.kinds.ner import TokenClassification
from mlm_pretrain.tasks.scores.metrics import ClassificationMetric
from tests.miniature import RESULTS
from tests.report.pages import TASKS, Page, make_run, read_page, steps, write_lines

HOSTILE = "</td><script>hacked=1</script><img src=http://x.test/ onerror='hacked=1'> ]]> --> $\\x$ & \"quoted\""
# It is a file's name too.
HOSTILE_TASK = HOSTILE.replace("/", "")


# -- one run ------------------------------------------------------------------------------------------------------


def test_a_page_of_a_whole_run(copy_run: Callable[[], RunDirectory]) -> None:
    run = copy_run()
    held_out = [{"step": step, "tokens": 4000 * step, "heldout_loss": 6.5, "heldout_accuracy": 0.2} for step in (4, 8)]
    write_lines(run.metrics, [*steps(4), *held_out], ending='{"step": 10, "lo')
    run.record({"tasks": TASKS})
    write_lines(
        run.task_errors("topic"), [{"place": "f:1", "text": "so so", "label": "good", "predicted": "bad", "score": 0.9}]
    )
    assert write_report([run.root]) == run.root / "report.html"
    page = read_page(run.root / "report.html")
    for shown in ("3.217", "24.9", "41.3 %", "4.81 M", "2.4 M", "1,203", "0.750 ± 0.050", "0.500 ± 0.000", "0.250"):
        assert shown in page.words
    assert "topic is behind a bag of words: accuracy 0.750 against 0.812." in page.words
    for shown in ("vocabulary 27", "seed 3", "training", "held-out", "0.0001 3 0.61", "0.001 6 0.83 ★", "torch 2.13.0"):
        assert shown in page.words
    assert "not recorded: model FLOPs utilisation." in page.words
    # The confusion matrix of four and four, of which one was wrong.
    assert "bad good bad 4 good 1 3" in page.words
    pictures = sorted(path.stem for path in (run.root / "report").iterdir())
    assert {"loss-by-tokens", "loss-by-minutes", "fill-by-tokens", "tasks", "mini-topic-learning-curve"} < set(pictures)
    assert page.elements["svg"] == len(pictures) - 1  # the confusion matrix is a table
    for name in pictures:
        image = imread(run.root / "report" / f"{name}.png")
        assert min(image.shape[:2]) > 150 and image[..., :3].std() > 0.01
    # Nothing tells on whose machine it was made.
    assert "somebody" not in page.text and str(run.root.parent) not in page.text


def test_what_was_not_recorded_is_said(tmp_path: Path) -> None:
    run = make_run(tmp_path / "bare", text={"sources": [{"source": "files", "path": str(tmp_path / "gone.txt")}]})
    page = read_page(write_report([run.root]))
    said = re.findall(r"[^.]*not recorded[^.]*", page.words)
    assert len(said) >= 9
    assert page.elements["svg"] == 0
    run.record({"pretraining": {"steps": 10, "tokens": 4000, "tokens_per_second": 8.5}})
    page = read_page(write_report([run.root]))
    assert "The plan can't be made here" in page.words and str(tmp_path) not in page.text
    assert "perplexity not recorded" in page.words


def test_numbers_that_are_none(tmp_path: Path) -> None:
    run = make_run(tmp_path / "odd")
    records = steps(6)
    records[2] |= {"loss": float("nan"), "grad_norm": float("inf"), "mfu": None, "accuracy": True}
    write_lines(run.metrics, [*records, {"step": None}, {"loss": 1}], ending='\n{"step": 99, "loss"')
    (read,) = read_runs([run.root])
    assert [record["step"] for record in read.training] == [2, 4, 6, 8, 10, 12]
    assert [len(found.x) for key in ("loss", "grad_norm") if (found := curve(read.training, "tokens", key, 9))] == [
        5,
        5,
    ]
    assert curve(read.training, "tokens", "mfu", 9) is None
    text = json.dumps({"tasks": TASKS, "heldout": RESULTS["heldout"], "pretraining": RESULTS["pretraining"]})
    run.results.write_text(re.sub(r'(?<!"fraction": )(?<!"epoch": )\b\d+\.\d+', "NaN", text), encoding="utf-8")
    assert "held-out loss not recorded" in read_page(write_report([run.root])).words


def test_fill_follows_from_tokens_and_rows(tmp_path: Path) -> None:
    training = {"global_batch_size": {0: 10, 4: 20}}
    run = make_run(tmp_path / "filled", stream={"sequence_length": 100}, training=training)
    write_lines(run.metrics, [{"step": 2, "tokens": 1500}, {"step": 6, "tokens": 7500}, {"step": 8, "tokens": 11500}])
    (read,) = read_runs([run.root])
    assert [record["fill"] for record in read.training] == [1500 / 2000, 6000 / 6000, 4000 / 4000]


def test_a_plan_stands_beside_what_happened(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("a line of text\n" * 50, encoding="utf-8")
    sources = [{"source": "files", "path": str(tmp_path / "text.txt")}]
    results = {"pretraining": RESULTS["pretraining"]}
    run = make_run(
        tmp_path / "planned",
        results,
        text={"sources": sources},
        tokenizer={"vocab_size": 300},
        model={"preset": "nano"},
        training={"budget": {"steps": 77}},
    )
    page = read_page(write_report([run.root]))
    plan = plans.plan(load_config(run.root), own_utilisation=False)
    rows = plans.compare(plan, run.read_results())
    assert [what for what, *_ in rows] == ["parameters", "steps", "tokens", "seconds", "tokens_per_second"]
    assert f"parameters {plan.parameters.total:,} 4,812,345" in page.words
    assert "steps 77.000 1,203" in page.words
    assert f"assumed utilisation of {plans.ASSUMED_UTILISATION:.0%}" in page.words


# -- hostile text -------------------------------------------------------------------------------------------------


def hostile_run(root: Path) -> RunDirectory:
    """A run whose records hold markup wherever text may stand."""
    task = {**TASKS["topic"], "metric": "accuracy"}
    task["details"] = {
        "accuracy": 0.5,
        HOSTILE: 0.1,
        "by_class": {HOSTILE: {"support": 2.0}, "plain": {"support": 2.0}},
    }
    results = {
        "tasks": {HOSTILE_TASK: task},
        "fill_mask": [{"text": HOSTILE, "predictions": [{"token": HOSTILE, "score": 0.5}]}],
        "pretraining": {"steps": 1, "device": HOSTILE, "sources": {HOSTILE: {"documents": 1, "dropped": {HOSTILE: 2}}}},
        "versions": {"torch": HOSTILE},
        "seconds": {HOSTILE: 1.0},
    }
    run = make_run(root, results, publish={"description": HOSTILE})
    write_json(run.tokenizer_report, {"vocab_size": 3, "longest_tokens": [HOSTILE]})
    write_json(run.end, {"stage": HOSTILE, "reason": HOSTILE})
    write_lines(run.metrics, steps(3))
    entity = {"place": HOSTILE, "kind": "missed", "type": HOSTILE, "text": HOSTILE, "context": f"x {HOSTILE} y"}
    write_lines(
        run.task_errors(HOSTILE_TASK),
        [entity, {"text": HOSTILE, "label": HOSTILE, "predicted": "plain", "score": 0.5}],
    )
    return run


def test_hostile_text_is_shown_and_is_no_markup(tmp_path: Path) -> None:
    run = hostile_run(tmp_path / "hostile")
    page = read_page(write_report([run.root]))
    # As far as it isn't taken for a path, of which the last part is shown.
    assert page.text.count("onerror='hacked=1'> ]]> --> $\\x$ & \"quoted\"") >= 18
    assert all(path.parent == run.root / "report" for path in (run.root / "report").rglob("*"))


def test_hostile_names_in_a_figure(tmp_path: Path) -> None:
    def fill(drawn: Any) -> None:
        drawn.add_subplot().plot([1, 2], label=HOSTILE)
        drawn.axes[0].set_title(HOSTILE)
        drawn.legend()

    svg = Gallery(tmp_path).draw(HOSTILE, HOSTILE, fill)
    page = Page(str(svg))
    assert "script" not in page.elements and page.text.count(HOSTILE) == 2
    assert ("aria-label", HOSTILE) in page.attributes
    assert [path.parent for path in tmp_path.iterdir()] == [tmp_path]


@pytest.mark.parametrize(("first", "figures"), [(0.5, ["loss", "validation"]), (None, ["loss"])])
def test_a_curve_of_validation_is_drawn_where_there_is_one(
    first: float | None, figures: list[str], tmp_path: Path
) -> None:
    run = [{"epoch": 1.0, "loss": 2.0, "validation": first}, {"epoch": 2.0, "loss": 1.0, "validation": 0.8}]
    histories(Gallery(tmp_path), "t", {"metric": "f1"}, [run, run])
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"t-{figure}.png" for figure in figures]


# -- curves -------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300), st.integers(1, 50))
def test_thinned_curves_keep_what_they_gather(values: list[float], most: int) -> None:
    found = curve([{"x": float(place), "y": value} for place, value in enumerate(values)], "x", "y", most)
    assert found is not None and found.records == len(values)
    assert len(found.x) <= most and found.is_thinned == (len(values) > len(found.x))
    assert found.x == sorted(found.x)
    assert min(found.low) == min(values) and max(found.high) == max(values)
    for low, mean, high in zip(found.low, found.y, found.high, strict=True):
        assert low - 1e-6 <= mean <= high + 1e-6
    if len(values) <= most:
        assert found.y == values == found.low == found.high
    elif len(values) % len(found.x) == 0 and len({*found.x}) == len(values) // (len(values) // len(found.x)):
        assert sum(found.y) / len(found.y) == pytest.approx(sum(values) / len(values), abs=1e-3)


def test_long_records_make_a_small_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "long")
    kept = ("step", "tokens", "grad_norm")
    records = [{key: record[key] for key in kept} for record in steps(100_000)]
    records[77_777]["grad_norm"] = 987.0
    write_lines(run.metrics, records, ending='{"step": 200002, "lo')
    page = write_report([run.root])
    assert page.stat().st_size < 1e6
    assert "100,000 records are drawn as the means of 400 groups of neighbours" in read_page(page).words
    (read,) = read_runs([run.root])
    found = curve(read.training, "tokens", "grad_norm", 400)
    assert found is not None and max(found.high) == 987.0


def test_equal_records_give_equal_figures(tmp_path: Path) -> None:
    run = make_run(tmp_path / "same")
    write_lines(run.metrics, [{key: record[key] for key in ("step", "tokens", "loss")} for record in steps(5)])
    first, second = (draw_curves(read_runs([run.root]), Gallery(tmp_path / name)) for name in ("a", "b"))
    assert first.figures == second.figures and len(first.figures) == 2
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


# -- several runs -------------------------------------------------------------------------------------------------


def test_runs_beside_each_other(tmp_path: Path) -> None:
    task = {"task": "classification", "name": "topic", "train": "a.csv"}
    source = {"source": "files", "path": "a.txt"}
    first = make_run(tmp_path / "a" / "one", {"tasks": TASKS}, tasks=[task], text={"sources": [source]})
    second = make_run(
        tmp_path / "b" / "one",
        text={"sources": [{**source, "weight": 3.0}]},
        objective={"mlm_probability": {"start": 0.4, "end": 0.2, "steps": 8}},
        training={"learning_rate": 0.004},
    )
    write_lines(first.metrics, steps(4))
    write_lines(second.metrics, steps(6))
    read = read_runs([first.root, second.root, first.root])
    assert [run.name for run in read] == ["one", "one (2)"]
    assert differences(read).rows == [
        ("text.sources.0.weight", "1.0", "3.0"),
        ("objective.mlm_probability", "0.15", "{start: 0.4, end: 0.2, steps: 8}"),
        ("training.learning_rate", "0.001", "0.004"),
        ("tasks.topic", "classification", "–"),
    ]
    page = read_page(write_report([first.root, second.root], tmp_path / "out" / "both.html"))
    assert "one (2)" in page.words and "training.learning_rate 0.001 0.004" in page.words
    assert "0.750 ± 0.050" in page.words
    assert (tmp_path / "out" / "both" / "mask_rate-by-tokens.png").is_file()
    assert not (first.root / "report.html").exists()


# -- mistakes -----------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "c", "<d>"])


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=30))
def test_mistakes_and_support_give_the_confusion_matrix(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("mistakes") / "t.errors.jsonl"
    write_lines(path, [{"text": "", "label": r, "predicted": p, "score": 0.5} for r, p in pairs if r != p])
    references, predictions = (list(column) for column in zip(*pairs, strict=True))
    by_class = ClassificationMetric().compute(predictions=predictions, references=references)["by_class"]
    support = {name: row["support"] for name, row in by_class.items()}
    mistakes = read_mistakes(path)
    assert mistakes is not None
    classes, matrix = classes_of(mistakes, support), confusion_of(mistakes, support)
    counts = Counter(pairs)
    assert matrix == [[counts[right, predicted] for predicted in classes] for right in classes]


def test_entities_are_marked_where_they_stand(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    adapter = TokenClassification(["O", "B-P", "I-P", "B-L", "I-L"], tokenizer, 20)
    words = ["Ann", "saw", "Ann", "Lee", "and", "Oslo", "in", "Oslo"]
    sentences = [
        (words, ["O", "O", "B-P", "I-P", "O", "O", "O", "B-L"], ["O", "O", "O", "B-P", "O", "B-P", "O", "B-P"]),
        (["so"] * 60 + ["Oslo"] + ["so"] * 60, ["O"] * 60 + ["B-L"] + ["O"] * 60, ["O"] * 121),
        (["so"] * 60 + words, ["O"] * 66 + ["O", "B-L"], ["O"] * 68),
    ]
    examples = [
        {"tokens": tokens, "tags": tags, "place": f"/home/me/f:{n}"} for n, (tokens, tags, _) in enumerate(sentences)
    ]
    predictions = [{"tags": tags, "scores": [1.0] * len(tags)} for *_, tags in sentences]
    errors = adapter.errors(examples, predictions)
    write_lines(tmp_path / "n.errors.jsonl", errors)
    mistakes = read_mistakes(tmp_path / "n.errors.jsonl")
    assert mistakes is not None and mistakes.total == len(errors) == 5
    marked = {
        (mistake.kind, mistake.place): [
            ("gold" * piece.gold + "+" + "said" * piece.predicted, piece.text) for piece in mistake.pieces
        ]
        for mistake in mistakes.shown
    }
    first = "f:0"
    assert marked["wrong words", first] == [
        ("+", "Ann saw "),
        ("gold+", "Ann "),
        ("gold+said", "Lee"),
        ("+", " and Oslo in Oslo"),
    ]
    assert marked["invented", first] == [("+", "Ann saw Ann Lee and "), ("+said", "Oslo"), ("+", " in Oslo")]
    assert marked["wrong type", first][-1] == ("gold+said", "Oslo")
    for place in ("f:1", "f:2"):
        assert [text for kind, text in marked["missed", place] if kind == "gold+"] == ["Oslo"]
    assert marked["missed", "f:2"][-1] == ("gold+", "Oslo")
    contexts = {error["context"] for error in errors}
    assert all("".join(piece.text for piece in mistake.pieces) in contexts for mistake in mistakes.shown)


# -- the command --------------------------------------------------------------------------------------------------


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "one")
    out = tmp_path / "page.html"
    assert main(["report", str(run.root), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n" and out.is_file()
    for arguments, told in (
        ([str(tmp_path / "none")], "no such config"),
        ([str(run.root), "--out", str(tmp_path / "page.txt")], "name a .html file"),
        ([str(run.root), "--out", "/proc/none/page.html"], "can't be written"),
    ):
        assert main(["report", *arguments]) == 2
        error = capsys.readouterr().err
        assert told in error and len(error.strip().splitlines()) == 1
    run.results.write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"results\.json: damaged"):
        write_report([run.root])


# -- in a browser -------------------------------------------------------------------------------------------------

CONTRAST = """() => {
    const numbers = color => color.match(/[\\d.]+/g).slice(0, 3).map(Number);
    const linear = part => (part /= 255) <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    const weights = [0.2126, 0.7152, 0.0722];
    const light = color => numbers(color).map(linear).reduce((sum, part, n) => sum + part * weights[n], 0);
    const against = (one, other) => (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    const ground = light(getComputedStyle(document.querySelector('figure')).backgroundColor);
    const of = (each, style) => against(light(getComputedStyle(each)[style]), ground);
    const least = (all, style) => Math.min(...[...all].map(each => of(each, style)));
    const lines = [...document.querySelectorAll('svg path')].filter(
        each => getComputedStyle(each).fill == 'none' && !each.closest('[id*=grid]')
            && !getComputedStyle(each).stroke.match(/none|52, 59, 67|216, 222, 228/));
    return [least(document.querySelectorAll('svg text'), 'fill'), least(lines, 'stroke'), lines.length, ground];
}"""


def test_in_a_browser(tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    browser_path = next(
        (path for path in ("/usr/bin/chromium", "/usr/bin/chromium-browser") if Path(path).exists()), None
    )
    if browser_path is None:
        pytest.skip("no chromium")
    run = make_run(tmp_path / "one", {**RESULTS, "tasks": TASKS})
    write_lines(run.metrics, steps(4))
    other = make_run(tmp_path / "other", training={"learning_rate": 0.5})
    write_lines(other.metrics, steps(8))
    address = write_report([run.root, other.root]).as_uri()
    asked: list[str] = []
    complaints: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"])
        for scheme, width in (("light", 360), ("light", 1280), ("dark", 360)):
            page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
            page.on("request", lambda request: asked.append(request.url))
            page.on("console", lambda message: complaints.append(message.text))
            page.goto(address)
            page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
            assert page.evaluate("document.documentElement.scrollWidth") == width
            text, lines, count, ground = page.evaluate(CONTRAST)
            assert text >= 4.5 and lines >= 3 and count > 20
            assert (ground < 0.1) == (scheme == "dark")
            columns = "new Set([...document.querySelectorAll('figure')].map(each => each.offsetLeft)).size"
            assert (page.evaluate(columns) == 1) == (width == 360)
        browser.close()
    assert asked == [address] * 3 and complaints == []
