"""The wheel carries what the code reads: presets, card templates, the quickstart config."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

USE = """
import pathlib, sys
import mlm_pretrain
from mlm_pretrain.config_file import load_config
from mlm_pretrain.config.presets import preset_names, read_preset
from importlib.resources import files

assert pathlib.Path(mlm_pretrain.__file__).is_relative_to(sys.argv[1]), mlm_pretrain.__file__
assert {"nano", "mini", "small", "base", "large", "bert-base", "roberta-base"} <= set(preset_names())
assert read_preset(load_config("quickstart").model.preset)["model_type"] == "modernbert"
cards = files("mlm_pretrain") / "model_cards"
assert "<!DOCTYPE html>" in (cards / "report.html.jinja").read_text(encoding="utf-8")
assert all("##" in (cards / name).read_text(encoding="utf-8") for name in ("encoder.md.jinja", "task.md.jinja"))
assert (files("mlm_pretrain") / "py.typed").is_file()
"""


def test_a_wheel_installed_elsewhere_has_its_data(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "mlm_pretrain", source / "mlm_pretrain", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True, capture_output=True)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    subprocess.run([sys.executable, "-c", USE, str(site)], check=True, cwd=tmp_path, env=environment)
