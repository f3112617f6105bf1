"""Reading a config: YAML file or run directory, dotted overrides, and every problem in one line."""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from mlm_pretrain.config import Config, recipes
from mlm_pretrain.config.yaml_text import meant, read_value, read_yaml
from mlm_pretrain.errors import UserError, nearest
from mlm_pretrain.escaping import given
from mlm_pretrain.run import RunDirectory, checkpoints_in

# Of these keys of a section one at most is given: an override of one replaces the others.
EXCLUSIVE = {"budget": [("steps", "tokens", "minutes")], "model": [("preset", "model_type", "path")]}


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a config file, or the config of a run directory, and apply dotted overrides.

    Args:
        path: a YAML file, a run directory (its `config.yaml` is read, but for any `trust_remote_code`), or the name of
            a config that comes with the package (`quickstart`).
        overrides: `section.key=value` strings; values are YAML, list items are named by number
            (`tasks.0.learning_rate=1e-4`).

    Raises:
        UserError: the file is missing or no YAML, a key is unknown, or a value is not allowed.
    """
    file = Path(path)
    if file.is_dir():
        file = file / "config.yaml"
    shipped = Path(str(importlib.resources.files("mlm_pretrain") / "configs" / f"{path}.yaml"))
    if not file.exists() and shipped.is_file():
        file = shipped
    try:
        raw = read_yaml(file.read_text(encoding="utf-8"), Config)
    except FileNotFoundError:
        raise UserError(f"{path}: no such config; give a YAML file or a run directory") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 text (byte {error.start}); a config is a YAML file") from None
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{file}{place}: not valid YAML: {getattr(error, 'problem', error)}") from None
    if raw is None:
        raise UserError(f"{file}: the file is empty; configs/quickstart.yaml is an example")
    if not isinstance(raw, dict):
        raise UserError(f"{file}: a config is a mapping of sections, not a {type(raw).__name__}")
    if Path(path).is_dir():
        # A run that was moved, or is named from another folder, is still the run in this directory.
        where = Path(path).resolve()
        parent = Path(path).parent if Path(path).name == where.name else where.parent
        raw["run"] = {**(raw.get("run") or {}), "output_dir": str(parent), "name": where.name}
        _forget_consent(raw)
    for override in overrides:
        _override(raw, override)
        raw = meant(raw, Config)
    return as_begun(make_config(raw, place=str(file)))


def as_begun(config: Config) -> Config:
    """A config with what its run was begun with, in place of what the recipe has for keys that nobody has given.

    A run that has checkpoints keeps its recipe whatever the budget is now. One without any keeps it for the same model
    and budget, of whose minutes another machine would make other tokens.

    Raises:
        UserError: the run's `config.yaml` is damaged.
    """
    keys, run = recipes.open_keys(config), RunDirectory.of(config)
    standing = run.standing_config() if keys else {}
    if not standing or not (checkpoints_in(run.checkpoints) or _same_purpose(standing, config)):
        return config
    sections: dict[str, dict[str, Any]] = {}
    for key in keys:
        section, _, name = key.partition(".")
        if isinstance(standing.get(section), dict) and name in standing[section]:
            sections.setdefault(section, {})[name] = standing[section][name]
    begun = make_config(sections, place=str(run.config))
    names = [f"{section}.{name}" for section, values in sections.items() for name in values]
    return recipes.with_values(config, {key: recipes.value_of(begun, key) for key in names})


def _same_purpose(standing: dict[str, Any], config: Config) -> bool:
    """Whether the recipe was chosen for this model and budget."""
    places = [("training", "budget"), ("training", "recipe"), ("stream", "sequence_length"), ("model",)]
    now: Any = config.model_dump(mode="json")
    for place in places:
        old, new = standing, now
        for key in place:
            old, new = old.get(key, {}) if isinstance(old, dict) else {}, new[key]
        if old != new:
            return False
    return True


def _forget_consent(raw: dict[str, Any]) -> None:
    """A folder may come from anybody: that code of its checkpoints may run is said by who types the command."""
    tasks = raw.get("tasks")
    for section in (raw, *(tasks if isinstance(tasks, list) else ())):
        if isinstance(section, dict) and isinstance(section.get("model"), dict):
            section["model"].pop("trust_remote_code", None)


def make_config(raw: dict[str, Any], place: str = "config") -> Config:
    """Validate plain data into a `Config`; `place` is named in errors.

    Raises:
        UserError: a key is unknown, or a value is not allowed.
    """
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{place}: {_explain(error)}") from None


def _override(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"'{override}' is no override; write section.key=value")
    value = read_value(text)
    node: Any = raw
    *parents, last = key.split(".")
    for part in parents:
        if isinstance(node, list):
            node = node[_list_index(node, part, override)]
        else:
            if node.get(part) is None:
                node[part] = {}
            node = node[part]
        if not isinstance(node, dict | list):
            raise UserError(f"'{override}': '{part}' is a value, not a section")
    if isinstance(node, list):
        node[_list_index(node, last, override)] = value
        return
    for alternatives in EXCLUSIVE.get(parents[-1] if parents else "", ()):
        if last in alternatives:
            for other in alternatives:
                node.pop(other, None)
    node[last] = value


def _list_index(items: list[Any], part: str, override: str) -> int:
    if not part.isdigit() or int(part) >= len(items):
        raise UserError(f"'{override}': '{part}' is not one of the {len(items)} items (0 is the first)")
    return int(part)


def _explain(error: ValidationError) -> str:
    """The first problem in one line: key, what was given, what is allowed, nearest known name."""
    problems = error.errors()
    # A union reports each failed member: an unknown key, what we check ourselves, then the deepest place says most.
    own = ("value_error", "extra_forbidden")
    first = max(
        problems, key=lambda problem: (problem["type"] in own and own.index(problem["type"]) + 1, len(problem["loc"]))
    )
    location, section = _place(first["loc"])
    key = ".".join(location)
    if first["type"] == "extra_forbidden":
        return f"{key}: unknown key '{location[-1]}'{nearest(location[-1], section.model_fields)}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        return f"{key}: this key is needed and missing"
    value = first.get("input")
    shown = "" if isinstance(value, dict) or first["type"] == "value_error" else f" (given: {given(value)})"
    return f"{key}: {message}{shown}" if key else message


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _models_in(part)]


def _place(loc: tuple[int | str, ...]) -> tuple[list[str], type[BaseModel]]:
    """Where an error is: the keys to it, and the section that the last key stands in.

    pydantic adds labels for the members of a union to a location; they are no keys and are left out.
    """
    section: type[BaseModel] = Config
    keys: list[str] = []
    for number, part in enumerate(loc):
        last = number == len(loc) - 1
        if isinstance(part, int):
            keys.append(str(part))
        elif part in section.model_fields:
            keys.append(part)
            models = _models_in(section.model_fields[part].annotation)
            section = models[0] if models and not last else section
        elif last and not _is_union_label(part):
            keys.append(part)
    return keys, section


def _is_union_label(part: str) -> bool:
    plain = ["float", "int", "str", "bool", "Ramp", "literal", "constrained-float", "constrained-int"]
    return "[" in part or part in plain
