"""The Hub's check of a card's metadata, as far as its documentation tells the rules."""

from __future__ import annotations

import re

import yaml

_YAML_BLOCK = re.compile(r"^\s*---\r?\n([\S\s]*?)\r?\n---[ \t]*(\r?\n|$)")
_REPO_ID = re.compile(r"^[\w-][\w.-]*(/[\w-][\w.-]*)?$")


def card_problems(content: str) -> list[str]:
    """What the Hub would refuse in a card's metadata: no mapping, ids that are none, a model index out of shape."""
    block = _YAML_BLOCK.match(content)
    data = yaml.safe_load(block[1]) if block else None
    if not isinstance(data, dict):
        return ["there is no metadata block"]
    problems = []
    for key in ("language", "tags", "datasets", "metrics", "base_model"):
        values = data.get(key, [])
        values = values if isinstance(values, list) else [values]
        problems += [f'"{key}" must hold strings' for value in values if not isinstance(value, str)]
        if key in ("datasets", "base_model"):
            problems += [f'"{key}": {value} is no Hub id' for value in values if not _REPO_ID.match(str(value))]
        if key == "language":
            problems += [f"language {value} is no code" for value in values if not re.match(r"^[a-z]{2,3}$", value)]
    for entry in data.get("model-index", []):
        if not entry.get("name"):
            problems.append('"model-index[0].name" is required')
        for result in entry.get("results", []):
            if not result.get("task", {}).get("type") or not result.get("dataset", {}).get("name"):
                problems.append("a result needs task.type and dataset.name")
            if not _REPO_ID.match(str(result.get("dataset", {}).get("type"))):
                problems.append("a result's dataset.type must be a Hub id or a slug")
            for metric in result.get("metrics", []):
                if not metric.get("type") or not isinstance(metric.get("value"), int | float):
                    problems.append("a metric needs a type and a number")
    return problems
