"""Plain data as it may be shown to others: without places on this machine, and without what opens doors."""

from __future__ import annotations

import re
from typing import Any

_ABSOLUTE = re.compile(
    r"(?P<label>file:/{0,2}|[\w.:-]{2,}:)?(?P<path>(?:/(?!/)|~[\w.-]*[/\\]|[A-Za-z]:[\\/]).+)", re.DOTALL
)
_EMBEDDED = re.compile(r"(?<![\w.~*:/\])}-])(?:~[\w.-]*|[A-Za-z]:)?(?:[/\\][^\s/\\'\",;|]+){2,}[/\\]?")
_CREDENTIALS = re.compile(r"(?<=://)[^\s/@]+@")
SECRET_KEY = re.compile(
    r"(?:(?:hf|access|api|auth|use_auth|session)_)?token|(?:.*_)?(?:secret|password|credentials?|api_?key|access_key)",
    re.IGNORECASE,
)


NAMES_AND_TEXTS = frozenset(("fill_mask", "by_class", "by_type", "confusion", "labels"))
"""What records hold under these keys: a slash in the name of a class, or in an example, is no path."""


def public_records(data: Any) -> Any:
    """Plain data as it may be shown to others.

    An absolute path, in a key or a value, is cut to its last component (`/home/me/corpus.txt` → `corpus.txt`);
    credentials in URLs and values under keys such as `password` or `api_key` are removed. `NAMES_AND_TEXTS` are left
    as they are.
    """
    if isinstance(data, dict):
        public: dict[Any, Any] = {}
        for key, value in data.items():
            name = _public_text(key) if isinstance(key, str) else key
            while name in public:  # two paths that end alike stay two entries
                name = f"{name}'"
            if isinstance(key, str) and isinstance(value, str) and SECRET_KEY.fullmatch(key):
                public[name] = "removed"
            else:
                public[name] = value if key in NAMES_AND_TEXTS else public_records(value)
        return public
    if isinstance(data, list):
        return [public_records(item) for item in data]
    return _public_text(data) if isinstance(data, str) else data


def _public_text(text: str) -> str:
    whole = _ABSOLUTE.fullmatch(text)
    if whole and (last := _last_component(whole["path"])):
        label = whole["label"] or ""
        return last if label.startswith("file:") else label + last
    text = _CREDENTIALS.sub("", text)
    return _EMBEDDED.sub(lambda match: _last_component(match[0]), text)


def _last_component(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]
