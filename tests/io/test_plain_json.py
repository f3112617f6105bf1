"""JSON that every reader takes, whatever numbers it is given."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlm_pretrain.io.plain_json import dumps, finite

numbers = st.floats() | st.integers() | st.booleans() | st.none() | st.text(max_size=5)
plain = st.recursive(numbers, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner))


def refuse(word: str) -> None:
    raise AssertionError(f"{word} is no JSON")


@given(plain)
def test_what_is_written_is_json_and_says_the_same_where_it_can(data: Any) -> None:
    assert json.loads(dumps(data), parse_constant=refuse) == finite(data)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_null_at_any_depth(number: float) -> None:
    assert dumps({"a": [1.0, {"b": number}], "é": "ü"}) == '{"a": [1.0, {"b": null}], "é": "ü"}'
