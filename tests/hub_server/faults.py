"""What can go wrong on the way, on request."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field
from typing import Literal


@dataclass
class Fault:
    """What happens to requests whose method and path (`"PUT /_lfs/"`) match, as often as `times` says.

    Kinds: `status` answers with that status and message; `drop` closes the connection in the middle of the body;
    `hold` answers only after `release` is set; `corrupt` changes a byte of the body on its way; `cut` ends the answer
    after half of it.
    """

    pattern: str
    kind: Literal["status", "drop", "hold", "corrupt", "cut"] = "status"
    status: int = 500
    message: str = "told to fail by the test"
    code: str | None = None
    """What the client tells kinds of one status by."""
    times: float = float("inf")
    release: threading.Event = field(default_factory=threading.Event)
    count: int = 0
    """How often it has happened."""

    def happens(self, method: str, path: str) -> bool:
        if self.count >= self.times or not re.match(self.pattern, f"{method} {path}"):
            return False
        self.count += 1
        return True
