"""YAML whose plain scalars mean what the config's schema has at their place: `no` is a word if a word is wanted.

YAML 1.1 reads `no`, `on`, `null`, `1e3` and `2024-01-01` as false, true, nothing, a number and a date. So a language,
a class or a column of such a name would become another. Here a plain scalar keeps its text until it is known what its
key takes; one in quotes is a string, as always.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel

from mlm_pretrain.escaping import given


class Plain(str):
    """A scalar without quotes: its text, and in `value` what YAML reads in it."""

    value: Any


MOST_VALUES = 1_000_000
"""Of a text, with those that its aliases (`*name`) stand for: ten lines of aliases can stand for billions."""


class _Loader(yaml.SafeLoader):
    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._values: dict[yaml.Node, int] = {}
        """How many values a node holds."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        is_alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        if node is not None and not is_alias:
            inner = [] if isinstance(node, yaml.ScalarNode) else node.value
            parts = [part for pair in inner for part in (pair if isinstance(pair, tuple) else (pair,))]
            # One that isn't counted yet is an alias for what it stands in, which has no end.
            self._values[node] = 1 + sum(self._values.get(part, MOST_VALUES) for part in parts)
            if self._values[node] > MOST_VALUES:
                problem = f"with its aliases (*) this stands for more than {MOST_VALUES:,} values"
                raise yaml.composer.ComposerError(None, None, problem, node.start_mark)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """As YAML has it, and unlike PyYAML, which takes the last: a key is in a mapping once."""
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.value in lines:
                problem = f"{given(key.value)} is given twice, first in line {lines[key.value]}; leave one of them out"
                raise yaml.composer.ComposerError(None, None, problem, key.start_mark)
            lines[key.value] = key.start_mark.line + 1
        return node


def _plain(loader: _Loader, node: yaml.ScalarNode) -> Any:
    try:
        value = yaml.SafeLoader.yaml_constructors[node.tag](loader, node)
    except ValueError:  # a month 13; more digits than Python reads
        value = node.value
    if node.style is not None:
        return value
    plain = Plain(node.value)
    plain.value = value
    return plain


for _kind in ("bool", "float", "int", "null", "timestamp"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _plain)


class _Dumper(yaml.SafeDumper):
    pass


# Without a point YAML 1.1 takes 1e-5 for a word. The writer has to know: a string of that look gets quotes.
for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+[eE][-+]?\d+"), list("-+0123456789"))


def write_yaml(data: Any, ascii_only: bool = False) -> str:
    """Plain data as YAML that `read_yaml` reads as the same, in the order it has."""
    text = "" if ascii_only else yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    # These end lines in YAML, and PyYAML writes them as they are.
    if ascii_only or any(end in text for end in "\x85\u2028\u2029"):
        text = yaml.dump(data, Dumper=_Dumper, sort_keys=False)
    return text


def read_yaml(text: str, schema: Any) -> Any:
    """Parse YAML into plain data.

    Args:
        schema: what the text is of: a section's class, or any other type.

    Raises:
        yaml.YAMLError: it isn't YAML.
    """
    try:
        return meant(yaml.load(text, Loader=_Loader), schema)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None


def read_value(text: str) -> Any:
    """A value of an override, whose place isn't known yet: `meant` reads it there. What isn't YAML is text."""
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError):
        return text


def meant(data: Any, schema: Any) -> Any:
    """Data with plain scalars (`Plain`), as `schema` wants it: text if a string is wanted, else YAML's reading.

    An empty value and `null` stay None for a key of its own, but are text in lists of strings and as keys.
    """
    return _meant(data, [schema], alone=True)


def _meant(data: Any, kinds: list[Any], alone: bool = False) -> Any:
    kinds = [member for kind in kinds for member in _members(kind)]
    if isinstance(data, Plain):
        return _scalar(data, kinds, alone)
    if isinstance(data, list):
        inner = [item for kind in kinds if get_origin(kind) in (list, tuple) for item in get_args(kind)]
        return [_meant(item, inner or [Any]) for item in data]
    if not isinstance(data, dict):
        return data
    sections = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
    if sections:
        fields = {name: field.annotation for section in sections for name, field in section.model_fields.items()}
        return {str(key): _meant(value, [fields.get(str(key), Any)], alone=True) for key, value in data.items()}
    mappings = [get_args(kind) for kind in kinds if get_origin(kind) is dict]
    keys, values = ([pair[place] for pair in mappings] or [Any] for place in (0, 1))
    return {_meant(key, keys): _meant(value, values, alone=True) for key, value in data.items()}


def _scalar(plain: Plain, kinds: list[Any], alone: bool) -> Any:
    value = plain.value
    # A whole number serves where any is wanted; one with a fraction is refused there, unless it can be text.
    wider = {int: (float,), float: () if str in kinds else (int,)}.get(type(value), ())
    if any(kind in kinds for kind in (Any, type(value), *wider)) or (value is None and (alone or not plain)):
        return value
    words = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    return str(plain) if str in kinds or plain in words else value


def _members(kind: Any) -> Iterator[Any]:
    """The types that a union has, without what validates them."""
    origin = get_origin(kind)
    if origin is Annotated:
        yield from _members(get_args(kind)[0])
    elif origin in (Union, types.UnionType):
        for member in get_args(kind):
            yield from _members(member)
    else:
        yield kind
