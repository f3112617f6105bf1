"""What the server answers, by path."""

from __future__ import annotations

import base64
import json
import re
from math import ceil
from typing import Any
from urllib.parse import parse_qs

from tests.hub_server.cards import card_problems
from tests.hub_server.repos import USER, Commit, HubError, Repo, entries, entry, git_oid, sha256
from tests.hub_server.server import Answer, HubServer, Request, Route


def whoami(hub: HubServer, request: Request) -> Answer:
    hub.check_user(request)
    return Answer({"type": "user", "name": USER, "orgs": [], "auth": {"type": "access_token"}})


def create(hub: HubServer, request: Request) -> Answer:
    hub.check_user(request)
    data = json.loads(request.body)
    kind = data.get("type") or "model"
    if data.get("organization") not in (None, USER):
        raise HubError(403, f"you don't have the rights to create a {kind} under this namespace")
    if kind == "space" and not data.get("sdk"):
        raise HubError(400, "a space needs an sdk")
    name = f"{_prefix(f'{kind}s')}{USER}/{data['name']}"
    url = {"url": f"{hub.endpoint}/{name}", "id": f"{USER}/{data['name']}"}
    if name in hub.repos:
        return Answer(url | {"error": f"You already created this {kind} repo"}, 409)
    hub.repos[name] = Repo(data.get("visibility") == "private" or data.get("private") is True)
    return Answer(url)


def validate(hub: HubServer, request: Request) -> Answer:
    data = json.loads(request.body)
    errors = card_problems(data["content"]) if data.get("repoType", "model") == "model" else []
    return Answer({"errors": [{"message": error} for error in errors], "warnings": []}, 400 if errors else 200)


def _prefix(kinds: str) -> str:
    return "" if kinds == "models" else f"{kinds}/"


# -- upload ------------------------------------------------------------------------------------------------------


def preupload(hub: HubServer, request: Request, kinds: str, repo: str, revision: str) -> Answer:
    there = hub.repo(request, _prefix(kinds) + repo, write=True).at(revision)
    files = []
    for file in json.loads(request.body)["files"]:
        lfs = file["path"].endswith((".safetensors", ".parquet")) or file["size"] > 10_000_000
        old = there.files.get(file["path"])
        oid = None if old is None else sha256(old) if lfs else git_oid(old)
        mode = "lfs" if lfs else "regular"
        files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    return Answer({"files": files, "commitOid": there.oid})


def lfs_batch(hub: HubServer, request: Request, repo: str) -> Answer:
    hub.repo(request, repo, write=True)
    objects = []
    for item in json.loads(request.body)["objects"]:
        oid, size = item["oid"], item["size"]
        upload: dict[str, Any] = {"href": f"{hub.endpoint}/_lfs/{oid}"}
        if size > hub.chunk_size:
            parts = range(1, ceil(size / hub.chunk_size) + 1)
            urls = {str(part): f"{hub.endpoint}/_lfs_part/{oid}/{part}" for part in parts}
            upload = {"href": f"{hub.endpoint}/_lfs_complete/{oid}"}
            upload["header"] = {"chunk_size": str(hub.chunk_size), **urls}
        actions = {"upload": upload, "verify": {"href": f"{hub.endpoint}/_lfs_verify"}}
        objects.append(item if oid in hub.objects else item | {"actions": actions})
    return Answer({"transfer": "basic", "objects": objects})


def lfs_put(hub: HubServer, request: Request, oid: str) -> Answer:
    return _store(hub, oid, request.body)


def lfs_part(hub: HubServer, request: Request, oid: str, part: str) -> Answer:
    if len(request.body) > hub.chunk_size:
        raise HubError(400, "the part is too large")
    hub.parts[oid, int(part)] = request.body
    return Answer({}, headers={"ETag": f'"{sha256(request.body)}"'})


def lfs_complete(hub: HubServer, request: Request, oid: str) -> Answer:
    parts = json.loads(request.body)["parts"]
    pieces = [hub.parts.get((oid, part["partNumber"]), b"") for part in parts]
    if [part["partNumber"] for part in parts] != list(range(1, len(parts) + 1)):
        raise HubError(400, "the parts are out of order")
    if [part["etag"].strip('"') for part in parts] != [sha256(piece) for piece in pieces]:
        raise HubError(400, "a part is not what was sent")
    return _store(hub, oid, b"".join(pieces))


def _store(hub: HubServer, oid: str, data: bytes) -> Answer:
    if sha256(data) != oid:
        raise HubError(400, "content does not match its sha256")
    hub.objects[oid] = data
    return Answer({})


def lfs_verify(hub: HubServer, request: Request) -> Answer:
    hub.check_user(request)
    data = json.loads(request.body)
    if len(hub.objects.get(data["oid"], b"")) != data["size"]:
        raise HubError(404, "object is not there, or of another size")
    return Answer({})


def commit(hub: HubServer, request: Request, kinds: str, repo: str, revision: str) -> Answer:
    there = hub.repo(request, _prefix(kinds) + repo, write=True)
    changes: dict[str, bytes | None] = {}
    lfs = set()
    title = ""
    for line in request.body.splitlines():
        item = json.loads(line)
        key, value = item["key"], item["value"]
        if key == "header":
            title = value["summary"]
        elif key == "file":
            changes[value["path"]] = base64.b64decode(value["content"])
        elif key == "lfsFile":
            if value["oid"] not in hub.objects:
                raise HubError(400, f"LFS pointer of {value['path']} points to nothing")
            changes[value["path"]] = hub.objects[value["oid"]]
            lfs.add(value["path"])
        elif key == "deletedFile":
            changes[value["path"]] = None
        else:
            raise HubError(400, f"operation {key} is not known here")
    made = there.commit(revision, changes, lfs, title)
    url = f"{hub.endpoint}/{_prefix(kinds)}{repo}/commit/{made.oid}"
    return Answer({"success": True, "commitOid": made.oid, "commitUrl": url})


def branch(hub: HubServer, request: Request, kinds: str, repo: str, name: str) -> Answer:
    there = hub.repo(request, _prefix(kinds) + repo, write=True)
    if name in there.branches:
        raise HubError(409, f"Reference already exists: {name}")
    there.branches[name] = there.at(json.loads(request.body).get("startingPoint", "main"))
    return Answer({})


def tag(hub: HubServer, request: Request, kinds: str, repo: str, revision: str) -> Answer:
    there = hub.repo(request, _prefix(kinds) + repo, write=True)
    name = json.loads(request.body)["tag"]
    if name in there.tags:
        raise HubError(409, f"Tag already exists: {name}")
    there.tags[name] = there.at(revision)
    return Answer({})


# -- download ----------------------------------------------------------------------------------------------------


def info(hub: HubServer, request: Request, kinds: str, repo: str, revision: str = "main") -> Answer:
    there = hub.repo(request, _prefix(kinds) + repo)
    at = there.at(revision)
    siblings = [{"rfilename": path} for path in sorted(at.files)]
    state = {"private": there.private, "gated": False, "disabled": False, "tags": [], "downloads": 0, "likes": 0}
    return Answer({"id": repo, "sha": at.oid, "lastModified": _when(at), "siblings": siblings, **state})


def refs(hub: HubServer, request: Request, kinds: str, repo: str) -> Answer:
    there = hub.repo(request, _prefix(kinds) + repo)

    def listed(kind: str, found: dict[str, Commit]) -> list[dict[str, str]]:
        return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": at.oid} for name, at in found.items()]

    return Answer({"branches": listed("heads", there.branches), "converts": [], "tags": listed("tags", there.tags)})


def commits(hub: HubServer, request: Request, kinds: str, repo: str, revision: str) -> Answer:
    history = hub.repo(request, _prefix(kinds) + repo).at(revision).history()
    authors = [{"user": USER}]
    rows = [{"id": c.oid, "title": c.title, "message": "", "date": _when(c), "authors": authors} for c in history]
    return hub.paged(request, rows)


def tree(hub: HubServer, request: Request, kinds: str, repo: str, revision: str, folder: str | None) -> Answer:
    at = hub.repo(request, _prefix(kinds) + repo).at(revision)
    recursive = request.query.get("recursive", ["false"])[0].lower() == "true"
    found = entries(at, folder or "", recursive)
    if folder and not found:
        raise HubError(404, f"{folder} does not exist", "EntryNotFound")
    return hub.paged(request, found)


def paths_info(hub: HubServer, request: Request, kinds: str, repo: str, revision: str) -> Answer:
    at = hub.repo(request, _prefix(kinds) + repo).at(revision)
    is_json = request.content_type.startswith("application/json")
    paths = (json.loads(request.body) if is_json else parse_qs(request.body.decode()))["paths"]
    every = {each["path"]: each for each in entries(at, "", recursive=True)}
    return Answer([every[path] for path in paths if path in every])


def resolve(hub: HubServer, request: Request, kinds: str | None, repo: str, revision: str, file: str) -> Answer:
    at = hub.repo(request, (kinds or "") + repo).at(revision)
    where = {"X-Repo-Commit": at.oid}
    if file not in at.files:
        return Answer({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound", **where})
    data = at.files[file]
    if file in at.lfs:
        linked = {"X-Linked-ETag": f'"{sha256(data)}"', "X-Linked-Size": str(len(data))}
        return Answer({}, 302, {**where, **linked, "Location": f"{hub.cdn}/{sha256(data)}"})
    return _ranged(request, data, {**where, "ETag": f'"{entry(at, file)["oid"]}"'})


def cdn(hub: HubServer, request: Request, oid: str) -> Answer:
    if request.token is not None:
        raise HubError(400, "the token goes to the Hub alone")
    return _ranged(request, hub.objects[oid], {"ETag": f'"{oid}"'})


def _ranged(request: Request, data: bytes, headers: dict[str, str]) -> Answer:
    headers = {**headers, "Accept-Ranges": "bytes"}
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.range or "")
    if not asked:
        return Answer(data, headers=headers)
    first, last = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
    if first > last:
        return Answer(b"", 416, {**headers, "Content-Range": f"bytes */{len(data)}"})
    return Answer(data[first : last + 1], 206, {**headers, "Content-Range": f"bytes {first}-{last}/{len(data)}"})


def _when(at: Commit) -> str:
    return at.date.strftime("%Y-%m-%dT%H:%M:%S.000Z")


_REPO = r"(?P<repo>[^/]+/[^/]+)"
_API = rf"/api/(?P<kinds>models|datasets|spaces)/{_REPO}"
ROUTES: list[tuple[str, str, Route]] = [
    ("GET", r"/api/whoami-v2", whoami),
    ("POST", r"/api/repos/create", create),
    ("POST", r"/api/validate-yaml", validate),
    ("POST", rf"{_API}/preupload/(?P<revision>.+)", preupload),
    ("POST", r"/(?P<repo>(?:datasets/|spaces/)?[^/]+/[^/]+)\.git/info/lfs/objects/batch", lfs_batch),
    ("PUT", r"/_lfs/(?P<oid>[0-9a-f]{64})", lfs_put),
    ("PUT", r"/_lfs_part/(?P<oid>[0-9a-f]{64})/(?P<part>\d+)", lfs_part),
    ("POST", r"/_lfs_complete/(?P<oid>[0-9a-f]{64})", lfs_complete),
    ("POST", r"/_lfs_verify", lfs_verify),
    ("POST", rf"{_API}/commit/(?P<revision>.+)", commit),
    ("POST", rf"{_API}/branch/(?P<name>.+)", branch),
    ("POST", rf"{_API}/tag/(?P<revision>.+)", tag),
    ("GET", rf"{_API}/refs", refs),
    ("GET", rf"{_API}/commits/(?P<revision>.+)", commits),
    ("GET", rf"{_API}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?", tree),
    ("POST", rf"{_API}/paths-info/(?P<revision>.+)", paths_info),
    ("GET", rf"{_API}/revision/(?P<revision>.+)", info),
    ("GET", _API, info),
    ("GET", rf"/(?P<kinds>datasets/|spaces/)?{_REPO}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", resolve),
    ("GET", r"/_cdn/(?P<oid>[0-9a-f]{64})", cdn),
]
