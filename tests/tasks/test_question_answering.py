"""Answers land on their tokens in every window, spans come back as they were, scores are SQuAD's."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, PreTrainedTokenizerFast

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.hardware.device import make_accelerator
from mlm_pretrain.models.encoder import load_config, load_model
from mlm_pretrain.runtime.loss import Batch, backward_global_batch
from mlm_pretrain.tasks.fit.finetune import finetune
from mlm_pretrain.tasks.inference.logits import logits_of
from mlm_pretrain.tasks.kinds.question_answering import QuestionAnswering
from mlm_pretrain.tasks.labels.squad import exact_match, f1, squad_scores
from tests.tasks.conftest import make_tokenizer

TOY = TaskConfig(task="question_answering", name="toy")
NAMES = ["start", "end"]
FILLERS = ["the", "river", "people", "at", "train", "soir"]


def example(question: str, context: str, *answers: str) -> dict[str, Any]:
    found = [{"text": text, "start": context.index(text)} for text in answers]
    return {"question": question, "context": context, "answers": found, "place": "x:1"}


def toy_rows(count: int, seed: int, unanswerable: bool = True) -> list[dict[str, Any]]:
    """Questions whose answer is the one name in the context; a third has none."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        words = rng.choices(FILLERS, k=rng.randint(2, 8))
        answers: dict[str, list[Any]] = {"text": [], "answer_start": []}
        if number % 3 or not unanswerable:
            place = rng.randrange(len(words))
            words.insert(place, rng.choice(["Berlin", "Mombasa"]))
            answers = {"text": [words[place]], "answer_start": [len(" ".join([*words[:place], ""]))]}
        question = " ".join(rng.choices(["where", "who", "minds"], k=2))
        rows.append({"question": question, "context": " ".join(words), "answers": answers})
    return rows


def toy_examples(count: int, seed: int) -> list[dict[str, Any]]:
    return [QuestionAnswering.make_example(row, TOY, f"toy:{n}") for n, row in enumerate(toy_rows(count, seed))]


# -- rows of files ---------------------------------------------------------------------------------------------------


def test_all_shapes_of_answers_are_read() -> None:
    context, place = "Nairobi lies south of Addis.", "f:3"
    wanted = [{"text": "Nairobi", "start": 0}, {"text": "Addis", "start": 22}]
    columns = {"text": ["Nairobi", " Addis"], "answer_start": [0, 21]}
    records = [{"text": "Nairobi", "answer_start": 0}, {"text": " Addis", "answer_start": 21}]
    for answers in (columns, records, json.dumps(columns), json.dumps(records)):
        row = {"question": "q", "context": context, "answers": answers}
        assert QuestionAnswering.make_example(row, TOY, place)["answers"] == wanted
    for none in ({"text": [], "answer_start": []}, [], "[]"):
        assert QuestionAnswering.make_example({**row, "answers": none}, TOY, place)["answers"] == []
    bare = QuestionAnswering.make_example({"question": "q", "context": context}, TOY, place, labelled=False)
    assert bare == {"question": "q", "context": context, "place": place}
    assert QuestionAnswering.text_of(bare) == "q\nNairobi lies south of Addis."


@pytest.mark.parametrize(
    "answers", ["Nairobi", None, {"text": ["a"]}, {"text": ["a"], "answer_start": []}, [3], [{"text": "a"}], 7]
)
def test_other_shapes_are_refused(answers: Any) -> None:
    row = {"question": "q", "context": "a", "answers": answers}
    with pytest.raises(UserError, match=r"^f:3: answers is .*answer_start"):
        QuestionAnswering.make_example(row, TOY, "f:3")


def test_answers_stand_where_they_say_or_in_one_place_else(capsys: pytest.CaptureFixture[str]) -> None:
    def made(text: str, start: int) -> dict[str, Any]:
        row = {"question": "q", "context": "the cat and the hat", "answers": [{"text": text, "answer_start": start}]}
        return QuestionAnswering.make_example(row, TOY, "f:3")

    assert made("the", 12)["answers"] == [{"text": "the", "start": 12}]
    moved = made("cat", 5)
    assert moved["answers"] == [{"text": "cat", "start": 4}]
    with pytest.raises(UserError, match="f:3: answers: 'the' isn't at answer_start 1, but 2 times elsewhere"):
        made("the", 1)
    with pytest.raises(UserError, match="f:3: answers: 'dog' isn't at answer_start 4, but nowhere in the"):
        made("dog", 4)
    assert QuestionAnswering.label_names([made("cat", 4)], TOY) == NAMES
    QuestionAnswering.review([made("cat", 4), made("hat", 16)])
    assert capsys.readouterr().err == ""
    QuestionAnswering.review([made("cat", 4), made("cat", 5), moved])
    assert "f:3: the answer isn't at its answer_start" in (told := capsys.readouterr().err)
    assert "the same in 2 of the rows" in told and told.count("warning") == 1
    with pytest.raises(UserError, match="x:1: no training question has an answer"):
        QuestionAnswering.label_names([example("q", "c")], TOY)


# -- rows for the model ----------------------------------------------------------------------------------------------

TEXT = st.lists(
    st.sampled_from(["Berlin", "unbelievable", "don't", "naïve", "café", "1 2", "\u200b", "œufs.", "東京", "a"]),
    min_size=1,
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(words=TEXT, question=TEXT, max_length=st.integers(20, 60), stride=st.sampled_from([0, 3]), data=st.data())
def test_an_answer_comes_back_from_its_labels(
    any_tokenizer: PreTrainedTokenizerFast,
    words: list[str],
    question: list[str],
    max_length: int,
    stride: int,
    data: st.DataObject,
) -> None:
    first = data.draw(st.integers(0, len(words) - 1))
    context = " ".join(words)
    start = len(" ".join([*words[:first], ""]))
    case = {"question": " ".join(question), "context": context, "answers": [{"text": words[first], "start": start}]}
    adapter = QuestionAnswering(NAMES, any_tokenizer, max_length, stride)
    features = adapter.encode([case, {"question": "q", "context": "c"}])
    assert features.pop()["labels"] == [-100, -100]
    labelled = 0
    for number, feature in enumerate(features):
        ids, offsets = feature["input_ids"], feature["offsets"]
        assert len(ids) == len(feature["attention_mask"]) <= max_length
        assert feature["first"] <= max_length // 2 + 2
        begin, end = feature["labels"]
        if begin == end == 0:
            continue
        labelled += 1
        covered = offsets[begin - feature["first"]][0], offsets[end - feature["first"]][1]
        assert covered[0] <= start and context[slice(*covered)].strip().startswith(words[first].strip("\u200b"))
        logits = [np.zeros((len(row["input_ids"]), 2), dtype=np.float32) for row in features]
        logits[number][begin, 0] = logits[number][end, 1] = 9.0
        (prediction,) = adapter.predictions([case], features, logits)
        assert prediction["answer"] == context[slice(*covered)].strip()
        assert context[prediction["start"] : prediction["end"]] == prediction["answer"]
        assert 0.3 < prediction["score"] <= 1.0
    tokens = len(any_tokenizer(words[first], add_special_tokens=False).input_ids)
    # Windows that overlap by so much show it whole once at least; a zero-width space may have no token at all.
    if words[first] != "\u200b" and tokens + 1 < adapter.stride:
        assert labelled >= 1
    # The windows leave no gap.
    shown = np.concatenate([feature["offsets"] for feature in features])
    whole = QuestionAnswering(NAMES, any_tokenizer, 10_000).encode([case])[0]["offsets"]
    assert {tuple(span) for span in shown} == {tuple(span) for span in whole}


def test_rows_are_those_of_the_tokenizer(any_tokenizer: PreTrainedTokenizerFast) -> None:
    case = example("where?", "people travel to Berlin by train", "Berlin")
    (feature,) = QuestionAnswering(NAMES, any_tokenizer, 64).encode([case])
    plain = any_tokenizer(case["question"], case["context"])
    assert {name: feature[name] for name in plain} == dict(plain)
    begin, end = feature["labels"]
    assert any_tokenizer.decode(plain["input_ids"][begin : end + 1]).replace(" ", "").lower() == "berlin"
    assert any_tokenizer.backend_tokenizer.truncation is None  # it would be saved with the tokenizer


def test_windows_too_short_and_slow_tokenizers_are_refused(bpe: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match="stride: 13 leaves no room for new tokens in windows of max_length 32"):
        QuestionAnswering(NAMES, bpe, 32, 13)
    QuestionAnswering(NAMES, bpe, 32, 12).encode([{"question": "a " * 80, "context": "b " * 80}])

    class Slow:
        is_fast = False
        name_or_path = "slow"

    with pytest.raises(UserError, match="slow: question answering needs a fast tokenizer"):
        QuestionAnswering(NAMES, Slow(), 10)  # type: ignore[arg-type]


# -- spans -----------------------------------------------------------------------------------------------------------


def test_the_best_span_is_legal_and_no_answer_only_where_it_was_learnt() -> None:
    context = "a b c d e f g h"  # a token each
    case = example("where", context, "b")
    task = TOY.model_copy(update={"max_answer_length": 3})
    adapter = QuestionAnswering(NAMES, make_tokenizer("wordpiece"), 64, task=task)
    (feature,) = features = adapter.encode([case])
    first = feature["first"]
    logits = np.full((40, 2), -np.inf, dtype=np.float32)  # padded further than the row is long
    logits[: len(feature["input_ids"])] = -5.0
    logits[1, 0] = logits[1, 1] = 50.0  # the question is no answer
    logits[first + 5, 0] = logits[first + 1, 1] = 9.0  # ends before it starts
    logits[first, 0], logits[first + 3, 1] = 6.0, 7.0  # four tokens
    logits[first + 2, 1] = 2.0
    (prediction,) = adapter.predictions([case], features, [logits])
    assert (prediction["answer"], prediction["start"], prediction["end"]) == ("a b", 0, 3)
    legal = [
        logits[first + begin, 0] + logits[first + end, 1]
        for begin in range(8)
        for end in range(begin, min(begin + 3, 8))
    ]
    share = np.exp(15.0) / np.sort(np.exp(np.array(legal, dtype=np.float64)))[-20:].sum()
    assert prediction["score"] == pytest.approx(share, rel=1e-5)

    logits[0] = 8.0
    assert adapter.predictions([case], features, [logits])[0] == prediction
    adapter.learn([case, example("q", "c")])
    (none,) = adapter.predictions([case], features, [logits])
    assert (none["answer"], none["start"], none["end"]) == ("", 0, 0)
    assert none["score"] == pytest.approx(np.exp(16.0) / (np.exp(15.0) / share + np.exp(16.0)), rel=1e-5)
    logits[0] = 7.0
    assert adapter.predictions([case], features, [logits])[0]["answer"] == "a b"


def test_no_answer_must_win_in_every_window(bpe: PreTrainedTokenizerFast) -> None:
    case = example("where", "a b c d e f g h i j k l m n o p q r s t u v w x y z", "y")
    adapter = QuestionAnswering(NAMES, bpe, 24)
    adapter.learn([example("q", "c")])
    features = adapter.encode([case])
    assert len(features) > 1
    logits = [np.zeros((24, 2), dtype=np.float32) for _ in features]
    for row in logits:
        row[0] = 9.0
    begin, end = features[-1]["labels"]
    logits[-1][begin, 0] = logits[-1][end, 1] = 8.0
    assert adapter.predictions([case], features, logits)[0]["answer"] == ""
    logits[-1][0] = 7.0
    assert adapter.predictions([case], features, logits)[0]["answer"] == "y"


@pytest.mark.parametrize("context", ["", " \n "])
def test_contexts_without_text_have_no_answer(bpe: PreTrainedTokenizerFast, context: str) -> None:
    adapter = QuestionAnswering(NAMES, bpe, 32)
    features = adapter.encode([{"question": "who", "context": context}])
    logits = [np.ones((len(feature["input_ids"]), 2), dtype=np.float32) for feature in features]
    none = {"answer": "", "start": 0, "end": 0}
    assert adapter.predictions([{"question": "", "context": context}], features, logits) == [{**none, "score": 0.0}]
    adapter.answers_may_be_missing = True
    assert adapter.predictions([{"question": "", "context": context}], features, logits) == [{**none, "score": 1.0}]


# -- loss ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def adapter(bpe: PreTrainedTokenizerFast) -> QuestionAnswering:
    return QuestionAnswering(NAMES, bpe, max_length=24)


@pytest.fixture
def model(encoder: Path) -> torch.nn.Module:
    torch.manual_seed(0)
    return load_model(AutoModelForQuestionAnswering, encoder, load_config(encoder, NAMES))


def test_accumulation_is_one_big_batch(adapter: QuestionAnswering, model: torch.nn.Module) -> None:
    accelerator = make_accelerator(TOY.model_copy(update={"bf16": False}))
    features = adapter.encode(toy_examples(12, seed=1))

    def gradients(micro_batches: list[Batch]) -> tuple[float, dict[str, torch.Tensor]]:
        model.zero_grad()
        loss = backward_global_batch(accelerator, model, micro_batches, lambda batch: adapter.loss(model, batch))
        return loss.mean.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    once, whole = gradients([adapter.collate(features)])
    twice, parts = gradients([adapter.collate(part) for part in (features[:1], features[1:4], features[4:])])
    assert twice == pytest.approx(once, rel=1e-5)
    for parameter in whole:
        torch.testing.assert_close(parts[parameter], whole[parameter], rtol=1e-4, atol=1e-7)
    # Row by row, nothing is padded, and the model's own loss (the mean of start and end) is the reference.
    own = []
    for feature in features:
        batch = adapter.collate([feature])
        begin, end = batch.pop("labels").T
        own.append(model(**batch, start_positions=begin, end_positions=end).loss.item())
    assert once == pytest.approx(np.mean(own), rel=1e-5)


def test_padding_changes_neither_logits_nor_predictions(adapter: QuestionAnswering, model: torch.nn.Module) -> None:
    examples = toy_examples(20, seed=2)
    adapter.learn(examples)
    features = adapter.encode(examples)
    alone = logits_of(adapter, model, features, batch_size=1)
    together = logits_of(adapter, model, features, batch_size=len(features))
    for feature, one, padded in zip(features, alone, together, strict=True):
        length = len(feature["input_ids"])
        assert one.shape == (length, 2) and padded.shape[0] >= length and one.dtype == np.float32
        np.testing.assert_allclose(padded[:length], one, rtol=1e-4, atol=1e-6)
        assert np.isneginf(padded[length:]).all()
    ours, theirs = (adapter.predictions(examples, features, logits) for logits in (alone, together))
    for one, padded in zip(ours, theirs, strict=True):
        assert one == {**padded, "score": pytest.approx(padded["score"], rel=1e-4)}


# -- scores ----------------------------------------------------------------------------------------------------------


def test_scores_are_squads() -> None:
    assert exact_match("the Spree!", ["Spree", "river"]) == 1.0  # articles, punctuation and case don't count
    assert exact_match("Spree river", ["Spree", "river"]) == 0.0
    assert f1("the big Spree river", ["river Spree", "Elbe"]) == pytest.approx(0.8)  # 2 of 3, 2 of 2
    assert f1("to to be", ["to be or"]) == pytest.approx(2 / 3)  # a word counts as often as it stands in both
    assert f1("Elbe", ["Spree"]) == 0.0
    assert (exact_match("", []), f1("", []), f1("Spree", []), exact_match("Spree", [])) == (1.0, 1.0, 0.0, 0.0)
    assert (exact_match("", ["Spree"]), f1("", ["Spree"])) == (0.0, 0.0)
    assert (exact_match("a", ["the"]), f1("", ["the"])) == (1.0, 1.0)  # nothing is left of either
    assert squad_scores(["Spree", "Elbe"], [["Spree"], ["the Elbe mouth"]]) == {
        "f1": pytest.approx((1 + 2 / 3) / 2),
        "exact_match": 0.5,
    }
    assert squad_scores(["Spree", "", "x"], [["Spree"], [], []]) == {
        "f1": pytest.approx(2 / 3),
        "exact_match": pytest.approx(2 / 3),
        "f1_answerable": 1.0,
        "exact_match_answerable": 1.0,
        "f1_unanswerable": 0.5,
        "exact_match_unanswerable": 0.5,
    }


def test_mistakes_are_listed(adapter: QuestionAnswering) -> None:
    examples = [example("who", "Ada and Bo", "Ada", "Bo"), example("when", "now", "now")]
    predictions = [
        {"answer": "bo", "start": 8, "end": 10, "score": 0.9},
        {"answer": "", "start": 0, "end": 0, "score": 0.6},
    ]
    assert adapter.errors(examples, predictions) == [
        {"place": "x:1", "question": "when", "answers": ["now"], "predicted": "", "score": 0.6}
    ]
    majority = adapter.majority(examples, [*examples, example("why", "now")])
    assert adapter.metrics([*examples, example("why", "now")], majority)["f1"] == pytest.approx(1 / 3)


# -- from files to a model -------------------------------------------------------------------------------------------


def test_end_to_end(encoder: Path, tmp_path: Path) -> None:
    for split, count in (("train", 192), ("test", 24)):
        rows = toy_rows(count, seed=len(split))
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {"num_train_epochs": 10, "learning_rate": 5e-3, "bf16": False, "per_device_train_batch_size": 8}
    files = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "test")}
    task = TaskConfig(
        task="question_answering", name="toy", **files, **recipe, seeds=[0], max_length=32, max_answer_length=9
    )
    out = tmp_path / "out"
    figures = finetune(task, encoder, out)
    assert figures["metric"] == "f1"
    assert figures["pretrained"] >= 0.9
    assert figures["majority"] == pytest.approx(1 / 3)
    assert figures["labels"] == NAMES
    assert figures["details"]["f1_unanswerable"] > 0.5

    model = AutoModelForQuestionAnswering.from_pretrained(out).eval()
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert (model.config.num_labels, model.config.answers_may_be_missing, model.config.max_answer_length) == (
        2,
        True,
        9,
    )
    assert QuestionAnswering.serves(model.config)
    adapter = QuestionAnswering(NAMES, tokenizer, 32)
    adapter.take(model.config)
    assert (adapter.answers_may_be_missing, adapter.max_answer_length) == (True, 9)
    examples = [
        QuestionAnswering.make_example(row, task, str(number)) for number, row in enumerate(toy_rows(24, seed=4))
    ]
    features = adapter.encode(examples)
    logits = logits_of(adapter, model, features, 8)
    for case, feature, row in zip(examples, features, logits, strict=True):
        assert feature["input_ids"] == tokenizer(case["question"], case["context"]).input_ids
        with torch.inference_mode():
            plain = model(**tokenizer(case["question"], case["context"], return_tensors="pt"))
        length = len(feature["input_ids"])
        np.testing.assert_allclose(row[:length, 0], plain.start_logits[0].numpy(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(row[:length, 1], plain.end_logits[0].numpy(), rtol=1e-4, atol=1e-5)
    predictions = adapter.predictions(examples, features, logits)
    # The same examples as the test set's, so the same scores as fine-tuning told.
    assert adapter.metrics(examples, predictions)["f1"] == pytest.approx(figures["pretrained"])
    mistakes = (tmp_path / "out.errors.jsonl").read_text().splitlines()
    assert len(mistakes) == len(adapter.errors(examples, predictions))
