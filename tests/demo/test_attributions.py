"""Integrated gradients: the axioms of the paper, and where values stand in the text."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

from mlm_pretrain.demo.attributions import attribute, integrated_gradients
from mlm_pretrain.errors import UserError
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.tasks.serve.finished import FinishedModel
from tests.demo.conftest import CLASSES
from tests.tasks.conftest import SENTENCES, make_tokenizer, tiny_masked_lm


@pytest.fixture(scope="module", params=["bert", "modernbert"])
def classifier(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FinishedModel:
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = make_tokenizer("bpe")
    tiny_masked_lm(request.param, len(tokenizer)).save_pretrained(folder / "encoder")
    model = AutoModelForSequenceClassification.from_pretrained(folder / "encoder", num_labels=3)
    with torch.no_grad():  # far from the beginning of training, where the logits hardly depend on the text
        for weight in model.parameters():
            weight.mul_(10 if weight.dim() > 1 else 1)
    model.config.problem_type = "single_label_classification"
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return FinishedModel(folder / "model")


def test_completeness(classifier: FinishedModel) -> None:
    """The values sum to logit(x) − logit(baseline), for every label, and the logits are the model's own."""
    row = classifier.adapter.tokenizer(SENTENCES[0], return_tensors="pt")
    mask = classifier.adapter.tokenizer.mask_token_id
    masked = {**row, "input_ids": row["input_ids"].where(row["input_ids"] < 5, mask)}
    with torch.no_grad():
        logits, lowest = (classifier.model(**inputs).logits[0].tolist() for inputs in (row, masked))
    for number, label in enumerate(classifier.adapter.labels):
        answer = attribute(classifier, SENTENCES[0], label=label)
        assert answer["logit"] == pytest.approx(logits[number], abs=1e-4)
        assert answer["baseline"] == pytest.approx(lowest[number], abs=1e-4)
        total = sum(piece["value"] or 0.0 for piece in answer["pieces"])
        difference = logits[number] - lowest[number]
        assert total == pytest.approx(difference, abs=0.02 * abs(difference) + 1e-3)
        assert answer["label"] == label and answer["notes"] == []
    assert max(abs(high - low) for high, low in zip(logits, lowest, strict=True)) > 0.5
    best = classifier.adapter.labels[logits.index(max(logits))]
    assert attribute(classifier, SENTENCES[0])["label"] == best


class _Linear(nn.Module):
    """Logits that are linear in the embeddings, with weights of their own for every place."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings, self.weights = nn.Embedding(9, 4), nn.Parameter(torch.randn(5, 4, 2))

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings

    def forward(self, inputs_embeds: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=torch.einsum("bth,thl->bl", inputs_embeds, self.weights))


def test_of_a_linear_model_each_value_is_what_the_token_adds() -> None:
    torch.manual_seed(0)
    model = _Linear()
    ids, baseline = torch.tensor([[2, 7, 5, 8, 3]]), torch.tensor([[2, 4, 4, 8, 3]])
    values, logit, low, steps = integrated_gradients(model, {"input_ids": ids}, baseline, 1)
    moved = model.embeddings(ids)[0] - model.embeddings(baseline)[0]
    assert values.tolist() == pytest.approx((moved * model.weights[:, :, 1]).sum(-1).tolist(), abs=1e-5)
    assert values[[0, 3, 4]].tolist() == [0, 0, 0]  # a token that is the same in the baseline adds nothing
    assert values.sum().item() == pytest.approx(logit - low, abs=1e-5) and steps == 32


@pytest.mark.parametrize("text", [SENTENCES[2], "🙂 the\n  <b>river</b> naïve 日本", "river " * 99])
def test_the_pieces_are_the_text(classifier: FinishedModel, text: str) -> None:
    answer = attribute(classifier, text, "and a second Berlin")
    parts = ["".join(piece["text"] for piece in answer["pieces"] if piece["part"] == part) for part in (0, 1)]
    assert parts == [text, "and a second Berlin"]
    assert all(piece["text"] for piece in answer["pieces"])
    valued = [piece["value"] for piece in answer["pieces"] if piece["value"] is not None]
    assert sum(valued) == pytest.approx(answer["logit"] - answer["baseline"], abs=answer["gap"] + 1e-4)
    assert any("cut to 64 tokens" in note for note in answer["notes"]) == (len(text) > 500)


def test_of_a_regression_and_of_models_that_have_no_such_label(demo_run: RunDirectory) -> None:
    assert attribute(FinishedModel(demo_run.task("grade")), SENTENCES[0])["label"] == "score"
    with pytest.raises(UserError, match="no label 'god'; did you mean 'good'"):
        attribute(FinishedModel(demo_run.task("classes")), "the river", label="god")
    assert attribute(FinishedModel(demo_run.task("classes")), "the river", label=CLASSES[2])["label"] == CLASSES[2]
    with pytest.raises(UserError, match="labels no whole text"):
        attribute(FinishedModel(demo_run.task("pos")), "the river")
