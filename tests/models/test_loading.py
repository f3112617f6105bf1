"""Checkpoints come in by one door: no code but on the user's word, no pickles, and reasons in one line."""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, PreTrainedTokenizerFast

import mlm_pretrain
from mlm_pretrain import stages
from mlm_pretrain.config import ModelConfig, TaskConfig
from mlm_pretrain.errors import UserError
from mlm_pretrain.models.build import build_model
from mlm_pretrain.models.encoder import load_config, load_model, load_tokenizer
from mlm_pretrain.models.loading import Checkpoint
from mlm_pretrain.run import RunDirectory
from mlm_pretrain.tasks.fit.finetune import finetune
from tests.conftest import tiny_config
from tests.hub_server import Fault, HubServer, Repo, hub_server
from tests.hub_server.clients import client
from tests.models.checkpoints import bring_code, pickle_that_writes, tiny_checkpoint

PACKAGE = Path(mlm_pretrain.__file__).parent


def test_nothing_is_loaded_by_any_other_door() -> None:
    doors = {"loading.py": {"from_pretrained"}, "new.py": {"from_config"}, "low_rank.py": {"from_pretrained"}}
    read = 0
    for file in PACKAGE.rglob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        read += len(used & {"from_pretrained", "from_config"})
        assert used & {"from_pretrained", "from_config"} <= doors.get(file.name, set()), file
        calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
        named = {ast.unparse(call) for call in calls}
        assert not named & {"torch.load", "pickle.load", "pickle.loads", "pipeline", "transformers.pipeline"}, file
    assert read == 3


# -- code ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", ["harbour", "bert"])
def test_code_runs_on_the_users_word_alone(model_type: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    """Of an architecture that transformers has too, its own class is taken."""
    mark, folder = tmp_path / "ran", tmp_path / "encoder"
    tiny_checkpoint(folder, "bert", tokenizer)
    bring_code(folder, mark, model_type)
    closed = Checkpoint(str(folder), consent="model.trust_remote_code=true")
    if model_type == "bert":
        closed.weights(AutoModelForMaskedLM, closed.config())
    else:
        with pytest.raises(UserError, match=r"brings code of its own.*say so here: model\.trust_remote_code=true"):
            closed.config()
        with pytest.raises(UserError, match="brings code of its own, which never runs here"):
            Checkpoint(str(folder)).config()
    assert closed.tokenizer().get_vocab() == tokenizer.get_vocab()
    assert not mark.exists()
    open_ = Checkpoint(str(folder), trust_remote_code=True)
    model, _ = open_.weights(AutoModelForMaskedLM, open_.config())
    assert mark.exists() and type(model).__name__ == "OwnMaskedLM"


def test_a_config_can_not_name_a_kernel_of_the_hub(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path, "bert", tokenizer)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"attn_implementation": "someone/kernel"}))
    checkpoint = Checkpoint(str(tmp_path))
    model, _ = checkpoint.weights(AutoModelForMaskedLM, checkpoint.config())
    assert model.config._attn_implementation in ("sdpa", "eager")


@pytest.mark.parametrize(
    "keys", [{"attn_implementation": "someone/kernel"}, {"config": {"attn_implementation": "a/b"}}]
)
def test_a_run_that_somebody_else_made_can_not_name_a_kernel_either(
    keys: dict[str, Any], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    tiny_checkpoint(tmp_path, "bert", tokenizer)
    places: list[dict[str, Any]] = [{"model_type": "bert"}]
    if "config" not in keys:  # over a checkpoint's own config it counts for nothing
        places.append({"path": str(tmp_path)})
    for place in places:
        with pytest.raises(UserError, match=r"is code of the Hub, .*trust_remote_code=true"):
            build_model(ModelConfig(**place, **keys), tokenizer, sequence_length=16, seed=0)


# -- pickles ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "adapter_model.bin"])
def test_pickled_weights_are_never_read(name: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    mark, folder = tmp_path / "unpickled", tmp_path / "encoder"
    tiny_checkpoint(folder, "bert", tokenizer)
    (folder / "model.safetensors").unlink()
    pickle_that_writes(folder / name, mark)
    checkpoint = Checkpoint(str(folder))
    with pytest.raises(UserError, match=rf"its weights are pickled \({name}\).*only safetensors are loaded"):
        checkpoint.weights(AutoModelForMaskedLM, checkpoint.config())
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"transformers_weights": name}))
    with pytest.raises(UserError, match="its weights are pickled"):
        checkpoint.config()
    assert not mark.exists()


def test_it_is_said_before_text_or_labels_are_read(
    corpus: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "encoder"
    tiny_checkpoint(folder, "bert", tokenizer)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    config = tiny_config(corpus, tmp_path, model={"path": str(folder), "model_type": None, "config": {}})
    with pytest.raises(UserError, match="its weights are pickled"):
        stages.pretrain(config)
    assert not RunDirectory.of(config).validation.exists() and "read" not in capsys.readouterr().err
    task = TaskConfig(task="classification", name="toy", train=str(tmp_path / "absent.jsonl"))
    with pytest.raises(UserError, match="its weights are pickled"):
        finetune(task, folder, tmp_path / "toy")


def test_pickled_adapters_are_never_read(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    mark, encoder, folder = tmp_path / "unpickled", tmp_path / "encoder", tmp_path / "adapter"
    tiny_checkpoint(encoder, "bert", tokenizer)
    shutil.copytree(encoder, folder)
    named = {"peft_type": "LORA", "base_model_name_or_path": str(encoder), "target_modules": ["query"], "r": 2}
    (folder / "adapter_config.json").write_text(json.dumps(named))
    pickle_that_writes(folder / "adapter_model.bin", mark)
    with pytest.raises(UserError, match="pickled adapters are never read"):
        load_model(AutoModelForMaskedLM, folder, load_config(folder))
    # Pretraining goes on with whole models alone.
    with pytest.raises(UserError, match=r"holds adapters \(adapter_config.json\), not a whole model"):
        Checkpoint(str(folder)).weights(AutoModelForMaskedLM, load_config(folder))
    assert not mark.exists()


OTHERS = {
    # A prompt's settings name a tokenizer, which is loaded with whatever arguments they give.
    "PROMPT_TUNING": {"num_virtual_tokens": 2, "tokenizer_kwargs": None},
    # A mixture names further adapters, pickled ones too.
    "XLORA": {"hidden_size": 32, "adapters": {"0": "somebody/else"}},
}


@pytest.mark.parametrize("kind", OTHERS)
def test_an_adapter_of_another_kind_is_one_line(kind: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    encoder, folder = tmp_path / "encoder", tmp_path / "adapter"
    tiny_checkpoint(encoder, "bert", tokenizer)
    shutil.copytree(encoder, folder)
    named = {"peft_type": kind, "base_model_name_or_path": str(encoder), "task_type": "FEATURE_EXTRACTION"}
    (folder / "adapter_config.json").write_text(json.dumps(named | OTHERS[kind]))
    save_file(load_file(encoder / "model.safetensors"), folder / "adapter_model.safetensors")
    with pytest.raises(UserError, match=f"{kind} has nothing to merge into an encoder"):
        load_model(AutoModelForMaskedLM, folder, load_config(folder))


# -- reasons ------------------------------------------------------------------------------------------------------

OPEN = """
import sys
from transformers import AutoModel
from mlm_pretrain.errors import UserError
from mlm_pretrain.models.build import build_model
from mlm_pretrain.models.loading import Checkpoint
for place in sys.argv[1:]:
    name, _, revision = place.partition("@")
    checkpoint = Checkpoint(name, revision or None, consent="--trust-remote-code")
    try:
        model, _ = checkpoint.weights(AutoModel, checkpoint.config())
        print(place, "|", type(model).__name__)
    except UserError as error:
        print(place, "|", error)
"""


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with hub_server() as hub:
        yield hub


def upload(hub: HubServer, name: str, folder: Path) -> None:
    hub.repos[name] = Repo(private=False)
    files = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    hub.repos[name].commit("main", {**files}, set(), "all")


def test_why_a_hub_checkpoint_can_not_be_used(
    hub: HubServer, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    mark = tmp_path / "ran"
    names = ("whole", "pickled", "code", "gated", "flax", "unknown", "private")
    for name in names:
        tiny_checkpoint(tmp_path / name, "bert", tokenizer)
    (tmp_path / "pickled" / "model.safetensors").unlink()
    pickle_that_writes(tmp_path / "pickled" / "pytorch_model.bin", mark)
    (tmp_path / "flax" / "model.safetensors").rename(tmp_path / "flax" / "flax_model.msgpack")
    bring_code(tmp_path / "code", mark, "harbour")
    config = json.loads((tmp_path / "unknown" / "config.json").read_text())
    (tmp_path / "unknown" / "config.json").write_text(json.dumps(config | {"model_type": "bert-2031"}))
    for name in names:
        upload(hub, f"lab/{name}", tmp_path / name)
    hub.repos["lab/private"].private = True
    hub.faults += [Fault(".* /(api/models/)?lab/gated", status=403, message="ask first", code="GatedRepo")]
    wrong = "Invalid credentials in Authorization header"
    hub.faults += [Fault(".* /(api/models/)?lab/locked", status=401, message=wrong)]
    places = [f"lab/{name}" for name in names] + ["lab/whole@v9", "lab/missing", "lab/locked"]
    home = tmp_path / "home"
    done = client(OPEN, *places, endpoint=hub.endpoint, home=home, token=None)
    said = dict(line.split(" | ") for line in done.stdout.splitlines())
    assert said["lab/whole"] == "BertModel"
    assert "its weights are pickled (pytorch_model.bin)" in said["lab/pickled"]
    assert "revision: refs/pr/N" in said["lab/pickled"]
    assert "it brings code of its own" in said["lab/code"] and "--trust-remote-code" in said["lab/code"]
    assert f"ask for access at {hub.endpoint}/lab/gated" in said["lab/gated"]
    assert "no weights in safetensors (only flax_model.msgpack)" in said["lab/flax"]
    assert "doesn't know its architecture" in said["lab/unknown"] and "bert-2031" in said["lab/unknown"]
    for name in ("private", "missing"):
        assert "neither a folder here nor a repository that the Hub shows you" in said[f"lab/{name}"]
    assert "has no revision 'v9'" in said["lab/whole@v9"]
    assert "can't be loaded from the Hub: " in said["lab/locked"] and "401" in said["lab/locked"]
    assert not mark.exists() and not any("be reached" in line for line in said.values())
    # Nobody was asked to convert anything.
    assert not hub.asked("POST (?!/api/(models|whoami))")

    gone = client(OPEN, "lab/whole", "lab/elsewhere", endpoint="http://127.0.0.1:1", home=home, token=None)
    kept, unreached = gone.stdout.splitlines()
    assert kept == "lab/whole | BertModel"  # from the cache
    assert "the Hub can't be reached (http://127.0.0.1:1" in unreached


def test_offline_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no folder, and no Hub repository whose files are in .*HF_HUB_OFFLINE"):
        Checkpoint("nobody/nothing").config()
    with pytest.raises(UserError, match="there is no such folder"):
        Checkpoint(str(tmp_path / "nowhere")).config()
    with pytest.raises(UserError, match="no transformers checkpoint there"):
        Checkpoint(str(tmp_path)).config()
    with pytest.raises(UserError, match="has no AutoModelForMaskedLM"):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
        Checkpoint(str(tmp_path)).weights(AutoModelForMaskedLM, Checkpoint(str(tmp_path)).config())


def test_a_model_loads_as_with_transformers(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path, "roberta", tokenizer)
    ours, report = Checkpoint.of(tmp_path).weights(AutoModel, Checkpoint.of(tmp_path).config())
    theirs = AutoModel.from_pretrained(tmp_path).state_dict()
    assert all((theirs[name] == tensor).all() for name, tensor in ours.state_dict().items() if "pooler" not in name)
    assert report["missing_keys"] == {"pooler.dense.weight", "pooler.dense.bias"}


# -- what is no encoder of text --------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", ["bert", "roberta", "deberta-v2"])
def test_a_tokenizer_without_its_files_is_refused(
    model_type: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """transformers makes one of special tokens alone, for which every word is unknown."""
    tiny_checkpoint(tmp_path, model_type, tokenizer)
    for file in tmp_path.glob("*token*"):
        file.unlink()
    with pytest.raises(UserError, match=r"its tokenizer knows no words \(.* alone\).* is missing"):
        Checkpoint(str(tmp_path)).tokenizer()


def test_a_model_of_pictures_is_no_encoder_of_text(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    AutoConfig.for_model("vit", hidden_size=32).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="a vit model has no vocabulary; an encoder of text is needed"):
        load_tokenizer(str(tmp_path), load_config(str(tmp_path)))
