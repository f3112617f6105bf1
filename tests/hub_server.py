"""A small Hub on 127.0.0.1 that speaks the protocol as huggingface_hub's client does, for tests without a network.

It knows one user, keeps repositories in memory and notes every request. LFS uploads are checked against their
sha256; metadata of a card is checked as far as the Hub documents its rules.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

USER = "tester"
TOKEN = "hf_" + "TestTokenOfTheLocalHub1234"

_YAML_BLOCK = re.compile(r"^\s*---\r?\n([\S\s]*?)\r?\n---[ \t]*(\r?\n|$)")
_REPO_ID = re.compile(r"^[\w-][\w.-]*(/[\w-][\w.-]*)?$")


@dataclass
class Repo:
    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    lfs: set[str] = field(default_factory=set)
    commits: list[str] = field(default_factory=lambda: ["0" * 40])


@dataclass
class Request:
    method: str
    path: str
    body: bytes
    token: str | None
    status: int = 0


class HubServer(ThreadingHTTPServer):
    """`repos` and `requests` are there to look at; `failures` maps a path's beginning to the status it answers."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, Repo] = {}
        self.requests: list[Request] = []
        self.failures: dict[str, int] = {}
        self.objects: dict[str, bytes] = {}
        self.lock = threading.RLock()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def hub_server() -> Iterator[HubServer]:
    with HubServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class HubError(Exception):
    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *args: Any) -> None:
        pass

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        request = Request(self.command, self.path, body, token)
        with self.server.lock:
            self.server.requests.append(request)
            try:
                self._dispatch(request)
            except HubError as error:
                headers = {"X-Error-Message": str(error)} | ({"X-Error-Code": error.code} if error.code else {})
                self._answer({"error": str(error)}, error.status, headers)

    do_GET = do_HEAD = do_POST = do_PUT = _serve

    def _dispatch(self, request: Request) -> None:
        path = unquote(urlsplit(request.path).path)
        for start, status in self.server.failures.items():
            if path.startswith(start):
                raise HubError(status, "told to fail by the test")
        method = "GET" if request.method == "HEAD" else request.method
        for pattern, wanted, handler in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match and method == wanted:
                handler(self, request, **match.groupdict())
                return
        raise HubError(404, f"no such place: {request.method} {path}")

    def _answer(self, data: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        content = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.server.requests[-1].status = status
        self.send_response(status)
        kind = "application/octet-stream" if isinstance(data, bytes) else "application/json"
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    # -- who and where ---------------------------------------------------------------------------------------

    def _user(self, request: Request) -> None:
        if request.token != TOKEN:
            raise HubError(401, "Invalid credentials in Authorization header")

    def _repo(self, request: Request, name: str, write: bool = False) -> Repo:
        repo = self.server.repos.get(name)
        if write:
            self._user(request)
            if not name.startswith(f"{USER}/"):
                raise HubError(403, "you have no write access to this repository")
        if repo is None or (repo.private and request.token != TOKEN):
            raise HubError(404 if request.token == TOKEN else 401, "Repository not found", "RepoNotFound")
        return repo

    def whoami(self, request: Request) -> None:
        self._user(request)
        self._answer({"type": "user", "name": USER, "orgs": [], "auth": {"type": "access_token"}})

    def create(self, request: Request) -> None:
        self._user(request)
        data = json.loads(request.body)
        if data.get("organization") not in (None, USER):
            raise HubError(403, "you don't have the rights to create a model under this namespace")
        name = f"{USER}/{data['name']}"
        url = {"url": f"{self.server.endpoint}/{name}", "id": name}
        if name in self.server.repos:
            self._answer(url | {"error": "You already created this model repo"}, 409)
            return
        private = data.get("visibility") == "private" or data.get("private") is True
        self.server.repos[name] = Repo(private)
        self._answer(url)

    def validate(self, request: Request) -> None:
        errors = card_problems(json.loads(request.body)["content"])
        self._answer({"errors": [{"message": error} for error in errors], "warnings": []}, 400 if errors else 200)

    # -- upload ----------------------------------------------------------------------------------------------

    def preupload(self, request: Request, repo: str, revision: str) -> None:
        there = self._repo(request, repo, write=True)
        files = []
        for file in json.loads(request.body)["files"]:
            lfs = file["path"].endswith(".safetensors") or file["size"] > 10_000_000
            old = there.files.get(file["path"])
            oid = None if old is None else hashlib.sha256(old).hexdigest() if lfs else _git_oid(old)
            mode = "lfs" if lfs else "regular"
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._answer({"files": files, "commitOid": there.commits[-1]})

    def lfs_batch(self, request: Request, repo: str) -> None:
        self._repo(request, repo, write=True)
        objects = []
        for item in json.loads(request.body)["objects"]:
            href = f"{self.server.endpoint}/_lfs/{item['oid']}"
            actions = {"upload": {"href": href}, "verify": {"href": f"{self.server.endpoint}/_lfs_verify"}}
            objects.append(item if item["oid"] in self.server.objects else item | {"actions": actions})
        self._answer({"transfer": "basic", "objects": objects})

    def lfs_put(self, request: Request, oid: str) -> None:
        if hashlib.sha256(request.body).hexdigest() != oid:
            raise HubError(400, "content does not match its sha256")
        self.server.objects[oid] = request.body
        self._answer({})

    def lfs_verify(self, request: Request) -> None:
        self._user(request)
        data = json.loads(request.body)
        if len(self.server.objects.get(data["oid"], b"")) != data["size"]:
            raise HubError(404, "object is not there, or of another size")
        self._answer({})

    def commit(self, request: Request, repo: str, revision: str) -> None:
        there = self._repo(request, repo, write=True)
        for line in request.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                there.files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                if value["oid"] not in self.server.objects:
                    raise HubError(400, f"LFS pointer of {value['path']} points to nothing")
                there.files[value["path"]] = self.server.objects[value["oid"]]
                there.lfs.add(value["path"])
            elif item["key"] != "header":
                raise HubError(400, f"operation {item['key']} is not known here")
        there.commits.append(hashlib.sha1(there.commits[-1].encode() + request.body).hexdigest())
        url = f"{self.server.endpoint}/{repo}/commit/{there.commits[-1]}"
        self._answer({"success": True, "commitOid": there.commits[-1], "commitUrl": url})

    # -- download --------------------------------------------------------------------------------------------

    def info(self, request: Request, repo: str, revision: str | None = None) -> None:
        there = self._repo(request, repo)
        siblings = [{"rfilename": path} for path in sorted(there.files)]
        self._answer({"id": repo, "sha": there.commits[-1], "private": there.private, "siblings": siblings})

    def tree(self, request: Request, repo: str, revision: str, folder: str | None) -> None:
        there = self._repo(request, repo)
        start = f"{folder}/" if folder else ""
        inside = {path: data for path, data in there.files.items() if path.startswith(start)}
        if folder and not inside:
            raise HubError(404, f"{folder} does not exist", "EntryNotFound")
        assert parse_qs(urlsplit(request.path).query).get("recursive") or not any("/" in p for p in there.files)
        self._answer([{"type": "file", "path": p, "size": len(d), "oid": _git_oid(d)} for p, d in inside.items()])

    def resolve(self, request: Request, repo: str, revision: str, file: str) -> None:
        there = self._repo(request, repo)
        if file not in there.files:
            commit = {"X-Repo-Commit": there.commits[-1]}
            self._answer({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound", **commit})
            return
        data = there.files[file]
        oid = hashlib.sha256(data).hexdigest() if file in there.lfs else _git_oid(data)
        headers = {"ETag": f'"{oid}"', "X-Repo-Commit": there.commits[-1], "Accept-Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not asked:
            self._answer(data, headers=headers)
            return
        first, last = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        self._answer(data[first : last + 1], 206, headers)


_NAME = r"(?P<repo>[^/]+/[^/]+)"
_ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    (r"/api/whoami-v2", "GET", _Handler.whoami),
    (r"/api/repos/create", "POST", _Handler.create),
    (r"/api/validate-yaml", "POST", _Handler.validate),
    (rf"/api/models/{_NAME}/preupload/(?P<revision>.+)", "POST", _Handler.preupload),
    (rf"/{_NAME}\.git/info/lfs/objects/batch", "POST", _Handler.lfs_batch),
    (r"/_lfs/(?P<oid>[0-9a-f]{64})", "PUT", _Handler.lfs_put),
    (r"/_lfs_verify", "POST", _Handler.lfs_verify),
    (rf"/api/models/{_NAME}/commit/(?P<revision>.+)", "POST", _Handler.commit),
    (rf"/api/models/{_NAME}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?", "GET", _Handler.tree),
    (rf"/api/models/{_NAME}/revision/(?P<revision>.+)", "GET", _Handler.info),
    (rf"/api/models/{_NAME}", "GET", _Handler.info),
    (rf"/{_NAME}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", "GET", _Handler.resolve),
]


def _git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def card_problems(content: str) -> list[str]:
    """What the Hub would refuse in a card's metadata: no mapping, ids that are none, a model index out of shape."""
    block = _YAML_BLOCK.match(content)
    data = yaml.safe_load(block[1]) if block else None
    if not isinstance(data, dict):
        return ["there is no metadata block"]
    problems = []
    for key in ("language", "tags", "datasets", "metrics", "base_model"):
        values = data.get(key, [])
        values = values if isinstance(values, list) else [values]
        problems += [f'"{key}" must hold strings' for value in values if not isinstance(value, str)]
        if key in ("datasets", "base_model"):
            problems += [f'"{key}": {value} is no Hub id' for value in values if not _REPO_ID.match(str(value))]
        if key == "language":
            problems += [f"language {value} is no code" for value in values if not re.match(r"^[a-z]{2,3}$", value)]
    for entry in data.get("model-index", []):
        if not entry.get("name"):
            problems.append('"model-index[0].name" is required')
        for result in entry.get("results", []):
            if not result.get("task", {}).get("type") or not result.get("dataset", {}).get("name"):
                problems.append("a result needs task.type and dataset.name")
            if not _REPO_ID.match(str(result.get("dataset", {}).get("type"))):
                problems.append("a result's dataset.type must be a Hub id or a slug")
            for metric in result.get("metrics", []):
                if not metric.get("type") or not isinstance(metric.get("value"), int | float):
                    problems.append("a metric needs a type and a number")
    return problems
