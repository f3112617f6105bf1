"""What the cards tell, section by section, and the pictures beside them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from matplotlib.image import imread

from mlm_pretrain.cards.card import render_encoder_card, render_task_card, write_cards
from mlm_pretrain.io.whole import read_json, write_json
from mlm_pretrain.records.facts import read_facts
from mlm_pretrain.records.provenance import source_commit
from mlm_pretrain.run import RunDirectory
from tests.hub_server import HubServer, card_problems
from tests.hub_server.clients import client

VALIDATE = """
import sys
from huggingface_hub import ModelCard
for path in sys.argv[1:]:
    ModelCard.load(path).validate()
"""
BY_CLASS = {"precision": 0.5141, "recall": 0.6161, "f1": 0.5605, "support": 41.0}
DETAILS = {
    "accuracy": 0.7131,
    "macro_f1": 0.6882,
    "ece": 0.0417,
    "ece_uncalibrated": 0.0923,
    "by_class": {"numpy": BY_CLASS, "a|b": BY_CLASS},
}
TASK = {
    "task": "classification",
    "metric": "accuracy",
    "pretrained": 0.7131,
    "pretrained_std": 0.0112,
    "pretrained_seeds": [0.7011, 0.7151, 0.7231],
    "bag_of_words": 0.7204,
    "majority": 0.1317,
    "seeds": [0, 1, 2],
    "encoder": "lora",
    "learning_rate": 7e-4,
    "num_train_epochs": 6.0,
    "train_examples": 417,
    "validation_examples": 99,
    "test_examples": 823,
    "truncated_examples": {"train": 5, "test": 17},
    "details": DETAILS,
    "sweep": {
        "trials": [
            {"learning_rate": 3e-4, "num_train_epochs": 3.0, "accuracy": 0.6543},
            {"learning_rate": 7e-4, "num_train_epochs": 6.0, "accuracy": 0.6789},
        ],
        "best": {"learning_rate": 7e-4, "num_train_epochs": 6.0},
    },
    "learning_curve": [
        {"fraction": 0.1, "examples": 42, "pretrained": 0.4141, "pretrained_std": 0.0313, "bag_of_words": 0.5},
        {"fraction": 1.0, "examples": 417, "pretrained": 0.7131, "pretrained_std": 0.0112},
    ],
    "history": [[{"step": s, "epoch": s / 27, "loss": 1.0, "validation": 0.5 + s / 200} for s in (27, 54)]] * 3,
    "seconds": 61.2,
}
ENERGY = {"kwh": 0.0123, "emissions_kg": 0.00471, "country_iso_code": "DEU", "since_step": 0, "method": "CodeCarbon 3"}


@pytest.fixture
def full_run(copy_run: Callable[[], RunDirectory]) -> RunDirectory:
    """A run with every record that a card can tell of."""
    run = copy_run()
    run.record_task("library", TASK)
    folder = run.task("library")
    write_json(folder / "config.json", read_json(folder / "config.json") | {"calibration_temperature": 1.3579})
    run.record({"pretraining": {"energy": ENERGY, "processes": 2, "mfu": 0.4321}})
    run.record({"text": {"installed_docs": {"documents": 70160, "held_out": 351, "complete": True}}})
    run.record({"versions": {"mlm-pretrain": "0.1.0", "mlm-pretrain commit": "0f" * 20, "transformers": "5.23.0"}})
    lines = [f'{{"step": {s}, "loss": {9 / s}, "tokens": {100 * s}, "time": 1795314912.2}}\n' for s in range(1, 1000)]
    held_out = '{"step": 500, "heldout_loss": 0.5, "tokens": 50000, "time": 1795314912.2}\n'
    run.metrics.write_text("".join([*lines, held_out]), encoding="utf-8")
    return run


def headings(text: str, level: int) -> list[str]:
    outside = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return re.findall(rf"^{'#' * level} (.+?)\s*$", outside, re.MULTILINE)


def section(text: str, heading: str) -> str:
    return text.split(f" {heading}\n", 1)[1].split("\n#", 1)[0]


def test_the_sections_are_those_of_the_annotated_model_card(full_run: RunDirectory) -> None:
    package = Path(huggingface_hub.__file__).parent
    template = (package / "templates" / "modelcard_template.md").read_text(encoding="utf-8")
    guide = headings(template, 2)
    asked_for = [heading for heading in guide if "[optional]" not in heading]
    assert len(asked_for) >= 8
    facts = read_facts(full_run)
    for card in (render_encoder_card(facts), render_task_card(facts, "library"), render_task_card(facts, "entities")):
        ours = headings(card.text, 2)
        known = [heading.removesuffix(" [optional]") for heading in guide]
        assert set(asked_for) <= set(ours)
        assert [heading for heading in known if heading in ours] == [heading for heading in ours if heading in known]
        below = {heading.removesuffix(" [optional]") for heading in headings(template, 3) if "[opt" not in heading}
        assert below <= set(headings(card.text, 3)) | {"Model Architecture and Objective", "Hardware"}
        assert all(re.search(r"\S", section(card.text, heading)) for heading in headings(card.text, 4))


def test_the_hub_takes_every_card(full_run: RunDirectory, hub: HubServer, tmp_path: Path) -> None:
    paths = write_cards(full_run)
    assert len(paths) == 4
    done = client(VALIDATE, *paths, endpoint=hub.endpoint, home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [request.status for request in hub.requests if request.path == "/api/validate-yaml"] == [200] * 4


def test_a_task_card_tells_how_it_was_made_and_how_it_does(full_run: RunDirectory) -> None:
    card = render_task_card(read_facts(full_run), "library")
    for line in (
        "| Encoder | low-rank adapters (LoRA) and the head trained, rank 8 |",
        "| Length | 6 epochs |",
        "| Learning rate | 0.0007, linear |",
        "| 0.0003 | 3 | 0.654 |",  # the sweep
        "| library | accuracy | 0.713 ± 0.011 | not measured | 0.720 | 0.132 | 417 | 823 | 3 |",
        "| 1 | 0.715 | not measured |",  # a seed
        "| macro_f1 | 0.688 |",
        "| expected calibration error | 0.042 |",
        "| expected calibration error without the temperature | 0.092 |",
        "| `numpy` | 0.514 | 0.616 | 0.560 | 41 |",
        "| <code>a&#124;b</code> | 0.514 | 0.616 | 0.560 | 41 |",
        "| 10 % | 42 | 0.414 ± 0.031 | not measured | 0.500 |",
        "\n- library is behind a bag of words: accuracy 0.713 against 0.720.\n",
        "mlm-pretrain predict tester/mini-library texts.txt --output labelled.jsonl",
        "mlm-pretrain finetune config.yaml --task library --sweep",
        "- LoRA: Low-Rank Adaptation of Large Language Models",
    ):
        assert line in card.text
    assert "temperature that was fitted on validation data (1.358)" in card.text
    assert "17 of the test examples" in card.text
    assert card_problems(str(card)) == []
    other = render_task_card(read_facts(full_run), "entities")
    assert "This model has not been evaluated." in other.text and "There are none." in other.text
    assert "calibrated" not in section(other.text, "How to Get Started with the Model")


def test_entities_are_told_by_type(full_run: RunDirectory) -> None:
    scores = {"f1": 0.4141, "precision": 0.5, "recall": 0.3541}
    details = {**scores, "by_type": {"PER": {**scores, "support": 7.5}}, "relaxed": {**scores, "f1": 0.6161}}
    full_run.record_task("entities", {"metric": "f1", "pretrained": 0.4141, "seeds": [0], "details": details})
    text = render_task_card(read_facts(full_run), "entities").text
    assert "| Entity | Precision | Recall | F1 | Support |" in text
    assert "| `PER` | 0.500 | 0.354 | 0.414 | 7.5 |" in text
    assert "| f1, by overlap | 0.616 |" in text


def test_the_encoder_card_tells_energy_time_and_how_to_reproduce(full_run: RunDirectory) -> None:
    text = render_encoder_card(read_facts(full_run)).text
    impact = section(text, "Environmental Impact")
    for line in (
        "| Hardware type | cpu |",
        "| Hours used | 0.04 |",
        "| Energy | 0.012 kWh |",
        "| Carbon emitted | 0.005 kg CO₂eq |",
        "| Electricity of | DEU |",
        "| Method | CodeCarbon 3 |",
    ):
        assert line in impact
    assert "| installed_docs | 70,123 | 40.4 | not recorded | not recorded | 351 |" in text
    assert "| installed_docs | empty | 37 |" in text
    assert "| Model FLOPs utilisation | 43.2 % |" in text
    again = section(text, "Reproducing It")
    assert f"`mlm_pretrain` 0.1.0 at commit `{'0f' * 20}` installed" in again
    assert "pip install torch==2.13.0 transformers==5.23.0\n" in again
    assert "\ntorchrun --nproc_per_node 2 -m mlm_pretrain run training_config.yaml\n" in again
    full_run.record({"pretraining": {"energy": {"since_step": 400, "country_iso_code": None}}})
    impact = section(render_encoder_card(read_facts(full_run)).text, "Environmental Impact")
    assert "before step 400 was not measured" in impact and "| the world's average |" in impact


def test_a_citation_is_bibtex(full_run: RunDirectory) -> None:
    facts = read_facts(full_run)
    cited = section(render_encoder_card(facts).text, "Citation")
    assert cited.split("```")[1] == (
        "bibtex\n@misc{mini,\n  title = {mini},\n  year = {2026},\n  publisher = {Hugging Face},\n"
        "  url = {https://huggingface.co/tester/mini}\n}\n"
    )
    assert "arXiv:1810.04805" in cited and "AdamW" in cited
    assert "Implicit Matrix Factorization" not in cited
    begun = {"method": "cooccurrence", "sample_tokens": 54321, "tokens_with_vectors": 432}
    full_run.record({"pretraining": {"initialisation": begun}})
    card = render_encoder_card(read_facts(full_run)).text
    assert "Implicit Matrix Factorization" in section(card, "Citation")
    assert "Embeddings of 432 tokens began from: their `cooccurrence` in 54,321 tokens of the training text" in card


def test_pictures_lie_beside_the_cards_that_show_them(full_run: RunDirectory) -> None:
    cards = write_cards(full_run)
    shown = {
        card.relative_to(full_run.root).as_posix(): re.findall(r"!\[[^\]]+\]\(\./(\w+\.png)\)", card.read_text("utf-8"))
        for card in cards
    }
    assert shown == {
        "README.md": ["loss.png"],
        "model/README.md": ["loss.png"],
        "tasks/entities/README.md": [],
        "tasks/library/README.md": ["training.png", "learning_curve.png"],
    }
    drawn = {}
    for card in cards:
        for name in shown[card.relative_to(full_run.root).as_posix()]:
            picture = card.with_name(name)
            pixels = imread(picture)
            assert pixels.shape[0] > 300 and pixels.shape[1] > 600 and pixels.std() > 0.05
            drawn[picture] = picture.read_bytes()
    # Equal records give equal files, so that nothing is sent twice.
    write_cards(full_run)
    assert all(picture.read_bytes() == data for picture, data in drawn.items())
    # What isn't on record any more isn't shown any more.
    full_run.metrics.unlink()
    full_run.record_task("library", {"metric": "accuracy", "pretrained": 0.5, "seeds": [0]})
    write_cards(full_run)
    assert not [picture for picture in drawn if picture.exists()]
    assert "![" not in "".join(card.read_text(encoding="utf-8") for card in cards)


def test_the_commit_is_that_of_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess

    from mlm_pretrain.records import provenance

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("", encoding="utf-8")
    monkeypatch.setattr(provenance, "PACKAGE", package)
    monkeypatch.setattr(provenance, "_of_installation", lambda: None)
    assert source_commit() is None  # no commit yet
    (tmp_path / "other.txt").write_text("", encoding="utf-8")
    git("add", "other.txt")
    git("commit", "-qm", "other")
    assert source_commit() is None  # this repository doesn't hold the package
    git("add", ".")
    git("commit", "-qm", "package")
    commit = git("rev-parse", "HEAD")
    assert source_commit() == commit and len(commit) == 40
    (package / "__init__.py").write_text("changed = True", encoding="utf-8")
    assert source_commit() == f"{commit}+"


def test_the_commit_of_an_installation_is_what_pip_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlm_pretrain.records import provenance

    class Installed:
        def __init__(self, text: str | None) -> None:
            self._text = text

        def read_text(self, name: str) -> str | None:
            return self._text if name == "direct_url.json" else None

    noted: dict[str | None, Any] = {'{"url": "x", "vcs_info": {"vcs": "git", "commit_id": "abc"}}': "abc", None: None}
    for text, commit in noted.items():
        monkeypatch.setattr(provenance.metadata, "distribution", lambda name, text=text: Installed(text))
        assert provenance._of_installation() == commit
