"""The tasks of whole texts: pairs, class weights, what they predict and where they err."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast, pipeline

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.models.encoder import load_config, load_model
from mlm_pretrain.runtime.loss import count_labels
from mlm_pretrain.tasks.adapter import TaskAdapter
from mlm_pretrain.tasks.fit.finetune import finetune
from mlm_pretrain.tasks.inference.logits import logits_of
from mlm_pretrain.tasks.kinds.classification import Classification
from mlm_pretrain.tasks.kinds.multi_label import MultiLabelClassification
from mlm_pretrain.tasks.kinds.registered import TASKS
from mlm_pretrain.tasks.kinds.regression import Regression
from tests.tasks.conftest import make_tokenizer, separable_texts, tiny_masked_lm

PAIRS = [("the river", "Berlin"), ("don't stop", "the naïve café at the corner " * 5), ("people " * 40, "by train")]
RECIPE = {"num_train_epochs": 15, "learning_rate": 5e-3, "bf16": False, "per_device_train_batch_size": 8, "seeds": [0]}


def config(task: str = "classification", **keys: Any) -> TaskConfig:
    return TaskConfig(task=task, name="toy", **keys)


def head(adapter: TaskAdapter, encoder: Path) -> Any:
    torch.manual_seed(0)
    return load_model(adapter.auto_class, encoder, load_config(encoder, adapter.labels, adapter.problem_type))


# -- pairs --------------------------------------------------------------------------------------------------------


def test_pairs_are_joined_and_cut_as_the_tokenizer_does(any_tokenizer: PreTrainedTokenizerFast) -> None:
    row = {"text": "a", "second": "b", "label": "x"}
    example = Classification.make_example(row, config(text_pair_column="second"), "f:1")
    assert example == {"text": "a", "text_pair": "b", "label": "x", "place": "f:1"}
    assert Classification.text_of(example) != Classification.text_of({"text": "a"})
    with pytest.raises(UserError, match=r"f:1: no column 'text_pair' \(text_pair_column\)"):
        Classification.make_example(row, config(text_pair_column="text_pair"), "f:1")

    adapter = Classification(["x", "y"], any_tokenizer, max_length=20)
    features = adapter.encode([{"text": one, "text_pair": two} for one, two in PAIRS])
    for feature, (one, two) in zip(features, PAIRS, strict=True):
        wanted = any_tokenizer(one, two, truncation="longest_first", max_length=20)["input_ids"]
        assert feature["input_ids"] == wanted
        assert feature["truncated"] == (len(any_tokenizer(one, two)["input_ids"]) > 20)
    assert [feature["truncated"] for feature in features] == [False, True, True]
    # The pair is there after cutting, and the tokenizer as it was.
    assert all(feature["input_ids"].count(any_tokenizer.sep_token_id) == 2 for feature in features)
    assert any_tokenizer.backend_tokenizer.truncation is None


@pytest.mark.parametrize("types", [False, True])
def test_pairs_get_the_logits_of_the_pipeline(types: bool, tmp_path: Path) -> None:
    tokenizer = make_tokenizer("wordpiece")
    if types:
        tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    tiny_masked_lm("bert", len(tokenizer)).save_pretrained(tmp_path / "encoder")
    adapter = Classification(["x", "y"], tokenizer, max_length=64)
    model = head(adapter, tmp_path / "encoder")
    features = adapter.encode([{"text": one, "text_pair": two} for one, two in PAIRS[:2]])
    assert all(("token_type_ids" in feature) == types for feature in features)
    ours = logits_of(adapter, model, features, 2)
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer)
    for row, (one, two) in zip(ours, PAIRS[:2], strict=True):
        theirs = classify({"text": one, "text_pair": two}, top_k=None, function_to_apply="none")
        wanted = {answer["label"]: answer["score"] for answer in theirs}
        assert row == pytest.approx([wanted["x"], wanted["y"]], rel=1e-5, abs=1e-6)


# -- the loss -----------------------------------------------------------------------------------------------------


def weighted(class_weight: Any, bpe: PreTrainedTokenizerFast) -> tuple[Classification, list[dict]]:
    train = [{**row, "place": ""} for row in separable_texts(12, seed=1)]
    train = [row for row in train if row["label"] == "good"] + [train[1]]
    adapter = Classification(["bad", "good"], bpe, max_length=16, task=config(class_weight=class_weight))
    adapter.learn(train)
    return adapter, train


@pytest.mark.parametrize(
    ("class_weight", "wanted"),
    [("balanced", [7 / 2, 7 / 12]), ({"bad": 3.0}, [21 / 9, 7 / 9]), ({"bad": 0.0}, [0, 7 / 6])],
)
def test_weighted_gradients_are_those_of_torch(
    class_weight: Any, wanted: list[float], bpe: PreTrainedTokenizerFast, encoder: Path
) -> None:
    """As in scikit-learn, the frequencies are those of the training set; over it, torch's mean is ours."""
    adapter, train = weighted(class_weight, bpe)
    assert adapter.weight is not None and adapter.weight.tolist() == pytest.approx(wanted)
    model = head(adapter, encoder)

    def gradients(loss: torch.Tensor) -> list[torch.Tensor]:
        return list(torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad], allow_unused=True))

    batch = adapter.collate(adapter.encode(train))
    loss, count, _ = adapter.loss(model, batch)
    ours = gradients(loss / count)
    weights = {"balanced": [3.5, 7 / 12]}.get(str(class_weight)) or [class_weight["bad"], 1.0]
    mean = torch.nn.functional.cross_entropy(adapter.logits(model, batch), batch["labels"], torch.tensor(weights))
    torch.testing.assert_close(loss / count, mean)
    for mine, theirs in zip(ours, gradients(mean), strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-7)


def test_weights_that_make_no_sense(bpe: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match="class_weight: no class is named 'badd'; did you mean 'bad'"):
        weighted({"badd": 1.0}, bpe)
    with pytest.raises(UserError, match="class_weight: every training example weighs 0"):
        weighted({"bad": 0.0, "good": 0.0}, bpe)
    for task in ("regression", "multi_label_classification"):
        with pytest.raises(UserError, match="class_weight goes with task: classification"):
            TASKS[task].check([{"text": "", "label": 1.0}], ["score"], config(task, class_weight="balanced"))


def test_examples_without_labels_have_no_loss(bpe: PreTrainedTokenizerFast, encoder: Path) -> None:
    for task, label in (("classification", "b"), ("multi_label_classification", ["b"]), ("regression", 2.5)):
        adapter = TASKS[task](["score"] if task == "regression" else ["a", "b"], bpe, 16)
        model = head(adapter, encoder)
        texts = [{"text": "the river", "label": label}, {"text": "Berlin"}]
        batch = adapter.collate(adapter.encode(texts))
        loss, count, _ = adapter.loss(model, batch)
        alone, own, _ = adapter.loss(model, adapter.collate(adapter.encode(texts[:1])))
        assert count == own == count_labels(batch) == (2 if task.startswith("multi") else 1)
        assert loss.item() == pytest.approx(alone.item(), rel=1e-5)


def test_a_target_that_is_the_sign_for_no_label_counts(bpe: PreTrainedTokenizerFast) -> None:
    adapter = Regression(["score"], bpe, 16)
    batch = adapter.collate(adapter.encode([{"text": "", "label": value} for value in (-100.0, -100.0000001, 5.0)]))
    assert count_labels(batch) == 3
    assert batch["labels"].tolist() == pytest.approx([-100, -100, 5], abs=1e-5)


# -- predictions --------------------------------------------------------------------------------------------------


def test_predictions_are_those_of_the_pipeline(bpe: PreTrainedTokenizerFast, encoder: Path) -> None:
    texts = [row["text"] for row in separable_texts(6, seed=0)]
    for task in ("multi_label_classification", "regression"):
        adapter = TASKS[task](["score"] if task == "regression" else ["a", "b", "c"], bpe, 16)
        model = head(adapter, encoder)
        examples = [{"text": text} for text in texts]
        features = adapter.encode(examples)
        ours = adapter.predictions(examples, features, logits_of(adapter, model, features, 4))
        theirs = pipeline("text-classification", model=model, tokenizer=bpe)(texts, top_k=None)
        for mine, answers in zip(ours, theirs, strict=True):
            record = adapter.record(examples[0], mine)
            scores = record["scores"] if task != "regression" else {"score": record["score"]}
            assert scores == pytest.approx({each["label"]: each["score"] for each in answers}, rel=1e-4)
            if task != "regression":
                assert mine["labels"] == [name for name, score in scores.items() if score >= 0.5]


def test_the_commonest_answers(bpe: PreTrainedTokenizerFast) -> None:
    labels = [["a", "b"], ["a"], ["a", "c"], ["b"]]
    train = [{"text": "", "label": each} for each in labels]
    adapter = MultiLabelClassification(["a", "b", "c"], bpe, 16)
    assert adapter.majority(train, train[:2]) == [{"labels": ["a"]}] * 2  # half is not more than half
    numbers = [{"text": "", "label": float(each)} for each in (1, 2, 6)]
    regression = Regression(["score"], bpe, 16)
    assert regression.majority(numbers, numbers[:1]) == [{"score": 3.0}]
    figures = regression.metrics(numbers, regression.majority(numbers, numbers))
    assert figures == {"spearman": 0.0, "pearson": 0.0, "mse": pytest.approx(14 / 3), "r2": pytest.approx(0.0)}


def test_mistakes_come_in_the_order_of_their_weight(bpe: PreTrainedTokenizerFast) -> None:
    def rows(*labels: Any) -> list[dict]:
        return [
            {"text": f"t{n}", "text_pair": f"p{n}", "place": f"f:{n}", "label": each} for n, each in enumerate(labels)
        ]

    adapter = Classification(["a", "b"], bpe, 16)
    logits = [np.array(row) for row in ([1.0, 0.0], [2.0, 0.0], [0.0, 3.0], [0.0, 9.0])]
    examples = rows("b", "b", "a", "b")
    predictions = adapter.predictions(examples, [], logits)
    errors = adapter.errors(examples, predictions)
    assert [error["place"] for error in errors] == ["f:2", "f:1", "f:0"]
    assert errors[0] == {
        "place": "f:2",
        "text": "t2",
        "text_pair": "p2",
        "label": "a",
        "predicted": "b",
        "score": pytest.approx(1 / (1 + np.exp(-3))),
    }
    assert adapter.record(examples[0], predictions[0]) == {"label": "a", "score": predictions[0]["score"]}

    multi = MultiLabelClassification(["a", "b"], bpe, 16)
    examples = rows(["a"], ["b"], ["a"])
    errors = multi.errors(
        examples, multi.predictions(examples, [], [np.array(r) for r in ([1, -1], [2.0, 3], [-4, 5])])
    )
    assert [(e["place"], e["missing"], e["extra"]) for e in errors] == [("f:2", ["a"], ["b"]), ("f:1", [], ["a"])]
    assert errors[0]["score"] == pytest.approx(1 / (1 + np.exp(-5)))

    examples = rows(1.0, 2.0, 3.0)
    errors = Regression(["score"], bpe, 16).errors(examples, [{"score": score} for score in (1.5, 0.0, 3.0)])
    assert [(e["place"], e["error"]) for e in errors] == [("f:1", -2.0), ("f:0", 0.5), ("f:2", 0.0)]


def test_finished_models_are_told_apart() -> None:
    def served(**keys: Any) -> list[str]:
        model = AutoConfig.for_model("bert", architectures=["BertForSequenceClassification"], **keys)
        return [
            name for name in ("classification", "multi_label_classification", "regression") if TASKS[name].serves(model)
        ]

    assert served() == served(problem_type="single_label_classification") == ["classification"]
    assert served(problem_type="multi_label_classification") == ["multi_label_classification"]
    assert served(problem_type="regression", num_labels=1) == served(num_labels=1) == ["regression"]


# -- from file to model -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["multi_label_classification", "regression"])
def test_several_labels_and_numbers_can_be_learnt(task: str, bpe: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    """A label a place that the text names, or how many there are."""
    encoder = tmp_path / "encoder"
    tiny_masked_lm("modernbert", len(bpe)).save_pretrained(encoder)
    bpe.save_pretrained(encoder)
    rng = random.Random(0)
    places = {"Berlin": "de", "Mombasa": "ke"}
    for split, count in (("train", 128), ("test", 40)):
        rows = []
        for _ in range(count):
            named = rng.sample(list(places), k=rng.randint(0, 2))
            words = [*named, *rng.choices(["the", "river", "people"], k=rng.randint(1, 3))]
            rng.shuffle(words)
            label = len(named) if task == "regression" else [places[word] for word in named]
            rows.append(json.dumps({"text": " ".join(words), "label": label}) + "\n")
        (tmp_path / f"{split}.jsonl").write_text("".join(rows))
    files = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "test")}
    # Ranks are right before the numbers are.
    metric = "pearson" if task == "regression" else None
    figures = finetune(config(task, metric_for_best_model=metric, **files, **RECIPE), encoder, tmp_path / "out")
    assert figures["metric"] == (metric or TASKS[task].metric)
    assert figures["pretrained"] > 0.9 > figures["majority"]
    answers = pipeline("text-classification", model=str(tmp_path / "out"))(["the Mombasa Berlin river"], top_k=None)[0]
    if task == "regression":
        assert answers[0]["score"] == pytest.approx(2.0, abs=0.5)
    else:
        assert {answer["label"] for answer in answers if answer["score"] >= 0.5} == {"de", "ke"}


def test_a_new_head_is_what_transformers_draws(encoder: Path) -> None:
    config = load_config(encoder, ["a", "b", "c"], "single_label_classification")
    torch.manual_seed(0)
    ours = load_model(AutoModelForSequenceClassification, encoder, config)
    torch.manual_seed(0)
    theirs = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=3)
    for name, value in theirs.state_dict().items():
        assert torch.equal(value, ours.state_dict()[name])


def test_a_head_for_other_labels_is_drawn_anew(encoder: Path, bpe: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    """A finished model as the encoder of another task, or of the same one."""
    adapter = Classification(["a", "b"], bpe, 16)
    first = head(adapter, encoder)
    first.save_pretrained(tmp_path)

    def again(labels: list[str], seed: int = 1) -> Any:
        torch.manual_seed(seed)
        path_config = load_config(tmp_path, labels, adapter.problem_type)
        return load_model(AutoModelForSequenceClassification, tmp_path, path_config)

    kept = again(["a", "b"])
    for name, value in kept.state_dict().items():
        assert torch.equal(value, first.state_dict()[name])
    new = again(["b", "a"])
    assert new.config.id2label == {0: "b", 1: "a"}
    differing = [name for name, value in new.state_dict().items() if not torch.equal(value, first.state_dict()[name])]
    assert differing == ["classifier.weight"]  # the bias is drawn too: 0
    assert 0.5 < new.classifier.weight.std() / first.classifier.weight.std() < 2
    assert torch.equal(again(["b", "a"]).classifier.weight, new.classifier.weight)
    assert not torch.equal(again(["b", "a"], seed=2).classifier.weight, new.classifier.weight)
