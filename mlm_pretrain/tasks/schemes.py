"""Tag schemes of named entities: BIO (IOB2), IOB1 and BIOES, read and written."""

from __future__ import annotations

import re
from collections.abc import Iterable

from mlm_pretrain.errors import UserError

_TAG = re.compile(r"O|[BI]-\S+")


def is_tag(tag: str) -> bool:
    return _TAG.fullmatch(tag) is not None


def check_tag(tag: str, place: str) -> None:
    """
    Raises:
        UserError: the tag is not `O`, `B-TYPE` or `I-TYPE`.
    """
    if not is_tag(tag):
        raise UserError(f"{place}: '{tag}' is not an IOB2 tag; allowed are O, B-TYPE and I-TYPE")


def valid_iob2(tags: Iterable[str]) -> list[str]:
    """Read an I- that continues nothing as the B- of a new entity, as conlleval does.

    This also turns IOB1 tags (B- only between neighbours of one type) into the IOB2 tags of the same entities.
    """
    valid: list[str] = []
    previous = "O"
    for tag in tags:
        starts = tag.startswith("I-") and previous[2:] != tag[2:]
        valid.append(f"B-{tag[2:]}" if starts else tag)
        previous = tag
    return valid
