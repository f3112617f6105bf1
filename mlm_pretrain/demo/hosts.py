"""Which names the page answers to: a page of another name that leads here (DNS rebinding) gets nothing."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

REFUSAL = b"This page is not served under that name: open it by its address in numbers, or as localhost."

Messages = Callable[[], Awaitable[Any]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class KnownHosts:
    """ASGI middleware: refuse requests for hosts that aren't known. Addresses as numbers are: no name leads to them."""

    def __init__(self, app: Callable[..., Awaitable[None]], names: set[str]) -> None:
        self._app, self._names = app, names

    async def __call__(self, scope: MutableMapping[str, Any], receive: Messages, send: Send) -> None:
        if scope["type"] == "http" and not self._knows(dict(scope["headers"]).get(b"host", b"").decode("latin-1")):
            headers = [(b"content-type", b"text/plain")]
            await send({"type": "http.response.start", "status": 421, "headers": headers})
            await send(
                {
                    "type": "http.response.body",
                    "body": REFUSAL,
                }
            )
            return
        await self._app(scope, receive, send)

    def _knows(self, host: str) -> bool:
        name = host.partition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
        try:
            return bool(ipaddress.ip_address(name))
        except ValueError:
            return name.lower().rstrip(".") in self._names


def known_names(host: str) -> set[str] | None:
    """The names that a server on this host answers to; None for any, in a Space, whose names are the Hub's affair."""
    if os.environ.get("SPACE_ID"):
        return None
    everywhere = {socket.gethostname().lower(), socket.getfqdn().lower()} if host in ("0.0.0.0", "::") else set()
    return {"localhost", host.lower()} | everywhere
