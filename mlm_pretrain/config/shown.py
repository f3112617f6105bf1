"""A config as `config show` prints it: YAML that says where each value is from."""

from __future__ import annotations

from typing import Any

from mlm_pretrain.config import Config, recipes
from mlm_pretrain.config.yaml_text import write_yaml

LEGEND = """\
# given: by this config or the command; recipe: chosen for the budget and the model; as begun: the run had chosen it
# before, for another budget; the rest are defaults"""


def marked_yaml(config: Config, ascii_only: bool = False) -> str:
    """The resolved config, with a comment at values that were given, or chosen by the recipe; the rest are defaults.

    It is read back as the same config, by which all its values are given.
    """
    lines = [LEGEND]
    recipe = recipes.recipe_of(config)
    if recipe.values:
        lines.append(f"# recipe: {recipes.in_words(config)}")
    for name, section in config.model_dump(mode="json").items():
        if not isinstance(section, dict):  # tasks
            lines += write_yaml({name: section}, ascii_only).rstrip("\n").split("\n")
            continue
        lines.append(f"{name}:")
        for key, value in section.items():
            origin = recipes.origin(config, f"{name}.{key}", recipe)
            lines += [f"  {line}" for line in _marked(key, value, origin, ascii_only)]
    return "\n".join(lines) + "\n"


def _marked(key: str, value: Any, origin: str, ascii_only: bool) -> list[str]:
    first, *rest = write_yaml({key: value}, ascii_only).rstrip("\n").split("\n")
    # Within a text of several lines a comment would be text.
    takes_comment = not rest or isinstance(value, dict | list)
    return [f"{first}  # {origin}" if takes_comment and origin != "default" else first, *rest]
