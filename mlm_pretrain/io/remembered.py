"""What was measured on this machine, kept between runs in the cache folder: a small JSON file for each thing measured.

Nothing depends on it: what is missing, damaged, of something else or can't be written is measured again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

from mlm_pretrain.errors import UserError
from mlm_pretrain.io.cache import cache_folder
from mlm_pretrain.io.whole import read_json, write_json

FOLDER = "measured"


def recall(kind: str, of: dict[str, Any]) -> dict[str, Any]:
    """What was found of this before; empty if nothing was.

    Args:
        kind: what was measured, a name for a folder.
        of: plain data; all that the result depends on.
    """
    try:
        kept = read_json(_place(kind, of))
    except (OSError, UserError):
        return {}
    found = kept.get("found")
    return found if kept.get("of") == _plain(of) and isinstance(found, dict) else {}


def remember(kind: str, of: dict[str, Any], found: dict[str, Any]) -> None:
    """Keep what was found, in the place of what was kept before; if it can't be written, it is not kept."""
    with contextlib.suppress(OSError):
        write_json(_place(kind, of), {"of": of, "found": found})


def _place(kind: str, of: dict[str, Any]) -> Path:
    digest = hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()
    return cache_folder() / FOLDER / kind / f"{digest[:32]}.json"


def _plain(of: dict[str, Any]) -> Any:
    """As it comes back from a file."""
    return json.loads(json.dumps(of))
