"""What the stub of the Hub answers, request by request: the routes that `huggingface_hub` and `datasets` ask for."""

import json
import re
from base64 import b64decode
from dataclasses import dataclass, field
from hashlib import sha1, sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from tests.hub.stub import Hub

Files = dict[str, bytes]


@dataclass
class Repository:
    """Commits, oldest first: (id, files)."""

    private: bool
    commits: list[tuple[str, Files]] = field(default_factory=list)

    def add(self, files: Files) -> str:
        text = json.dumps([len(self.commits), sorted((name, sha256(data).hexdigest()) for name, data in files.items())])
        self.commits.append((sha1(text.encode()).hexdigest(), files))
        return self.commits[-1][0]

    def at(self, revision: str) -> tuple[str, Files] | None:
        if revision == "main":
            return self.commits[-1]
        return next((commit for commit in self.commits if commit[0] == revision), None)


@dataclass
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def _json(value: Any, status: int = 200, code: str = "") -> Answer:
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json", **({"X-Error-Code": code} if code else {})})


def _refused(status: int, message: str, code: str = "") -> Answer:
    return _json({"error": message}, status, code)


def route(hub: "Hub", method: str, path: str, query: dict[str, str], body: bytes, token: str, span: str) -> Answer:
    """The answer to one request."""
    if path.startswith("/upload/") and method == "PUT":  # the address itself is the permission, as with a signed one
        oid = path.removeprefix("/upload/")
        if sha256(body).hexdigest() != oid:
            return _refused(400, "wrong hash")
        hub.blobs[oid] = body
        hub.uploads += 1
        return Answer()
    if token and token not in hub.tokens:
        return _refused(401, "Invalid credentials in Authorization header")
    if path == "/api/repos/create":
        return _create(hub, json.loads(body), token)
    if path == "/api/validate-yaml":
        return _validated(json.loads(body)["content"])
    if path == "/verify":
        return Answer(200 if json.loads(body)["oid"] in hub.blobs else 404)
    if found := re.fullmatch(r"/datasets/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
        return _of(hub, found[1], token, writes=True) or _batch(hub, json.loads(body))
    if found := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
        return _of(hub, found[1], token) or _resolve(hub.repositories[found[1]], found[2], found[3], span)
    if found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/([a-z-]+)/([^/]+)(?:/(.*))?)?", path):
        name, verb, revision, rest = found[1], found[2] or "revision", found[3] or "main", found[4] or ""
        if refusal := _of(hub, name, token, writes=verb in ("preupload", "commit")):
            return refusal
        repository = hub.repositories[name]
        if verb == "commit":
            return _commit(hub, name, body)
        at = repository.at(revision)
        if at is None:
            return _refused(404, "Invalid rev id", "RevisionNotFound")
        return _reading(name, repository, at, verb, rest, query, body)
    return _refused(404, f"no route for {method} {path}")


def _of(hub: "Hub", name: str, token: str, writes: bool = False) -> Answer | None:
    """Why a token may not do this; None if it may."""
    repository = hub.repositories.get(name)
    if not token and (writes or repository is None or repository.private):
        return _refused(401, "Invalid username or password.", "RepoNotFound")
    if repository is None:
        return _refused(404, "Repository not found", "RepoNotFound")
    return _refused(403, "Forbidden") if writes and not hub.tokens[token] else None


def _create(hub: "Hub", asked: dict[str, Any], token: str) -> Answer:
    name = f"{asked.get('organization') or 'me'}/{asked['name']}"
    if not token:
        return _refused(401, "Invalid username or password.")
    if not hub.tokens[token]:
        return _refused(403, "You don't have the rights to create a dataset under this namespace")
    if name in hub.repositories:
        return _json({"error": "You already created this dataset repo", "url": f"{hub.endpoint}/datasets/{name}"}, 409)
    hub.repositories[name] = Repository(asked.get("visibility") == "private" or bool(asked.get("private")))
    hub.repositories[name].add({".gitattributes": b"*.parquet filter=lfs diff=lfs merge=lfs -text\n"})
    return _json({"url": f"{hub.endpoint}/datasets/{name}", "name": name, "id": name})


def _validated(content: str) -> Answer:
    import yaml

    from curate.card import LICENCES

    try:
        data = yaml.safe_load(content.split("---\n")[1]) if content.startswith("---\n") else {}
    except yaml.YAMLError as error:
        return _json({"errors": [{"message": str(error)}], "warnings": []}, 400)
    named = data.get("license", "unknown")
    bad = [one for one in (named if isinstance(named, list) else [named]) if one not in LICENCES]
    errors = [{"message": f'"license" must be one of the list, not {one!r}'} for one in bad]
    if "other" in named and not data.get("license_name"):
        errors.append({"message": "license_name is needed"})
    return _json({"errors": errors, "warnings": []}, 400 if errors else 200)


def _batch(hub: "Hub", asked: dict[str, Any]) -> Answer:
    def one(thing: dict[str, Any]) -> dict[str, Any]:
        if thing["oid"] in hub.blobs:
            return thing
        links = {"upload": {"href": f"{hub.endpoint}/upload/{thing['oid']}"}, "verify": {"href": f"{hub.endpoint}/verify"}}
        return {**thing, "authenticated": True, "actions": links}

    return _json({"transfer": "basic", "objects": [one(thing) for thing in asked["objects"]]})


def _commit(hub: "Hub", name: str, body: bytes) -> Answer:
    repository = hub.repositories[name]
    if hub.at_commit is not None:
        first, hub.at_commit = hub.at_commit, None
        first()
    lines = [json.loads(line) for line in body.decode().splitlines()]
    head, files = repository.commits[-1][0], dict(repository.commits[-1][1])
    for line in lines:
        value = line["value"]
        if line["key"] == "header" and value.get("parentCommit") not in (None, head):
            return _refused(412, "A commit has happened since. Please refresh and try again.")
        if line["key"] == "file":
            files[value["path"]] = b64decode(value["content"])
        if line["key"] == "lfsFile":
            if value["oid"] not in hub.blobs:
                return _refused(400, "LFS pointer to a missing object")
            files[value["path"]] = hub.blobs[value["oid"]]
        if line["key"] == "deletedFile":
            files.pop(value["path"], None)
    oid = repository.add(files)
    return _json({"success": True, "commitOid": oid, "commitUrl": f"{hub.endpoint}/datasets/{name}/commit/{oid}", "hookOutput": ""})


def _stored(name: str, data: bytes) -> dict[str, Any]:
    git = sha1(b"blob %d\0" % len(data) + data).hexdigest()
    lfs = {"lfs": {"oid": sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}} if name.endswith(".parquet") else {}
    return {"type": "file", "oid": git, "size": len(data), "path": name, **lfs}


def _reading(name: str, repository: Repository, at: tuple[str, Files], verb: str, rest: str, query: dict[str, str], body: bytes) -> Answer:
    commit, files = at
    if verb == "preupload":
        modes = []
        for asked in json.loads(body)["files"]:
            here = _stored(asked["path"], files[asked["path"]]) if asked["path"] in files else {}
            mode = "lfs" if asked["path"].endswith(".parquet") else "regular"
            modes.append({"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": here.get("lfs", here).get("oid")})
        return _json({"files": modes})
    if verb == "tree":
        inside = {path: data for path, data in files.items() if not rest or path.startswith(f"{rest}/")}
        if rest and not inside:
            return _refused(404, f"{rest} does not exist", "EntryNotFound")
        deep = query.get("recursive", "false").lower() == "true"
        start = len(rest) + 1 if rest else 0
        folders = {path[:end] for path in inside for end in (m.start() for m in re.finditer("/", path)) if end > start}
        folders = folders if deep else {folder for folder in folders if "/" not in folder[start:]}
        entries = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": folder} for folder in sorted(folders)]
        return _json(entries + [_stored(path, data) for path, data in sorted(inside.items()) if deep or "/" not in path[start:]])
    if verb == "paths-info":
        wanted = json.loads(body)["paths"] if body.startswith(b"{") else parse_qs(body.decode()).get("paths", [])
        return _json([_stored(path, files[path]) for path in wanted if path in files])
    if verb == "revision":
        siblings = [{"rfilename": path} for path in sorted(files)]
        facts = {"_id": "0" * 24, "id": name, "author": name.split("/")[0], "sha": commit, "private": repository.private, "gated": False}
        return _json({**facts, "disabled": False, "tags": [], "downloads": 0, "likes": 0, "siblings": siblings})
    return _refused(404, f"no route for {verb}")


def _resolve(repository: Repository, revision: str, path: str, span: str) -> Answer:
    at = repository.at(revision)
    if at is None:
        return _refused(404, "Invalid rev id", "RevisionNotFound")
    headers = {"X-Repo-Commit": at[0]}
    if path not in at[1]:
        refusal = _refused(404, "Entry not found", "EntryNotFound")
        return Answer(404, refusal.body, {**refusal.headers, **headers})
    data = at[1][path]
    stored = _stored(path, data)
    tag = stored.get("lfs", stored)["oid"]
    headers |= {"ETag": f'"{tag}"', "X-Linked-Etag": f'"{tag}"', "X-Linked-Size": str(len(data)), "Accept-Ranges": "bytes"}
    if found := re.fullmatch(r"bytes=(\d+)-(\d*)", span):
        start, end = int(found[1]), min(int(found[2] or len(data) - 1), len(data) - 1)
        return Answer(206, data[start : end + 1], {**headers, "Content-Range": f"bytes {start}-{end}/{len(data)}"})
    return Answer(200, data, headers)
