"""Text in, data out: the page says what `predict` and `embed` say, and tells what it left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mlm_pretrain.demo import answers
from mlm_pretrain.demo.answers import MOST_CHARACTERS, MaskedLanguageModel
from mlm_pretrain.demo.models import find
from mlm_pretrain.errors import UserError
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.tasks.serve.embed import Encoder, embed
from mlm_pretrain.tasks.serve.finished import FinishedModel
from mlm_pretrain.tasks.serve.predict import predict
from tests.demo.conftest import CLASSES, TASKS
from tests.tasks.conftest import SENTENCES, make_tokenizer

HOSTILE = "<script>window.hurt=1</script> the <img src=x onerror=window.hurt=1> river ${1+1} {{hurt}} \ud800 🙂"


def predicted(model: Path, row: dict[str, str], folder: Path, **columns: str) -> dict[str, Any]:
    (folder / "in.jsonl").write_text(json.dumps(row) + "\n")
    predict(model, folder / "in.jsonl", folder / "out.jsonl", **columns)
    return json.loads((folder / "out.jsonl").read_text())


# -- what a place holds ---------------------------------------------------------------------------------------------


def test_a_run_a_folder_and_nothing(demo_run: RunDirectory, tmp_path: Path) -> None:
    found = {model.name: model for model in find([demo_run.root])}
    assert {name: model.kind for name, model in found.items()} == {"tiny": "masked_lm", **TASKS}
    assert next(iter(found)) == "tiny" and found["tiny"].samples == ("The river [MASK] flows through [MASK].",)
    assert {name: found[name].pair for name in ("classes", "grade", "pos")} == {
        "classes": False,
        "grade": True,
        "pos": None,
    }
    (alone,) = find([demo_run.task("pos")])
    assert (alone.name, alone.kind, alone.pair) == ("pos", "tagging", None)
    assert [model.name for model in find([demo_run.task("pos")] * 2)] == [str(demo_run.task("pos"))] * 2
    for place in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match="checkpoint"):
            find([place])


# -- masks ----------------------------------------------------------------------------------------------------------


def test_every_mask_gets_the_models_own_probabilities(demo_run: RunDirectory) -> None:
    model = MaskedLanguageModel(demo_run.model)
    answer = answers.fill_mask(model, "The [MASK] flows, and [MASK] minds.", guesses=3)
    encoded = model.tokenizer("The [MASK] flows, and [MASK] minds.", return_tensors="pt")
    with torch.inference_mode():
        chances = model.model(input_ids=encoded["input_ids"]).logits[0].softmax(-1)
    places = (encoded["input_ids"][0] == model.tokenizer.mask_token_id).nonzero().flatten()
    assert len(answer["masks"]) == 2 and answer["notes"] == []
    for place, mask in zip(places, answer["masks"], strict=True):
        best = chances[place].topk(3)
        assert [each["score"] for each in mask] == pytest.approx(best.values.tolist(), rel=1e-5)
        assert [each["token"] for each in mask] == [model.tokenizer.decode([i]).strip() for i in best.indices.tolist()]


def test_masks_that_were_cut_off_are_told(demo_run: RunDirectory) -> None:
    model = MaskedLanguageModel(demo_run.model)
    answer = answers.fill_mask(model, "the [MASK] " + "river " * 200 + "[MASK]")
    assert len(answer["masks"]) == 1
    assert "was cut to 64" in answer["notes"][0] and answer["notes"][1] == "1 of 2 masks are in what was cut off."
    assert len(model.tokenizer("river " * 200)["input_ids"]) > 200  # the tokenizer itself is left as it was
    with pytest.raises(UserError, match=r"no mask; write \[MASK\]"):
        answers.fill_mask(model, "The river flows.")


# -- tasks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", ["", "the train"])
def test_scores_are_those_of_predict(demo_run: RunDirectory, tmp_path: Path, pair: str) -> None:
    row = {"text": SENTENCES[0], **({"pair": pair} if pair else {})}
    columns = {"text_pair_column": "pair"} if pair else {}
    said = answers.classify(FinishedModel(demo_run.task("classes")), SENTENCES[0], pair)
    line = predicted(demo_run.task("classes"), row, tmp_path, **columns)
    assert said["predicted"] == [line["label"]] == [next(iter(said["scores"]))]
    assert said["scores"][line["label"]] == pytest.approx(line["score"], rel=1e-6)
    assert set(said["scores"]) == set(CLASSES) and sum(said["scores"].values()) == pytest.approx(1)
    several = answers.classify(FinishedModel(demo_run.task("topics")), SENTENCES[0], pair)
    line = predicted(demo_run.task("topics"), row, tmp_path, **columns)
    assert several["scores"] == pytest.approx(line["scores"]) and several["predicted"] == line["labels"]
    number = answers.classify(FinishedModel(demo_run.task("grade")), SENTENCES[0], pair)
    assert number["notes"] == ([] if pair else ["This model was trained on pairs of texts; give the second one too."])
    assert number["number"] == pytest.approx(predicted(demo_run.task("grade"), row, tmp_path, **columns)["score"])


@pytest.mark.parametrize("name", ["entities", "pos"])
def test_spans_are_those_of_predict(demo_run: RunDirectory, tmp_path: Path, name: str) -> None:
    text = " ".join(SENTENCES) * 2  # several windows
    said = answers.label_words(FinishedModel(demo_run.task(name)), text)
    line = predicted(demo_run.task(name), {"text": text}, tmp_path)
    found = line.get("entities") or line["words"]
    keys = ("start", "end", "score")
    assert len(found) > 3
    assert [[span[key] for key in keys] for span in said["spans"]] == [[each[key] for key in keys] for each in found]
    assert [span["label"] for span in said["spans"]] == [each.get("type") or each["tag"] for each in found]


def test_the_answer_is_that_of_predict(demo_run: RunDirectory, tmp_path: Path) -> None:
    said = answers.answer_question(FinishedModel(demo_run.task("answers")), "where?", " ".join(SENTENCES))
    line = predicted(demo_run.task("answers"), {"question": "where?", "context": " ".join(SENTENCES)}, tmp_path)
    assert {key: said[key] for key in ("answer", "start", "end", "score")} == {
        key: line[key] for key in ("answer", "start", "end", "score")
    }
    assert said["text"][said["start"] : said["end"]] == said["answer"] != ""


def test_neighbours_are_ranked_by_the_cosine_of_embed(demo_run: RunDirectory, tmp_path: Path) -> None:
    encoder = Encoder(demo_run.model, "mean", normalize=True)
    answer = answers.neighbours(encoder, SENTENCES[3], "\n\n".join([*SENTENCES, "the river " * 99]))
    (tmp_path / "in.txt").write_text("\n".join([*SENTENCES, "the river " * 99]))
    embed(demo_run.model, tmp_path / "in.txt", tmp_path / "out.npy")
    vectors = np.load(tmp_path / "out.npy")
    cosines = vectors @ vectors[3] / np.linalg.norm(vectors, axis=1) / np.linalg.norm(vectors[3])
    found = answer["neighbours"]
    assert found[0]["text"] == SENTENCES[3] and found[0]["cosine"] == pytest.approx(1, abs=1e-6)
    assert [each["cosine"] for each in found] == pytest.approx(sorted(cosines, reverse=True), abs=1e-6)
    assert answer["notes"] == ["1 text is longer than 64 tokens, and was cut."]


# -- tokens ---------------------------------------------------------------------------------------------------------


def test_tokens_ids_characters_and_the_unknown() -> None:
    tokenizer = make_tokenizer("wordpiece")
    answer = answers.tokenise(tokenizer, "The river 🙂 Spree")
    rows = answer["tokens"]
    assert [row["id"] for row in rows] == tokenizer("The river 🙂 Spree", add_special_tokens=False)["input_ids"]
    assert [row["token"] for row in rows] == tokenizer.convert_ids_to_tokens([row["id"] for row in rows])
    (unknown,) = (row for row in rows if row["unknown"])
    assert answer["unknown"] == 1 and answer["text"][unknown["start"] : unknown["end"]] == "🙂"


# -- input of any kind ----------------------------------------------------------------------------------------------


def test_empty_long_and_hostile_input(demo_run: RunDirectory) -> None:
    lm = MaskedLanguageModel(demo_run.model)
    task = {name: FinishedModel(demo_run.task(name)) for name in ("classes", "entities", "answers")}
    encoder = Encoder(demo_run.model, "mean", normalize=True)
    asked = [
        lambda text: answers.fill_mask(lm, f"{text}[MASK]" if text.strip() else text),
        lambda text: answers.classify(task["classes"], text),
        lambda text: answers.label_words(task["entities"], text),
        lambda text: answers.answer_question(task["answers"], "where?", text),
        lambda text: answers.neighbours(encoder, text, "a line"),
        lambda text: answers.neighbours(encoder, "a sentence", text),
        lambda text: answers.tokenise(lm.tokenizer, text),
    ]
    for ask in asked[1:]:
        assert any("20,000" in note for note in ask("x " * MOST_CHARACTERS)["notes"])
    for ask in asked:
        assert ask(HOSTILE)["notes"] is not None
        for nothing in ("", " \n\t"):
            with pytest.raises(UserError, match="is empty; write something"):
                ask(nothing)
    assert answers.label_words(task["entities"], HOSTILE)["text"] == HOSTILE.replace("\ud800", "?")
    cut = answers.classify(task["classes"], "river " * 100)
    assert cut["notes"] == ["The text was cut to 64 tokens, what the model takes."]
