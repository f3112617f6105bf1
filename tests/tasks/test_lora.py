"""Low-rank adapters: what is trained, that merging loses nothing, and folders that PEFT loads."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from mlm_pretrain.config import EncoderOrigin
from mlm_pretrain.errors import UserError
from mlm_pretrain.models.encoder import load_config, load_model
from mlm_pretrain.tasks.fit.finetune import finetune
from mlm_pretrain.tasks.fit.loop import trainable
from mlm_pretrain.tasks.fit.tuning.choose import adapt
from mlm_pretrain.tasks.inference.logits import logits_of
from mlm_pretrain.tasks.kinds.registered import TASKS
from tests.tasks.conftest import SENTENCES
from tests.tasks.test_adaptation import (
    accelerator,
    accuracy_of_pipeline,
    adapted,
    compare,
    make_adapter,
    make_model,
    settings,
    train,
    wordpiece,
    write_texts,
)

__all__ = ["accelerator", "wordpiece"]  # fixtures
# PEFT asks transformers for gradient checkpointing under its old name.
peft_warns = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.mark.parametrize("task", ["classification", "ner"])
@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert", "deberta-v2", "modernbert", "albert"])
def test_merged_adapters_are_a_plain_model_with_the_same_logits(
    architecture: str, task: str, wordpiece: PreTrainedTokenizerFast, accelerator: Accelerator, tmp_path: Path
) -> None:
    adapter, features = make_adapter(task, wordpiece)
    model = make_model(architecture, adapter)
    names = list(model.state_dict())
    recipe = settings(task, encoder="lora")
    adaptation = adapted(model, adapter, recipe, accelerator, tmp_path)
    prefix = f"{model.base_model_prefix}."
    for name, _ in adaptation.model.named_parameters():
        # The head and the pooler are trained whole, and get no adapters.
        assert ("lora_" in name) <= (name.startswith(prefix) and "pooler" not in name)
    expected = {name for name in names if not name.startswith(prefix) or "pooler" in name}
    whole = {name for name in trainable(adaptation.model) if "lora_" not in name}
    assert {name.replace("modules_to_save.default.", "") for name in whole} == expected

    train(adaptation, adapter, features, recipe, accelerator)
    wanted = logits_of(adapter, adaptation.model, features, 2)
    adapter.mark(adaptation.model)
    adaptation.model.config.noted = 3
    for _ in range(2):
        adaptation.save(tmp_path / "out")
    loaded = adapter.auto_class.from_pretrained(tmp_path / "out")
    assert list(loaded.state_dict()) == names
    assert loaded.config.noted == 3
    compare(logits_of(adapter, loaded, features, 2), wanted, features, rtol=1e-4, atol=1e-5)
    compare(logits_of(adapter, adaptation.model, features, 2), wanted, features, rtol=0, atol=0)


@peft_warns
def test_an_adapter_folder_loads_with_peft(
    encoder: Path, bpe: PreTrainedTokenizerFast, accelerator: Accelerator, tmp_path: Path, monkeypatch: Any
) -> None:
    import peft

    adapter = TASKS["classification"](["a", "b"], bpe, 16, 0, settings())
    features = adapter.encode([{"text": text, "label": "a"} for text in SENTENCES])
    recipe = settings(encoder="lora", lora={"merge": False, "r": 4, "lora_dropout": 0.1})
    model = load_model(adapter.auto_class, encoder, load_config(encoder, ["a", "b"], adapter.problem_type))
    adaptation = adapt(model, adapter, recipe, accelerator, EncoderOrigin(path=str(encoder)), tmp_path)
    train(adaptation, adapter, features, recipe, accelerator)
    adaptation.model.config.noted = 3
    monkeypatch.chdir(encoder.parent)
    adaptation.save(tmp_path / "out")
    wanted = logits_of(adapter, adaptation.model, features, 2)

    out = tmp_path / "out"
    assert {file.name for file in out.iterdir()} == {"adapter_config.json", "adapter_model.safetensors", "config.json"}
    for file in out.glob("*.json"):
        assert str(encoder.parent) not in file.read_text()
    config = AutoConfig.from_pretrained(out)
    assert config.id2label == {0: "a", 1: "b"} and config.noted == 3
    assert config.architectures[0].endswith("ForSequenceClassification")
    under = AutoModelForSequenceClassification.from_pretrained(encoder, config=config)
    for loaded in (
        peft.PeftModel.from_pretrained(under, out),
        peft.AutoPeftModelForSequenceClassification.from_pretrained(out, num_labels=2),
    ):
        compare(logits_of(adapter, loaded, features, 2), wanted, features, rtol=1e-4, atol=1e-5)
    ours = load_model(AutoModelForSequenceClassification, out, config)
    assert not any("lora" in name for name, _ in ours.named_parameters())
    compare(logits_of(adapter, ours, features, 2), wanted, features, rtol=1e-4, atol=1e-5)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no folder, and no Hub repository"):
        load_model(AutoModelForSequenceClassification, out, config)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("me/encoder", "me/encoder"),
        ("runs/a/model", "runs/a/model"),
        ("{here}/a/model", "a/model"),
        ("/b/c/model", "model"),
    ],
)
def test_an_adapter_names_its_encoder_without_the_way_to_it(
    given: str,
    named: str,
    wordpiece: PreTrainedTokenizerFast,
    accelerator: Accelerator,
    tmp_path: Path,
    monkeypatch: Any,
) -> None:
    monkeypatch.chdir(tmp_path)
    adapter, _ = make_adapter("classification", wordpiece)
    recipe = settings(encoder="lora", lora={"merge": False})
    origin = EncoderOrigin(path=given.format(here=tmp_path), revision="v1")
    adapt(make_model("bert", adapter), adapter, recipe, accelerator, origin, tmp_path).save(tmp_path / "out")
    found = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (found["base_model_name_or_path"], found["revision"]) == (named, "v1")


def test_target_modules_that_are_nowhere_are_named(
    wordpiece: PreTrainedTokenizerFast, accelerator: Accelerator, tmp_path: Path
) -> None:
    adapter, _ = make_adapter("classification", wordpiece)
    recipe = settings(encoder="lora", lora={"target_modules": ["q_proj"]})
    with pytest.raises(
        UserError, match=r"lora\.target_modules: \['q_proj'\] .* there are dense, key, query, value, or all-linear"
    ):
        adapted(make_model("bert", adapter), adapter, recipe, accelerator, tmp_path)
    recipe = settings(encoder="lora", lora={"target_modules": ["query", "value"]})
    adaptation = adapted(make_model("bert", adapter), adapter, recipe, accelerator, tmp_path)
    assert sum("lora_A" in name for name in trainable(adaptation.model)) == 4


def test_peft_is_asked_for_where_it_is_missing(
    wordpiece: PreTrainedTokenizerFast, accelerator: Accelerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    adapter, _ = make_adapter("classification", wordpiece)
    with pytest.raises(UserError, match=r"pip install 'mlm-pretrain\[lora\]'"):
        adapted(make_model("bert", adapter), adapter, settings(encoder="lora"), accelerator, tmp_path)


def test_finetune_with_adapters_learns_and_exports(encoder: Path, tmp_path: Path) -> None:
    files = write_texts(tmp_path)
    task = settings(encoder="lora", **files, seeds=[0], max_steps=80, per_device_train_batch_size=8)
    figures = finetune(task, encoder, tmp_path / "out")
    assert figures["encoder"] == "lora" and figures["pretrained"] >= 0.95
    assert accuracy_of_pipeline(tmp_path / "out", Path(files["test"])) == figures["pretrained"]
