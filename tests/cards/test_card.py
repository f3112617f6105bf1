from __future__ import annotations

import html
import re
from collections.abc import Callable
from typing import Any

import pytest
from huggingface_hub import ModelCard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlm_pretrain.cards.card import render_encoder_card, render_task_card, write_cards
from mlm_pretrain.cards.tables import number
from mlm_pretrain.config import PublishConfig
from mlm_pretrain.config.public import without_places
from mlm_pretrain.config_file import make_config
from mlm_pretrain.errors import UserError
from mlm_pretrain.escaping import visible
from mlm_pretrain.io.whole import read_json, write_json
from mlm_pretrain.records.facts import CardFacts, FillMask, Prediction, read_facts
from mlm_pretrain.run import RunDirectory
from tests.hub_server import card_problems


def all_cards(facts: CardFacts, **publish: Any) -> list[ModelCard]:
    facts = facts.model_copy(update={"publish": facts.publish.model_copy(update=publish)})
    return [render_encoder_card(facts), *(render_task_card(facts, task.name) for task in facts.tasks)]


def test_metadata_round_trips_and_is_valid(finished_run: RunDirectory) -> None:
    for card in all_cards(read_facts(finished_run)):
        assert card_problems(str(card)) == []
        again = ModelCard(str(card))
        assert again.data.to_dict() == card.data.to_dict()
        assert again.text == card.text
        assert str(again) == str(card)
    encoder, entities, library = (card.data for card in all_cards(read_facts(finished_run)))
    assert [card.pipeline_tag for card in (encoder, entities, library)] == [
        "fill-mask",
        "token-classification",
        "text-classification",
    ]
    assert encoder.datasets == ["someone/some-text"]
    assert entities.datasets == ["someone/some-entities"]
    assert library.datasets is None
    assert library.base_model == entities.base_model == "tester/mini"
    assert (encoder.language, encoder.license, encoder.library_name) == ("en", "apache-2.0", "transformers")
    assert encoder.tags == ["mlm_pretrain", "masked-lm", "docs"]


def test_model_index_holds_the_recorded_values(finished_run: RunDirectory) -> None:
    encoder, entities, library = (card.data for card in all_cards(read_facts(finished_run)))
    assert {result.metric_type: result.metric_value for result in encoder.eval_results} == {
        "loss": 3.2168,
        "perplexity": 24.9481,
        "accuracy": 0.4127,
    }
    assert [result.metric_value for result in library.eval_results] == [0.7131]
    assert entities.eval_results is None


def _numbers(data: Any) -> set[str]:
    if isinstance(data, dict):
        return set().union(*map(_numbers, data.values()), set())
    if isinstance(data, list):
        return set().union(*map(_numbers, data), set())
    if isinstance(data, int | float) and not isinstance(data, bool):
        shown = {number(data, digits) for digits in range(4)} | {f"{data:.3f}", f"{data:g}", f"{data:.3g}"}
        return shown | {f"{100 * data:.3g}", f"{data / 1e6:,.1f}"}
    return set(re.findall(r"[\d.,]*\d", data)) if isinstance(data, str) else set()


def test_every_number_on_a_card_is_on_record(finished_run: RunDirectory) -> None:
    facts = read_facts(finished_run)
    known = _numbers(facts.model_dump(mode="json")) | _numbers(read_json(finished_run.tokenizer_report))
    known |= {f"{size:,}" for size in (1, 2, 3, 5)}  # label counts, "Top-5", and words of the code
    hours = facts.pretraining.seconds / 3600 if facts.pretraining and facts.pretraining.seconds else 0.0
    known |= {number(hours, 2)}
    for card in all_cards(facts):
        prose = html.unescape(re.sub(r"```.*?```", "", card.text, flags=re.DOTALL))
        prose = re.sub(r"arXiv:\d+\.\d+", "", prose)
        found = set(re.findall(r"(?<![\w.,])\d[\d,.]*(?:e-?\d+)?(?<![.,])", prose))
        unknown = {text for text in found if text not in known}
        assert not unknown


def test_sections_without_records_say_so(tmp_path: Any) -> None:
    run = RunDirectory(tmp_path / "bare")
    run.write_config(make_config({}))
    card = render_encoder_card(read_facts(run))
    assert card_problems(str(card)) == []
    assert card.data.to_dict().keys() == {"library_name", "pipeline_tag", "tags"}
    for sentence in (
        "The pretrained model has not been evaluated.",
        "It has not been evaluated on a downstream task.",
        "There is no report on this tokenizer.",
        "What the training read was not recorded.",
        "The training was not recorded",
        "No model has been exported",
        "| Hours used | not recorded |",
        "| Carbon emitted | not measured |",
        "versions of the packages used were not recorded",
        "License: not stated by the publisher",
    ):
        assert sentence in card.text
    assert "nan" not in card.text.lower().split() and "None" not in card.text


def test_unmeasured_numbers_are_left_out(copy_run: Callable[[], RunDirectory]) -> None:
    run = copy_run()
    broken = {"loss": float("nan"), "perplexity": float("inf"), "accuracy": 0.25}
    write_json(run.results, {"heldout": broken, "tasks": {"library": {"metric": "accuracy"}}})
    encoder, _, library = all_cards(read_facts(run))
    assert [result.metric_type for result in encoder.data.eval_results] == ["accuracy"]
    assert library.data.eval_results is None
    assert "| all | not recorded | not recorded | 0.250 | not recorded |" in encoder.text
    assert "| Energy | not measured |" in encoder.text
    assert "not measured" in library.text
    assert "nan" not in str(encoder) and "inf " not in str(encoder)


def test_no_place_on_this_machine_is_told(copy_run: Callable[[], RunDirectory]) -> None:
    run = copy_run()
    for path in write_cards(run):
        text = path.read_text(encoding="utf-8")
        assert "somebody" not in text and "/home" not in text and str(run.root) not in text
    assert "corpus" in (run.model / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("given_text", "shown"),
    [
        ("/home/me/corpus.txt", "corpus.txt"),
        ("/home/me/my data/*.txt", "*.txt"),
        ("~/corpus/", "corpus"),
        ("C:\\Users\\me\\corpus", "corpus"),
        ("files:/home/me/corpus", "files:corpus"),
        ("file:///home/me/corpus.txt", "corpus.txt"),
        ("read /home/me/a.txt, /home/me/b.txt", "read a.txt, b.txt"),
        ("data/train.conll", "data/train.conll"),
        ("data/**/*.txt", "data/**/*.txt"),
        ("someone/some-text", "someone/some-text"),
        ("https://example.org/a/b.txt", "https://example.org/a/b.txt"),
        ("s3://user:secret@bucket/a/b", "s3://bucket/a/b"),
        ("tokens/s", "tokens/s"),
        ("/", "/"),
    ],
)
def test_absolute_paths_are_cut(given_text: str, shown: str) -> None:
    assert without_places(given_text) == shown
    assert without_places({"a": [given_text], given_text: 1}) == {"a": [shown], shown: 1}


def test_entries_are_kept_apart_and_secrets_removed() -> None:
    assert without_places({"/a/x": 1, "/b/x": 2}) == {"x": 1, "x'": 2}
    assert without_places({"storage_options": {"api_key": "abc", "mask_token": "[MASK]"}}) == {
        "storage_options": {"api_key": "(removed)", "mask_token": "[MASK]"}
    }


_LINE = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1, max_size=30)


@settings(max_examples=30, deadline=None)
@given(text=_LINE, token=_LINE, description=_LINE)
def test_any_text_gives_a_valid_card(finished_run: RunDirectory, text: str, token: str, description: str) -> None:
    facts = read_facts(finished_run).model_copy(
        update={
            "fill_mask": [FillMask(text=text, predictions=[Prediction(token=token, score=0.5)])],
            "publish": PublishConfig(description=description, hub_model_id="tester/mini"),
        }
    )
    card = render_encoder_card(facts)
    assert card_problems(str(card)) == []
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()
    first_block = re.findall(r"```python\n(.*?)```", card.text.replace(description, "", 1), flags=re.DOTALL)[0]
    compile(first_block, "card", "exec")


@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words:UserWarning")
def test_the_code_on_the_cards_runs(
    finished_run: RunDirectory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = read_facts(finished_run)
    folders = [finished_run.model, finished_run.task("entities"), finished_run.task("library")]
    for folder, card in zip(folders, all_cards(facts, hub_model_id=None), strict=True):
        monkeypatch.chdir(folder)
        blocks = re.findall(r"```python\n(.*?)```", card.text, flags=re.DOTALL)
        assert blocks
        for block in blocks:
            names: dict[str, Any] = {}
            exec(block, names)
            if "vectors" in names:
                assert names["vectors"].shape == (2, 16)
    monkeypatch.chdir(finished_run.root)
    from_root = render_encoder_card(facts, model_id="./model")
    exec(re.findall(r"```python\n(.*?)```", from_root.text, flags=re.DOTALL)[0], {})
    assert "LABEL_" in capsys.readouterr().out


def test_write_cards_writes_one_card_a_model(copy_run: Callable[[], RunDirectory]) -> None:
    run = copy_run()
    write_cards(run, PublishConfig(hub_model_id="other/name", description="Words of mine."))
    written = sorted(path.relative_to(run.root).as_posix() for path in run.root.rglob("README.md"))
    assert written == ["README.md", "model/README.md", "tasks/entities/README.md", "tasks/library/README.md"]
    text = (run.model / "README.md").read_text(encoding="utf-8")
    assert "# name\n\nWords of mine.\n" in text and 'model="other/name"' in text
    assert 'model="./model"' in run.card.read_text(encoding="utf-8")


def test_figures_of_a_validation_set_are_called_so(copy_run: Callable[[], RunDirectory]) -> None:
    run = copy_run()
    run.record({"tasks": {"library": {"test_is_validation": True, "seeds": [0]}}})
    encoder, _, library = all_cards(read_facts(run))
    assert library.data.eval_results[0].metric_name == "validation accuracy"
    assert "There was no test set" in library.text
    for card in (encoder, library):
        assert "| 0.713 | 0.552 | 0.600 | 0.132 | 417 | 823 (validation) | 1 |" in card.text


def test_bad_records_are_one_line(copy_run: Callable[[], RunDirectory]) -> None:
    run = copy_run()
    with pytest.raises(UserError, match=r"task 'absent'.*entities, library.*finetune"):
        render_task_card(read_facts(run), "absent")
    write_json(run.results, run.read_results() | {"heldout": {"loss": "low"}})
    with pytest.raises(UserError, match=r"results\.json: heldout\.loss: .*'low'"):
        read_facts(run)
    run.results.write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"results\.json: damaged"):
        read_facts(run)
    run.config.unlink()
    with pytest.raises(UserError, match=r"config\.yaml: no such config"):
        read_facts(run)


TEXT = st.characters(exclude_categories=["Cs"], exclude_characters="\x00")
"""What a config takes."""


@example(tags=["yes", "null", "1:0", "2026-11-27", "a: b", "- c", "x\n---\ny", "\u202ez", "1e3", "~"], licence="no")
@settings(max_examples=30, deadline=None)
@given(
    tags=st.lists(st.text(TEXT, max_size=12), max_size=4), licence=st.sampled_from(["mit", "no", "off", "1.0", "null"])
)
def test_the_front_matter_keeps_every_word_a_word(finished_run: RunDirectory, tags: list[str], licence: str) -> None:
    publish = PublishConfig(language="no", license=licence, tags=tags, hub_model_id="tester/mini")
    card = render_encoder_card(read_facts(finished_run).model_copy(update={"publish": publish}))
    data = ModelCard(str(card)).data
    assert (data.language, data.license) == ("no", licence)
    assert set(map(visible, tags)) <= set(data.tags) and card_problems(str(card)) == []
