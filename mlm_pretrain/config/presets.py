"""The model presets: YAML files with `model_type` and keys of that transformers config."""

from __future__ import annotations

import importlib.resources
from typing import Any

import yaml

from mlm_pretrain.errors import UserError, nearest

FOLDER = importlib.resources.files("mlm_pretrain") / "models" / "presets"


def preset_names() -> list[str]:
    return sorted(entry.name.removesuffix(".yaml") for entry in FOLDER.iterdir() if entry.name.endswith(".yaml"))


def read_preset(name: str) -> dict[str, Any]:
    """
    Raises:
        UserError: there is no such preset.
    """
    if name not in preset_names():
        raise UserError(f"model.preset: there is no preset '{name}'{nearest(name, preset_names())}")
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
