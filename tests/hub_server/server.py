"""The server: requests are noted, faults happen, routes answer."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub_server.faults import Fault
from tests.hub_server.repos import TOKEN, USER, HubError, Repo


@dataclass
class Request:
    method: str
    path: str
    body: bytes
    token: str | None
    range: str | None = None
    content_type: str = ""
    status: int = 0

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.path).query)


@dataclass
class Answer:
    """`data`: bytes, or what becomes JSON."""

    data: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


class HubServer(ThreadingHTTPServer):
    """`repos` (by `tester/name`, `datasets/tester/name`, …), `requests` and `objects` (by sha256) are there to look at.

    `chunk_size`: larger files go up in parts; `page`: how many commits and files a page of a list has.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, Repo] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.objects: dict[str, bytes] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        self.chunk_size = 10_000_000
        self.page = 50
        self.lock = threading.RLock()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def cdn(self) -> str:
        """Another host to the client, which then follows no redirect with a token."""
        return f"http://localhost:{self.server_address[1]}/_cdn"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that are killed leave broken connections behind."""

    def asked(self, pattern: str) -> list[Request]:
        """The requests whose method and path match."""
        with self.lock:
            return [each for each in self.requests if re.match(pattern, f"{each.method} {each.path}")]

    # -- who and where ---------------------------------------------------------------------------------------

    def check_user(self, request: Request) -> None:
        if request.token != TOKEN:
            raise HubError(401, "Invalid credentials in Authorization header")

    def repo(self, request: Request, name: str, write: bool = False) -> Repo:
        repo = self.repos.get(name)
        if write:
            self.check_user(request)
            if f"/{USER}/" not in f"/{name}":
                raise HubError(403, "you have no write access to this repository")
        if repo is None or (repo.private and request.token != TOKEN):
            raise HubError(404 if request.token == TOKEN else 401, "Repository not found", "RepoNotFound")
        return repo

    def paged(self, request: Request, items: list[Any]) -> Answer:
        """A page of a list, and where the next one is."""
        start = int(request.query.get("cursor", ["0"])[0])
        headers = {}
        if start + self.page < len(items):
            parts = urlsplit(request.path)
            kept = [f"{key}={value}" for key, values in request.query.items() for value in values if key != "cursor"]
            query = "&".join([*kept, f"cursor={start + self.page}"])
            headers["Link"] = f'<{self.endpoint}{parts.path}?{query}>; rel="next"'
        return Answer(items[start : start + self.page], headers=headers)


@contextmanager
def hub_server() -> Iterator[HubServer]:
    with HubServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            for fault in server.faults:
                fault.release.set()
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60
    disable_nagle_algorithm = True
    wbufsize = -1  # an answer is one packet
    server: HubServer

    def log_message(self, *args: Any) -> None:
        pass

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        path = unquote(urlsplit(self.path).path)
        with self.server.lock:
            faults = {fault.kind: fault for fault in self.server.faults if fault.happens(self.command, path)}
        if "drop" in faults:
            self.rfile.read(length // 2)
            self._hang_up()
            return
        body = self.rfile.read(length)
        if "corrupt" in faults:
            body = bytes([body[0] ^ 1]) + body[1:]
        if "hold" in faults:
            faults["hold"].release.wait(60)
        answer = self._answer(self._noted(body), path, faults.get("status"))
        self._send(answer, cut="cut" in faults)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _noted(self, body: bytes) -> Request:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        kind = self.headers.get("Content-Type") or ""
        request = Request(self.command, self.path, body, token, self.headers.get("Range"), kind)
        with self.server.lock:
            self.server.requests.append(request)
        return request

    def _answer(self, request: Request, path: str, fault: Fault | None) -> Answer:
        try:
            if fault:
                raise HubError(fault.status, fault.message, fault.code)
            with self.server.lock:
                answer = self._dispatch(request, path)
        except HubError as error:
            headers = {"X-Error-Message": str(error)} | ({"X-Error-Code": error.code} if error.code else {})
            answer = Answer({"error": str(error)}, error.status, headers)
        request.status = answer.status
        return answer

    def _dispatch(self, request: Request, path: str) -> Answer:
        from tests.hub_server.routes import ROUTES

        method = "GET" if request.method == "HEAD" else request.method
        for wanted, pattern, handler in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and method == wanted:
                return handler(self.server, request, **match.groupdict())
        raise HubError(404, f"no such place: {request.method} {path}")

    def _send(self, answer: Answer, cut: bool) -> None:
        content = answer.data if isinstance(answer.data, bytes) else json.dumps(answer.data).encode()
        self.send_response(answer.status)
        kind = "application/octet-stream" if isinstance(answer.data, bytes) else "application/json"
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)


Route = Callable[..., Answer]
