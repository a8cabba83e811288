"""Servers that take exports in, over real HTTP: Ollama's API, and the hub's with Git LFS."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


class _Handler(BaseHTTPRequestHandler):
    """Hands a request to the server's `answer`, as (method, path, body)."""

    protocol_version = "HTTP/1.1"

    def _handle(self) -> None:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            raise AssertionError("Ollama and the hub are told how long a body is")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        known: Any = self.server
        status, answer = known.state.answer(self.command, self.path, body, self.headers)
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_HEAD = do_POST = do_PUT = _handle

    def log_message(self, format: str, *args: object) -> None:
        """Tests are quiet."""


@contextmanager
def served(state: Any) -> Iterator[str]:
    """The address of a server that answers as `state` does."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.state = state  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        state.url = f"http://127.0.0.1:{server.server_port}"
        yield state.url
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass
class Ollama:
    """What Ollama documents of blobs and of creating; `refuses` is what creating ends with."""

    refuses: str = ""
    url: str = ""
    blobs: dict[str, bytes] = field(default_factory=dict)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)

    def answer(self, method: str, path: str, body: bytes, headers: Any) -> tuple[int, Any]:
        self.calls.append(f"{method} {path.split(':')[0]}")
        if path.startswith("/api/blobs/"):
            return self._blob(method, path.removeprefix("/api/blobs/"), body)
        asked = json.loads(body)
        if path == "/api/create":
            return self._create(asked)
        if path == "/api/show":
            if asked["model"] not in self.models:
                return 404, {"error": f"model '{asked['model']}' not found"}
            return 200, self.models[asked["model"]]
        return 404, {"error": "not found"}

    def _blob(self, method: str, digest: str, body: bytes) -> tuple[int, Any]:
        if method == "HEAD":
            return (200 if digest in self.blobs else 404), b""
        if digest != f"sha256:{hashlib.sha256(body).hexdigest()}":
            return 400, {"error": "digest mismatch"}
        self.blobs[digest] = body
        return 201, b""

    def _create(self, asked: dict[str, Any]) -> tuple[int, Any]:
        allowed = {"model", "files", "template", "parameters", "license", "system", "stream"}
        if not asked.keys() <= allowed:
            return 400, {"error": f"unknown: {asked.keys() - allowed}"}
        for name, digest in asked["files"].items():
            if "/" in name or digest not in self.blobs:
                return 400, {"error": "invalid file"}
            if not self.blobs[digest].startswith(b"GGUF"):
                return 400, {"error": "unsupported content type: unknown"}
        lines: list[dict[str, str]] = [{"status": "parsing GGUF"}]
        lines.append({"error": self.refuses} if self.refuses else {"status": "success"})
        if not self.refuses:
            self.models[asked["model"]] = asked
        return 200, b"".join(json.dumps(line).encode() + b"\n" for line in lines)


@dataclass
class Hub:
    """What huggingface_hub asks of a hub to make a repository and commit to it."""

    token: str = "hf_right"
    public: set[str] = field(default_factory=set)  # repositories that are there already
    url: str = ""
    visibility: dict[str, str] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)  # of Git LFS, by SHA-256
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)

    def answer(self, method: str, path: str, body: bytes, headers: Any) -> tuple[int, Any]:
        path = path.split("?")[0]
        self.calls.append(f"{method} {path}")
        if method == "PUT":  # to storage, without the hub's token
            self.objects[path.rpartition("/")[2]] = body
            return 200, b""
        if headers.get("Authorization") != f"Bearer {self.token}":
            return 401, {"error": "Invalid username or password."}
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path.endswith(".git/info/lfs/objects/batch"):
            return 200, self._batch(json.loads(body))
        return self._of_repository(path, body)

    def _create(self, asked: dict[str, Any]) -> tuple[int, Any]:
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.public:
            self.visibility[name] = "public"
            self.files.setdefault(name, {})
            return 409, {"error": "You already created it", "url": f"{self.url}/{name}"}
        self.visibility[name] = asked.get("visibility", "public")
        self.files[name] = {}
        return 200, {"url": f"{self.url}/{name}"}

    def _batch(self, asked: dict[str, Any]) -> dict[str, Any]:
        found = []
        for one in asked["objects"]:
            action = {"href": f"{self.url}/storage/{one['oid']}", "header": {}}
            known = one["oid"] in self.objects
            found.append({**one, **({} if known else {"actions": {"upload": action}})})
        return {"transfer": "basic", "objects": found}

    def _of_repository(self, path: str, body: bytes) -> tuple[int, Any]:
        parts = path.split("/")
        name = "/".join(parts[3:5])
        rest = parts[5] if len(parts) > 5 else ""
        if rest == "preupload":
            return 200, {"files": [self._mode(one) for one in json.loads(body)["files"]]}
        if rest == "tree":
            return 200, [
                {"type": "file", "path": path, "size": len(data), "oid": "0" * 40}
                for path, data in self.files[name].items()
            ]
        if rest == "commit":
            for line in body.splitlines():
                self._apply(name, json.loads(line))
            commit = "a" * 40
            url = f"{self.url}/{name}/commit/{commit}"
            return 200, {"commitUrl": url, "commitOid": commit, "success": True}
        private = self.visibility[name] == "private"
        return 200, {"id": name, "private": private, "sha": "b" * 40, "siblings": [], "tags": []}

    def _mode(self, one: dict[str, Any]) -> dict[str, Any]:
        mode = "lfs" if one["path"].endswith(".safetensors") else "regular"
        return {"path": one["path"], "uploadMode": mode, "shouldIgnore": False}

    def _apply(self, name: str, line: dict[str, Any]) -> None:
        value = line["value"]
        files = self.files.setdefault(name, {})
        if line["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            files[value["path"]] = self.objects[value["oid"]]
        elif line["key"] == "deletedFile":
            del files[value["path"]]


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A hub over HTTP."""
    state = Hub()
    with served(state):
        yield state


@pytest.fixture
def ollama() -> Iterator[Ollama]:
    """An Ollama server over HTTP."""
    state = Ollama()
    with served(state):
        yield state
