"""Named functions and classes that users can add to: sources, objectives, optimizers, schedules, tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from mlm_pretrain.errors import UserError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """A mapping of names to functions or classes, filled by decorators.

    >>> GREETINGS = Registry[Callable[[], str]]("greeting", key="greeting.name")
    >>> @GREETINGS.register("plain")
    ... def plain() -> str:
    ...     return "hello"
    >>> GREETINGS["plain"]()
    'hello'
    """

    def __init__(self, kind: str, key: str) -> None:
        """`kind` and the config `key` that chooses an entry are named in errors."""
        self._kind = kind
        self._key = key
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        def add(entry: T) -> T:
            assert name not in self._entries, f"two {self._kind}s are named {name}"
            self._entries[name] = entry
            return entry

        return add

    def __getitem__(self, name: str) -> T:
        """
        Raises:
            UserError: nothing is registered under this name.
        """
        if name not in self._entries:
            raise UserError(f"{self._key}: no {self._kind} is named '{name}'{nearest(name, self._entries)}")
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))
