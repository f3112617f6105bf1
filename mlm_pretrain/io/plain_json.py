"""JSON that every reader takes: a number that is not finite, for which JSON has no word, is null."""

from __future__ import annotations

import json
import math
from typing import Any


def dumps(data: Any, indent: int | None = None) -> str:
    """Plain data as JSON, its letters as they are.

    >>> dumps({"loss": float("nan"), "step": 3})
    '{"loss": null, "step": 3}'
    """
    return json.dumps(finite(data), indent=indent, ensure_ascii=False, allow_nan=False)


def finite(data: Any) -> Any:
    """Plain data with None in the place of numbers that are not finite."""
    if isinstance(data, dict):
        return {key: finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
