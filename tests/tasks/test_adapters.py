"""What holds for every adapter: accumulation is one big batch, padding changes nothing, encoders load or say why."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast, RobertaConfig

from mlm_pretrain.config import TaskConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.hardware.device import make_accelerator
from mlm_pretrain.models.encoder import check_vocabulary, load_config, load_model, load_tokenizer, window_length
from mlm_pretrain.runtime.loss import Batch, backward_global_batch
from mlm_pretrain.tasks.adapter import TaskAdapter
from mlm_pretrain.tasks.inference.logits import logits_of
from mlm_pretrain.tasks.kinds.classification import Classification
from mlm_pretrain.tasks.kinds.ner import TokenClassification
from mlm_pretrain.tasks.kinds.registered import TASKS
from tests.tasks.conftest import separable_sentences, separable_texts

TOY = TaskConfig(task="classification", name="toy")
LABELS = {
    "classification": ["bad", "good"],
    "multi_label_classification": ["bad", "even", "good"],
    "regression": ["score"],
    "ner": ["O", "B-LOC", "I-LOC"],
}
# Of the labels that aren't ignored, as the mean over them.
LOSSES = {
    "classification": torch.nn.functional.cross_entropy,
    "multi_label_classification": torch.nn.functional.binary_cross_entropy_with_logits,
    "regression": lambda logits, labels: torch.nn.functional.mse_loss(logits[:, 0], labels),
    "ner": torch.nn.functional.cross_entropy,
}


TEXT_LABELS: dict[str, Callable[[str, int], Any]] = {
    "classification": lambda label, number: label,
    "multi_label_classification": lambda label, number: [label, "even"][: number % 3],
    "regression": lambda label, number: number / 2 - 1,
}


def examples_of(name: str, count: int = 12) -> list[dict]:
    if name in TEXT_LABELS:
        # No text twice: rounding would decide about their ranks.
        texts = [{**row, "text": f"{n} {row['text']}"} for n, row in enumerate(separable_texts(count, seed=1))]
        return [{**row, "label": TEXT_LABELS[name](row["label"], n)} for n, row in enumerate(texts)]
    return [{"tokens": tokens, "tags": tags} for tokens, tags in separable_sentences(count, seed=1)]


@pytest.fixture(params=[*LABELS])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def adapter(name: str, bpe: PreTrainedTokenizerFast) -> TaskAdapter:
    return TASKS[name](LABELS[name], bpe, max_length=16, stride=2)


@pytest.fixture
def model(adapter: TaskAdapter, encoder: Path) -> torch.nn.Module:
    torch.manual_seed(0)
    return load_model(adapter.auto_class, encoder, load_config(encoder, adapter.labels))


def test_accumulation_is_one_big_batch(adapter: TaskAdapter, name: str, model: torch.nn.Module) -> None:
    accelerator = make_accelerator(TaskConfig(task=name, name="toy", bf16=False))
    features = adapter.encode(examples_of(name))
    loss_of = lambda batch: adapter.loss(model, batch)  # noqa: E731

    def gradients(micro_batches: list[Batch]) -> tuple[float, dict[str, torch.Tensor]]:
        model.zero_grad()
        loss = backward_global_batch(accelerator, model, micro_batches, loss_of)
        return loss.mean.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    once, whole = gradients([adapter.collate(features)])
    # Uneven parts, so that a mean of means would differ.
    twice, parts = gradients([adapter.collate(part) for part in (features[:1], features[1:4], features[4:])])
    assert twice == pytest.approx(once, rel=1e-5)
    assert whole.keys() == parts.keys()
    # Against the largest: near zero the rounding of other sums shows, which differs between CPUs.
    largest = max(float(gradient.abs().max()) for gradient in whole.values())
    for parameter in whole:
        torch.testing.assert_close(parts[parameter], whole[parameter], rtol=1e-4, atol=1e-5 * largest)
    labels = adapter.collate(features)["labels"]
    logits = model(**{key: value for key, value in adapter.collate(features).items() if key != "labels"}).logits
    if labels.ndim == logits.ndim - 1:  # of rows or tokens, not of each output
        logits, labels = logits[labels != -100], labels[labels != -100]
    mean = LOSSES[name](logits, labels)
    assert once == pytest.approx(mean.item(), rel=1e-5)


def test_padding_changes_neither_logits_nor_metrics(adapter: TaskAdapter, name: str, model: torch.nn.Module) -> None:
    examples = examples_of(name, 20)
    features = adapter.encode(examples)
    alone = [logits_of(adapter, model, [feature], batch_size=1)[0] for feature in features]
    together = logits_of(adapter, model, features, batch_size=20)
    for feature, one, padded in zip(features, alone, together, strict=True):
        length = len(feature["input_ids"])
        assert name in TEXT_LABELS or one.shape[0] == length <= padded.shape[0]
        np.testing.assert_allclose(padded if name in TEXT_LABELS else padded[:length], one, rtol=1e-4, atol=1e-6)
    scores = [
        adapter.metrics(examples, adapter.predictions(examples, features, logits)) for logits in (alone, together)
    ]
    for figure, value in scores[0].items():
        assert scores[1][figure] == (value if isinstance(value, dict) else pytest.approx(value, rel=1e-3, abs=1e-6))


def test_long_texts_are_cut_and_counted(bpe: PreTrainedTokenizerFast) -> None:
    adapter = Classification(["a", "b"], bpe, max_length=8)
    short, long = adapter.encode([{"text": "a b", "label": "b"}, {"text": "a " * 50}])
    assert (short["labels"], short["truncated"]) == (1, False)
    assert (long["labels"], long["truncated"], len(long["input_ids"])) == (-100, True, 8)
    assert long["input_ids"][-1] == bpe.sep_token_id


def rows(*labels: str) -> list[dict]:
    return [{"text": "", "label": label, "place": f"f:{number}"} for number, label in enumerate(labels, start=1)]


def test_classes_are_learnt_from_train() -> None:
    assert Classification.label_names(rows("10", "9", "-1"), TOY) == ["-1", "9", "10"]
    assert Classification.label_names(rows("no", "maybe"), TOY) == ["maybe", "no"]
    with pytest.raises(UserError, match="f:1: every training label is 'x'; two"):
        Classification.label_names(rows("x", "x"), TOY)


def test_majority_class(bpe: PreTrainedTokenizerFast) -> None:
    adapter = Classification(["a", "b"], bpe, 8)
    predictions = adapter.majority(rows("b", "a", "b"), rows("a", "b", "a", "a"))
    assert adapter.metrics(rows("a", "b", "a", "a"), predictions)["accuracy"] == 0.25


# -- encoders ----------------------------------------------------------------------------------------------------


def test_loading_keeps_the_encoder_and_names_the_labels(encoder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = load_model(AutoModelForSequenceClassification, encoder, load_config(encoder, ["no", "yes"]))
    saved = load_file(encoder / "model.safetensors")
    kept = [name for name, value in model.state_dict().items() if name in saved and torch.equal(value, saved[name])]
    assert len(kept) == sum(name in saved for name in model.state_dict()) > 10
    assert model.config.id2label == {0: "no", 1: "yes"}
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""  # no report of newly drawn heads


def test_bare_encoders_and_half_precision_load_too(encoder: Path, tmp_path: Path) -> None:
    model = load_model(AutoModelForSequenceClassification, encoder, load_config(encoder, ["no", "yes"]))
    model.base_model.half().save_pretrained(tmp_path)
    again = load_model(AutoModelForSequenceClassification, tmp_path, load_config(tmp_path, ["no", "yes"]))
    assert again.dtype == torch.float32
    for ours, theirs in zip(again.base_model.parameters(), model.base_model.parameters(), strict=True):
        assert torch.equal(ours, theirs.float())


def copy_of(encoder: Path, folder: Path) -> Path:
    return Path(shutil.copytree(encoder, folder / "copy"))


def test_checkpoints_that_do_not_fit(encoder: Path, tmp_path: Path) -> None:
    copy = copy_of(encoder, tmp_path)
    config = load_config(copy, ["no", "yes"])
    weights = load_file(copy / "model.safetensors")
    save_file({f"other.{name}": value for name, value in weights.items()}, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="none of its weights belongs to a"):
        load_model(AutoModelForSequenceClassification, copy, config)
    save_file(
        {name: value for name, value in weights.items() if "layers.1." not in name and "layer.1." not in name},
        copy / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(UserError, match="of the encoder's weights are missing"):
        load_model(AutoModelForSequenceClassification, copy, config)
    (copy / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(UserError, match="damaged weights"):
        load_model(AutoModelForSequenceClassification, copy, config)
    (copy / "model.safetensors").unlink()
    with pytest.raises(UserError, match="no weights in safetensors"):
        load_model(AutoModelForSequenceClassification, copy, config)
    (copy / "config.json").unlink()
    with pytest.raises(UserError, match="no transformers checkpoint there"):
        load_config(copy)
    (copy / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="no tokenizer"):
        load_tokenizer(copy)
    with pytest.raises(UserError, match="there is no such folder"):
        load_config(tmp_path / "nowhere")


def test_vocabularies_must_belong_together(encoder: Path, tmp_path: Path) -> None:
    copy = copy_of(encoder, tmp_path)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "vocab_size": 100}))
    with pytest.raises(UserError, match=r"the tokenizer has ids up to 3.., the model 100"):
        check_vocabulary(copy, load_config(copy), load_tokenizer(copy))


def test_window_length(bpe: PreTrainedTokenizerFast) -> None:
    config = AutoConfig.for_model("bert", max_position_embeddings=48)
    assert window_length(config, bpe) == 48
    assert window_length(config, bpe, 20) == 20
    assert window_length(AutoConfig.for_model("bert"), bpe) == 64  # the tokenizer's own limit
    assert window_length(RobertaConfig(max_position_embeddings=34, pad_token_id=1), bpe) == 32
    with pytest.raises(UserError, match="max_length: 49 tokens are more than the 48"):
        window_length(config, bpe, 49)
    with pytest.raises(UserError, match="stride: 8 leaves no room"):
        window_length(config, bpe, 10, stride=8)


def test_ner_needs_offsets(bpe: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow:
        is_fast = False
        name_or_path = "slow"

    with pytest.raises(UserError, match="slow: labelling words needs a fast tokenizer"):
        TokenClassification(["O"], Slow(), 10)  # type: ignore[arg-type]
