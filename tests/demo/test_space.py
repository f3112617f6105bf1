"""The repository of a Space: what the Hub reads of it, and an app that is Python."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import SpaceCard
from packaging.requirements import Requirement

import mlm_pretrain
from mlm_pretrain import demo
from mlm_pretrain.demo.space import SDK_VERSION, space_files
from mlm_pretrain.run import RunDirectory
from tests.demo.conftest import TASKS
from tests.hub_server import hub_server
from tests.hub_server.clients import client

PUSH = "import sys; from mlm_pretrain.cli import main; sys.exit(main(sys.argv[1:]))"
SERVE = """
import json, sys
from mlm_pretrain import demo
from mlm_pretrain.demo.models import find

def serve(models, host, port):
    print(json.dumps({model.name: model.kind for model in find(models)}))

demo.serve = serve
exec(open(sys.argv[1]).read())
"""
MODELS = ["me/wiki-mini", "me/wiki-mini-entities"]


def test_the_hub_reads_the_front_matter() -> None:
    files = space_files("Wiki: mini", MODELS, "apache-2.0")
    assert set(files) == {"README.md", "app.py", "requirements.txt"}
    card = SpaceCard(files["README.md"].decode())
    data = card.data.to_dict()
    assert data["sdk"] == "gradio" and data["app_file"] == "app.py" and data["title"] == "Wiki: mini"
    assert data["models"] == MODELS and data["license"] == "apache-2.0"
    assert all(f"https://huggingface.co/{model}" in card.text for model in MODELS)
    pins = (Path(__file__).parents[2] / "constraints.txt").read_text().splitlines()
    assert f"gradio=={data['sdk_version']}" in pins and data["sdk_version"] == SDK_VERSION


def test_the_app_serves_the_models(monkeypatch: pytest.MonkeyPatch) -> None:
    served = []
    monkeypatch.setattr(demo, "serve", lambda models, **where: served.append((models, where)))
    exec(compile(space_files("Wiki", MODELS)["app.py"], "app.py", "exec"), {})
    assert served == [(MODELS, {"host": "0.0.0.0", "port": 7860})]


def test_the_requirement_is_this_package() -> None:
    requirement = Requirement(space_files("Wiki", MODELS)["requirements.txt"].decode().strip())
    assert requirement.name == "mlm-pretrain" and requirement.extras == {"demo"}
    assert str(requirement.specifier) == f"=={mlm_pretrain.__version__}"


def test_push_makes_a_space_whose_app_finds_its_models(demo_run: RunDirectory, tmp_path: Path) -> None:
    """Through the Hub's protocol: pushed by one process, the Space's app run by another that has only the Hub."""
    with hub_server() as hub:
        push = ["push", demo_run.root, "--repo-id", "tester/tiny", "--space"]
        pushed = client(PUSH, *push, endpoint=hub.endpoint, home=tmp_path)
        assert pushed.returncode == 0, pushed.stdout + pushed.stderr
        repo = hub.repos["spaces/tester/tiny-demo"]
        assert {"README.md", "app.py", "requirements.txt"} <= set(repo.files)
        models = SpaceCard(repo.files["README.md"].decode()).data.to_dict()["models"]
        assert set(models) == {name for name in hub.repos if not name.startswith("spaces/")}
        (tmp_path / "app.py").write_bytes(repo.files["app.py"])
        served = client(SERVE, tmp_path / "app.py", endpoint=hub.endpoint, home=tmp_path / "elsewhere")
        assert served.returncode == 0, served.stderr
        kinds = {f"tester/tiny-{name}": kind for name, kind in TASKS.items()}
        assert json.loads(served.stdout) == {"tester/tiny": "masked_lm", **kinds}
