"""What every section is made of: a frozen model that refuses unknown keys, and the types of its values."""

from __future__ import annotations

import hashlib
import json
import math
import re
from typing import Annotated, Any, TypeVar

import regex
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from mlm_pretrain.escaping import given
from mlm_pretrain.io.files.reading import Quoting, check_delimiter, check_encoding, check_quoting

LARGEST = 2**63 - 1
"""What a whole number of 64 bits can be; libraries take no more."""
LONGEST_NAME = 100
"""Characters of a run's and a task's name: files beside it have longer ones, and a file system takes 255 bytes."""

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def parse_size(value: Any) -> int:
    """Read a number of bytes: `1048576`, `"64MB"` (10⁶ bytes each), `"1GiB"` (2³⁰ bytes)."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(value))
    if isinstance(value, bool) or not match or match[2].upper() not in _UNITS:
        raise ValueError(f"{given(value)} is not a size; write for example 64MB or 1GB")
    size = float(match[1]) * _UNITS[match[2].upper()]
    if size > LARGEST:
        raise ValueError(f"{given(value)} is more than any machine holds")
    return int(size)


def parse_count(value: Any) -> int:
    """Read a large count: `2500000000`, `2.5e9`, `"1e9"`."""
    if not isinstance(value, int | float | str) or isinstance(value, bool):
        raise ValueError(f"{given(value)} is not a number")
    try:
        count = value if isinstance(value, int) else float(value)
    except ValueError:
        raise ValueError(f"{given(value)} is not a number") from None
    if not abs(count) <= LARGEST:
        raise ValueError(f"{given(value)} is not a finite number of at most {LARGEST}")
    return int(count)


def _distinct(values: list[Any]) -> list[Any]:
    twice = next((value for number, value in enumerate(values) if value in values[:number]), None)
    if twice is not None:
        raise ValueError(f"{twice} is given twice; leave one of them out")
    return values


Bytes = Annotated[int, BeforeValidator(parse_size), Field(gt=0)]
Count = Annotated[int, BeforeValidator(parse_count), Field(gt=0)]
Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=LONGEST_NAME)]
Distinct = AfterValidator(_distinct)
"""Of a list: no value twice."""


def _check_pattern(value: str) -> str:
    try:
        regex.compile(value)
    except regex.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return value


Encoding = Annotated[str, AfterValidator(check_encoding)]
QuotingKey = Annotated[Quoting | None, BeforeValidator(check_quoting)]
Delimiter = Annotated[str | None, AfterValidator(check_delimiter)]
Pattern = Annotated[str, AfterValidator(_check_pattern)]


def _check(value: Any, depth: int = 0) -> None:
    """
    Raises:
        ValueError: what no library below could take, wherever it is in a value.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is given; a finite number is needed")
    if isinstance(value, int) and abs(value) > LARGEST:
        raise ValueError(f"{given(value)} is too large a number (at most {LARGEST})")
    if isinstance(value, str) and re.search("[\x00\ud800-\udfff]", value):
        raise ValueError(f"{given(value)} has a character that no text and no file name can have")
    if depth > 50:
        raise ValueError("it is nested too deeply")
    for inner in (*value.keys(), *value.values()) if isinstance(value, dict) else value if _is_list(value) else ():
        _check(inner, depth + 1)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple | set)


S = TypeVar("S", bound="Section")


class Section(BaseModel):
    """Numbers are finite and fit in 64 bits, wherever they are: also in mappings whose keys are a library's."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, protected_namespaces=(), allow_inf_nan=False
    )

    @field_validator("*", mode="after")
    @classmethod
    def _within_bounds(cls, value: Any) -> Any:
        _check(value)
        return value


def filled(section: S, values: dict[str, Any]) -> S:
    """A copy of a section with other values, by key; what nobody had given still counts as not given."""
    copy = section.model_copy()
    copy.__dict__.update(values)
    return copy


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
