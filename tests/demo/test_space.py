"""The repository of a Space: what the Hub reads of it, and an app that is Python."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from huggingface_hub import SpaceCard
from packaging.requirements import Requirement
from packaging.version import Version

import mlm_pretrain
from mlm_pretrain.demo.space import SDK_VERSION, space_files
from mlm_pretrain.demo.wheel import WHEEL, wheel
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
exec(open(sys.argv[1]).read(), {"__file__": sys.argv[1]})
"""
MODELS = ["me/wiki-mini", "me/wiki-mini-entities"]


def test_the_hub_reads_the_front_matter() -> None:
    files = space_files("Wiki: mini", MODELS, "apache-2.0")
    assert set(files) == {"README.md", "app.py", "requirements.txt", WHEEL}
    card = SpaceCard(files["README.md"].decode())
    data = card.data.to_dict()
    assert data["sdk"] == "gradio" and data["app_file"] == "app.py" and data["title"] == "Wiki: mini"
    assert data["models"] == MODELS and data["license"] == "apache-2.0"
    assert all(f"https://huggingface.co/{model}" in card.text for model in MODELS)
    pins = (Path(__file__).parents[2] / "constraints.txt").read_text().splitlines()
    assert f"gradio=={data['sdk_version']}" in pins and data["sdk_version"] == SDK_VERSION


CHECK = """
import mlm_pretrain.demo

assert mlm_pretrain.__file__.startswith(folder), mlm_pretrain.__file__
serve = lambda models, **where: print(models, where)
"""


def test_the_app_runs_on_the_wheel_beside_it(tmp_path: Path) -> None:
    """Without the network, in a process that has no other copy of the package on its path."""
    files = space_files("Wiki", MODELS)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    app = files["app.py"].decode().replace("from mlm_pretrain.demo import serve", CHECK)
    (tmp_path / "app.py").write_text(app)
    done = subprocess.run(
        [sys.executable, "app.py"],
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{MODELS} {{'host': '0.0.0.0', 'port': 7860}}"


def test_pip_installs_the_wheel_with_the_files_of_the_package(tmp_path: Path) -> None:
    (tmp_path / WHEEL).write_bytes(space_files("Wiki", MODELS)[WHEEL])
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--target", str(site), str(tmp_path / WHEEL)], check=True, capture_output=True)
    package = Path(mlm_pretrain.__file__).parent
    for name in (
        "cli/command.py",
        "py.typed",
        "configs/quickstart.yaml",
        "model_cards/encoder.md.jinja",
        "models/presets/nano.yaml",
    ):
        assert (site / "mlm_pretrain" / name).read_bytes() == (package / name).read_bytes()
    sources = {path.relative_to(package) for path in package.rglob("*.py")}
    assert {path.relative_to(site / "mlm_pretrain") for path in (site / "mlm_pretrain").rglob("*.py")} == sources
    assert wheel() == wheel()


def test_a_users_own_configs_in_a_checkout_are_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, configs = tmp_path / "mlm_pretrain", tmp_path / "configs"
    (configs / "private").mkdir(parents=True)
    package.mkdir()
    (package / "configs").symlink_to(configs)
    for name in ("quickstart.yaml", "mine.yaml", "private/quickstart.yaml"):
        (configs / name).write_text("run: {name: x}")
    (package / "cli.py").touch()
    monkeypatch.setattr("mlm_pretrain.demo.wheel.PACKAGE", package)
    with zipfile.ZipFile(io.BytesIO(wheel())) as archive:
        sent = {name for name in archive.namelist() if name.startswith("mlm_pretrain/")}
    assert sent == {"mlm_pretrain/cli.py", "mlm_pretrain/configs/quickstart.yaml"}


def test_what_the_page_needs_is_pinned() -> None:
    lines = space_files("Wiki", MODELS)["requirements.txt"].decode().splitlines()
    needed = {Requirement(line).name: Requirement(line) for line in lines}
    assert {"torch", "transformers", "gradio", "pyyaml"} <= set(needed) and "mlm-pretrain" not in needed
    for name, requirement in needed.items():
        assert requirement.specifier.contains(Version(metadata.version(name)).public), requirement
        assert "+" not in str(requirement.specifier) and len(requirement.specifier) == 1


def test_push_makes_a_space_whose_app_finds_its_models(demo_run: RunDirectory, tmp_path: Path) -> None:
    """Through the Hub's protocol: pushed by one process, the Space's app run by another that has only the Hub."""
    with hub_server() as hub:
        push = ["push", demo_run.root, "--repo-id", "tester/tiny", "--space"]
        pushed = client(PUSH, *push, endpoint=hub.endpoint, home=tmp_path)
        assert pushed.returncode == 0, pushed.stdout + pushed.stderr
        repo = hub.repos["spaces/tester/tiny-demo"]
        assert {"README.md", "app.py", "requirements.txt", WHEEL} <= set(repo.files)
        models = SpaceCard(repo.files["README.md"].decode()).data.to_dict()["models"]
        assert set(models) == {name for name in hub.repos if not name.startswith("spaces/")}
        for name in ("app.py", WHEEL):
            (tmp_path / name).write_bytes(repo.files[name])
        served = client(SERVE, tmp_path / "app.py", endpoint=hub.endpoint, home=tmp_path / "elsewhere")
        assert served.returncode == 0, served.stderr
        kinds = {f"tester/tiny-{name}": kind for name, kind in TASKS.items()}
        assert json.loads(served.stdout) == {"tester/tiny": "masked_lm", **kinds}
