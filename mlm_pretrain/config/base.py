"""What every section is made of: a frozen model that refuses unknown keys, and the types of its values."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from mlm_pretrain.io.reading import Quoting, check_delimiter, check_encoding, check_quoting

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def parse_size(value: Any) -> int:
    """Read a number of bytes: `1048576`, `"64MB"` (10⁶ bytes each), `"1GiB"` (2³⁰ bytes)."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(value))
    if isinstance(value, bool) or not match or match[2].upper() not in _UNITS:
        raise ValueError(f"{value!r} is not a size; write for example 64MB or 1GB")
    return int(float(match[1]) * _UNITS[match[2].upper()])


Bytes = Annotated[int, BeforeValidator(parse_size), Field(gt=0)]
Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


def _check_pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return value


Encoding = Annotated[str, AfterValidator(check_encoding)]
QuotingKey = Annotated[Quoting | None, BeforeValidator(check_quoting)]
Delimiter = Annotated[str | None, AfterValidator(check_delimiter)]
Pattern = Annotated[str, AfterValidator(_check_pattern)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, protected_namespaces=())


def fingerprint(*parts: Any) -> str:
    """A short digest of plain data or config sections: equal inputs, equal digest."""
    plain = [part.model_dump(mode="json") if isinstance(part, BaseModel) else part for part in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def dotted(data: Any, prefix: str = "") -> dict[str, Any]:
    """Nested plain data as one mapping from dotted keys to values."""
    if isinstance(data, dict) and data:
        return {name: value for key in data for name, value in dotted(data[key], f"{prefix}{key}.").items()}
    if isinstance(data, list) and data:
        return dotted(dict(enumerate(data)), prefix)
    return {prefix.removesuffix("."): data}
