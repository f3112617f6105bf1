"""What may be in no config that is kept or sent: tokens, keys, passwords, signed addresses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlm_pretrain.config.base import dotted
from mlm_pretrain.credentials import find_credential, is_harmless, looks_random, names_secret

REMEDY = (
    "remove it there; libraries read such things from the environment: HF_TOKEN (or `hf auth login`), "
    "AWS_SECRET_ACCESS_KEY, AZURE_STORAGE_ACCOUNT_KEY, FSSPEC_<PROTOCOL>_<OPTION>"
)
PROSE = {"fill_mask", "description", "citation", "add_tokens", "include", "exclude", "chat_template"}
"""Keys of sentences, words and patterns: they may speak of passwords, and formulas look like chance."""
NAMES = {"id2label", "label2id", "labels", "class_weight"}
"""Keys of what labels are called."""
_OF_STORAGE = {"storage_options", "client_kwargs", "headers"}
_STORAGE_SECRETS = {"key", "password", "pass", "pat"}
"""What else is a secret among the options of a file system: `key` of s3fs."""


def find_secrets(data: Any) -> Iterator[tuple[str, str]]:
    """The dotted keys of plain data that hold a secret, each with what it looks like.

    >>> list(find_secrets({"options": {"storage_options": {"account_key": "x"}, "sep": ";"}}))
    [('options.storage_options.account_key', 'a secret, by its name')]
    """
    for key, value in dotted(data).items():
        if what := _secret(key.split("."), value):
            yield key, what


def _secret(key: list[str], value: Any) -> str | None:
    names = [part for part in key if not part.isdigit()]
    text = value if isinstance(value, str) else ""
    prose = not (PROSE | NAMES).isdisjoint(names) and "options" not in names
    for each in (text, *names):
        if kind := find_credential(each, prose=prose or each is not text):
            return kind
    if prose:
        return None
    of_storage = not _OF_STORAGE.isdisjoint(names) and not _STORAGE_SECRETS.isdisjoint(map(str.lower, names))
    named = of_storage or any(map(names_secret, names))
    if named and not is_harmless(value) and not _is_file(text):
        return "a secret, by its name"
    return "a key, by its length and its random characters" if looks_random(text) else None


def _is_file(text: str) -> bool:
    """Whether a value is the place of a secret, and not the secret."""
    try:
        return bool(text) and Path(text).expanduser().is_file()
    except (OSError, RuntimeError, ValueError):  # too long for a name, no such home, a NUL
        return False
