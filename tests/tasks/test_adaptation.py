"""Frozen encoders: a probe trained on features computed once is the head of the whole model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    pipeline,
)

from mlm_pretrain.config import EncoderOrigin, TaskConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.hardware.device import make_accelerator
from mlm_pretrain.tasks.adapter import Feature, TaskAdapter
from mlm_pretrain.tasks.fit.finetune import finetune
from mlm_pretrain.tasks.fit.loop import Fit, trainable
from mlm_pretrain.tasks.fit.tuning import frozen
from mlm_pretrain.tasks.fit.tuning.adaptation import Adaptation
from mlm_pretrain.tasks.fit.tuning.choose import adapt
from mlm_pretrain.tasks.inference.logits import logits_of
from mlm_pretrain.tasks.kinds.registered import TASKS
from tests.tasks.conftest import SENTENCES, make_tokenizer, separable_texts, tiny_masked_lm

ARCHITECTURES = ["bert", "roberta", "distilbert", "electra", "deberta-v2", "modernbert", "modernbert-mean", "albert"]


@pytest.fixture(scope="module")
def wordpiece() -> PreTrainedTokenizerFast:
    tokenizer = make_tokenizer("wordpiece")
    tokenizer.model_input_names = ["input_ids", "attention_mask"]  # not all of these models have segments
    return tokenizer


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return make_accelerator(settings())


def settings(task: str = "classification", **keys: Any) -> TaskConfig:
    recipe = {"bf16": False, "learning_rate": 1e-2, "per_device_train_batch_size": 2, "max_steps": 4}
    return TaskConfig(task=task, name="toy", **{**recipe, "num_train_epochs": 3, **keys})


def make_adapter(task: str, tokenizer: PreTrainedTokenizerFast) -> tuple[TaskAdapter, list[Feature]]:
    """The adapter of a task, and features of sentences of several lengths."""
    if task == "ner":
        labels = ["O", "B-LOC", "I-LOC"]
        examples = [{"tokens": (words := text.split()), "tags": ["O"] * len(words)} for text in SENTENCES]
    elif task == "question_answering":
        labels = ["start", "end"]
        answers = [{"text": text.split()[0], "start": 0} for text in SENTENCES]
        examples = [
            {"question": "where", "context": text, "answers": [answer], "place": "x:1"}
            for text, answer in zip(SENTENCES, answers, strict=True)
        ]
    else:
        labels = ["a", "b", "c"]
        examples = [{"text": text, "label": labels[number % 3]} for number, text in enumerate(SENTENCES)]
    adapter = TASKS[task](labels, tokenizer, 16, 2, settings(task))
    return adapter, adapter.encode(examples)


def make_model(architecture: str, adapter: TaskAdapter, initializer_range: float = 0.2) -> PreTrainedModel:
    """Random weights; wide enough that texts differ by more than what is rounded off."""
    model_type = architecture.removesuffix("-mean")
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "vocab_size": 400,
        "max_position_embeddings": 40,
        "pad_token_id": 0,
    }
    if model_type == "distilbert":
        sizes = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "vocab_size": 400}
    if model_type == "modernbert":
        sizes |= {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
        sizes |= {"classifier_pooling": "mean" if architecture.endswith("-mean") else "cls"}
    torch.manual_seed(0)
    sizes["initializer_range"] = initializer_range
    config = AutoConfig.for_model(model_type, **sizes, num_labels=len(adapter.labels))
    return adapter.auto_class.from_config(config)


def adapted(
    model: PreTrainedModel, adapter: TaskAdapter, task: TaskConfig, accelerator: Accelerator, folder: Path, **more: Any
) -> Adaptation:
    return adapt(model, adapter, task, accelerator, EncoderOrigin(path="me/encoder", revision="v1"), folder, **more)


def compare(ours: list[np.ndarray], theirs: list[np.ndarray], features: list[Feature], **tolerance: float) -> None:
    """Logits of rows, at their tokens where there is one row a token."""
    for our, their, feature in zip(ours, theirs, features, strict=True):
        end = len(feature["input_ids"]) if our.ndim > 1 else None
        np.testing.assert_allclose(our[:end], their[:end], **tolerance)


def train(
    adaptation: Adaptation, adapter: TaskAdapter, features: list[Feature], task: TaskConfig, accelerator: Accelerator
) -> None:
    Fit(accelerator, adapter, adaptation, features, task, 0, lambda: 0.0).run("toy")


@pytest.mark.parametrize("task", ["classification", "ner", "question_answering"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_probe_trained_on_features_is_the_head_of_the_whole_model(
    architecture: str, task: str, wordpiece: PreTrainedTokenizerFast, accelerator: Accelerator, tmp_path: Path
) -> None:
    adapter, features = make_adapter(task, wordpiece)
    model = make_model(architecture, adapter)
    recipe = settings(task, encoder="frozen")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    adaptation = adapted(model, adapter, recipe, accelerator, tmp_path)
    assert set(trainable(adaptation.model)) == {"output.weight", "output.bias"}

    train(adaptation, adapter, features, recipe, accelerator)
    rows = adaptation.rows(features)
    cached = logits_of(adapter, adaptation.model, rows, 2)
    finished = adaptation.finish()
    compare(logits_of(adapter, finished, features, 2), cached, features, rtol=1e-3, atol=1e-4)
    compare(logits_of(adapter, adaptation.finish(), features, 2), cached, features, rtol=1e-3, atol=1e-4)
    after = finished.state_dict()
    assert list(after) == list(before)
    heads = {name for name in before if not name.startswith(f"{model.base_model_prefix}.") or "pooler" in name}
    changed = {name for name in before if not torch.equal(after[name], before[name])}
    assert changed and changed <= heads


def test_states_that_hardly_differ_keep_the_logits_precise(
    wordpiece: PreTrainedTokenizerFast, accelerator: Accelerator, tmp_path: Path
) -> None:
    """The first vectors of a random BERT vary by 1e-4 of their means: divided by so little, float32 loses logits."""
    adapter, features = make_adapter("classification", wordpiece)
    recipe = settings(encoder="frozen")
    adaptation = adapted(make_model("bert", adapter, 0.02), adapter, recipe, accelerator, tmp_path)
    train(adaptation, adapter, features, recipe, accelerator)
    probe = adaptation.model
    assert (probe.mean.abs() / probe.deviation).max() < 1001
    cached = logits_of(adapter, probe, adaptation.rows(features), 2)
    compare(logits_of(adapter, adaptation.finish(), features, 2), cached, features, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("task", ["classification", "ner"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_probe_sees_the_encoders_states_almost_as_they_are(
    architecture: str, task: str, wordpiece: PreTrainedTokenizerFast, accelerator: Accelerator, tmp_path: Path
) -> None:
    """One vector a text, or one a token: that of a linear classifier, whatever the head has between the two."""
    adapter, features = make_adapter(task, wordpiece)
    model = make_model(architecture, adapter)
    found = adapted(model, adapter, settings(task, encoder="frozen"), accelerator, tmp_path).rows(features)
    states = []
    for row in features:
        hidden = model.base_model(torch.tensor([row["input_ids"]])).last_hidden_state[0].detach()
        if task == "classification":
            hidden = hidden.mean(0) if architecture.endswith("-mean") else hidden[0]
        states.append(hidden.numpy())
    assert [row["inputs_embeds"].shape for row in found] == [state.shape for state in states]
    ours = np.concatenate([row["inputs_embeds"].reshape(-1, 16) for row in found])
    theirs = np.concatenate([state.reshape(-1, 16) for state in states])
    correlations = [np.corrcoef(ours[:, i], theirs[:, i])[0, 1] for i in range(16)]
    assert np.median(correlations) > 0.95


def test_any_head_serves_that_ends_in_a_linear_layer(
    wordpiece: PreTrainedTokenizerFast, accelerator: Accelerator, tmp_path: Path
) -> None:
    """The maximum over the tokens is no head of transformers; it stands for what isn't known here."""
    adapter, features = make_adapter("classification", wordpiece)
    model = make_model("roberta", adapter)

    class Maximum(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.output = torch.nn.Linear(16, 3, bias=False)

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return self.output(hidden[:, :3].amax(dim=1))

    model.classifier = Maximum()
    recipe = settings(encoder="frozen")
    adaptation = adapted(model, adapter, recipe, accelerator, tmp_path)
    train(adaptation, adapter, features, recipe, accelerator)
    cached = logits_of(adapter, adaptation.model, adaptation.rows(features), 2)
    compare(logits_of(adapter, adaptation.finish(), features, 2), cached, features, rtol=1e-4, atol=1e-5)


def test_a_head_that_does_more_is_refused(
    wordpiece: PreTrainedTokenizerFast, accelerator: Accelerator, tmp_path: Path
) -> None:
    adapter, features = make_adapter("classification", wordpiece)
    model = make_model("distilbert", adapter)
    model.distilbert.register_forward_hook(lambda *call: setattr(model, "seen", call[2][0].norm()))
    model.classifier.register_forward_hook(lambda *call: call[2] * model.__dict__.pop("seen", 1.0))
    adaptation = adapted(model, adapter, settings(encoder="frozen"), accelerator, tmp_path)
    with pytest.raises(UserError, match="doesn't end in a linear layer"):
        adaptation.rows(features)
    model.classifier = torch.nn.Sequential(model.classifier, torch.nn.Linear(3, 4))
    with pytest.raises(UserError, match="doesn't end in a linear layer"):
        adapted(model, adapter, settings(encoder="frozen"), accelerator, tmp_path)


@pytest.mark.parametrize(("count", "share"), [(2, 1.0), (4, 0.75), (12, 0.25)])
def test_the_penalty_is_in_inverse_proportion_to_many_labels(
    count: int,
    share: float,
    monkeypatch: pytest.MonkeyPatch,
    wordpiece: PreTrainedTokenizerFast,
    accelerator: Accelerator,
    tmp_path: Path,
) -> None:
    adapter, features = make_adapter("classification", wordpiece)
    monkeypatch.setattr(frozen, "FULL_DECAY", 3)
    recipe = settings(encoder="frozen", weight_decay=0.08)
    adaptation = adapted(make_model("bert", adapter), adapter, recipe, accelerator, tmp_path)
    fit = Fit(accelerator, adapter, adaptation, (features * 4)[:count], recipe, 0, lambda: 0.0)
    assert [group["weight_decay"] for group in fit._optimizer.param_groups] == [pytest.approx(0.08 * share), 0.0]


def test_features_are_computed_once_and_without_dropout(
    wordpiece: PreTrainedTokenizerFast, accelerator: Accelerator, tmp_path: Path
) -> None:
    adapter, features = make_adapter("classification", wordpiece)
    states: dict[int, object] = {}
    recipe = settings(encoder="frozen")
    calls: list[int] = []
    rows = []
    for _ in range(2):
        model = make_model("bert", adapter).train()
        model.bert.register_forward_hook(lambda *call: calls.append(len(call[2][0])))
        rows.append(adapted(model, adapter, recipe, accelerator, tmp_path, states=states).rows(features))
    assert sum(calls) == len(features)
    for first, second in zip(*rows, strict=True):
        assert first["inputs_embeds"] is second["inputs_embeds"]
    hidden = make_model("bert", adapter).eval().bert(torch.tensor([features[0]["input_ids"]])).last_hidden_state
    pooled = torch.tanh(frozen.SLOPE * hidden[0, 0] + frozen.SHIFT).detach()
    np.testing.assert_allclose(rows[0][0]["inputs_embeds"], pooled, rtol=1e-4, atol=1e-5)


def test_features_beyond_the_memory_go_to_a_file_without_a_name(
    wordpiece: PreTrainedTokenizerFast, accelerator: Accelerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter, features = make_adapter("ner", wordpiece)
    recipe = settings("ner", encoder="frozen")
    inside = adapted(make_model("bert", adapter), adapter, recipe, accelerator, tmp_path).rows(features)
    monkeypatch.setattr(frozen, "IN_MEMORY", 0)
    mapped = adapted(make_model("bert", adapter), adapter, recipe, accelerator, tmp_path).rows(features)
    assert isinstance(mapped[0]["inputs_embeds"], np.memmap)
    assert not list(tmp_path.iterdir())
    for first, second in zip(inside, mapped, strict=True):
        np.testing.assert_array_equal(first["inputs_embeds"], second["inputs_embeds"])
    train(
        adapted(make_model("bert", adapter), adapter, recipe, accelerator, tmp_path),
        adapter,
        features,
        recipe,
        accelerator,
    )


def test_a_frozen_encoder_has_defaults_of_its_own() -> None:
    frozen = TaskConfig(task="ner", name="toy", encoder="frozen")
    assert (frozen.learning_rate, frozen.num_train_epochs, frozen.weight_decay) == (1e-2, 40, 1.5)
    assert TaskConfig(task="ner", name="toy", encoder="frozen", learning_rate=0.5).learning_rate == 0.5
    swept = TaskConfig.model_validate({"task": "ner", "name": "toy", "encoder": "frozen", "sweep": {"n_trials": 4}})
    assert (max(swept.sweep.learning_rate), swept.sweep.n_trials) == (3e-2, 4)
    assert TaskConfig.model_validate(swept.model_dump()) == swept
    with pytest.raises(ValueError, match="frozen leaves muon no matrices"):
        TaskConfig(task="ner", name="toy", encoder="frozen", optim="muon")


def test_finetune_frozen_learns_and_exports(
    bpe: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_masked_lm("modernbert", len(bpe)).save_pretrained(tmp_path / "encoder")
    bpe.save_pretrained(tmp_path / "encoder")
    rows: list[int] = []
    compute = frozen.Frozen._compute
    monkeypatch.setattr(
        frozen.Frozen, "_compute", lambda self, features: (rows.append(len(features)), compute(self, features))[1]
    )
    files = write_texts(tmp_path)
    recipe = {"seeds": [0, 1], "max_steps": 200, "per_device_train_batch_size": 8, "train_fractions": [0.5]}
    task = settings(encoder="frozen", config={"classifier_pooling": "mean"}, **files, **recipe)
    figures = finetune(task, tmp_path / "encoder", tmp_path / "out")
    assert figures["pretrained"] >= 0.9
    # Each split once, whatever the seeds and the shares of the training set.
    assert rows == [figures[f"{split}_examples"] for split in ("train", "validation", "test")]
    assert accuracy_of_pipeline(tmp_path / "out", Path(files["test"])) in figures["pretrained_seeds"]
    exported = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    start = AutoModelForSequenceClassification.from_pretrained(tmp_path / "encoder").state_dict()
    assert all(torch.equal(tensor, start[f"model.{name}"]) for name, tensor in exported.model.state_dict().items())


def write_texts(folder: Path) -> dict[str, str]:
    for split, count in (("train", 64), ("test", 40)):
        rows = separable_texts(count, seed=len(split))
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {split: str(folder / f"{split}.jsonl") for split in ("train", "test")}


def accuracy_of_pipeline(model: Path, test: Path) -> float:
    rows = [json.loads(line) for line in test.read_text().splitlines()]
    found = pipeline("text-classification", model=str(model))([row["text"] for row in rows])
    return sum(answer["label"] == row["label"] for answer, row in zip(found, rows, strict=True)) / len(rows)
