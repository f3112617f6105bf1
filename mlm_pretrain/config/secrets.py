"""What may be in no config that is kept: access tokens, and values under keys that name a secret."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from mlm_pretrain.config.base import dotted
from mlm_pretrain.config.public import SECRET_KEY

ACCESS_TOKEN = re.compile(r"(?<![A-Za-z0-9])(?:hf|api_org)_[A-Za-z0-9]{20,}")
"""What the Hub's access tokens look like."""


def access_tokens(data: Any) -> Iterator[str]:
    """The dotted keys of values that hold what looks like an access token of the Hub."""
    return (key for key, value in dotted(data).items() if isinstance(value, str) and ACCESS_TOKEN.search(value))


def secrets(data: Any) -> Iterator[str]:
    """The dotted keys that name a secret and have a text for a value: `text.sources.0.options.password`."""
    for key, value in dotted(data).items():
        if isinstance(value, str) and value and SECRET_KEY.fullmatch(key.split(".")[-1]):
            yield key
