"""A GGUF file made a model of a running Ollama server, by its HTTP API.

HEAD, then POST /api/blobs/sha256:…; POST /api/create with `files`; POST /api/show to see that it is
there. Source: Ollama's API documentation (github.com/ollama/ollama/blob/main/docs/api.md).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from codetune.errors import ConfigError, ExportError
from codetune.export.modelfile import Spec
from codetune.progress import Progress

if TYPE_CHECKING:
    import httpx

DEFAULT_URL = "http://localhost:11434"
_CHUNK = 1 << 20  # bytes
_PATIENCE = 600.0  # seconds of silence: Ollama copies and checks gigabytes before it answers
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*){0,2}(:[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True)
class Server:
    """An Ollama server: its address, and what is sent as its bearer token, if anything."""

    url: str = DEFAULT_URL
    key: str | None = None

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            host, _ = parts.hostname, parts.port
        except ValueError as error:  # a bracket that is not closed, a port that is none
            raise self._no_address() from error
        if parts.scheme not in ("http", "https") or not host or parts.query:
            raise self._no_address()
        if parts.username or parts.password:
            raise ConfigError("No key or name belongs into the address of an Ollama server.")

    def _no_address(self) -> ConfigError:
        return ConfigError(
            f"'{self.url}' is no address of an Ollama server.", advice=f"As in {DEFAULT_URL}"
        )


def check_name(name: str) -> str:
    """The name, if Ollama takes it.

    Raises:
        ConfigError
    """
    if len(name) > 200 or not _NAME.fullmatch(name):
        raise ConfigError(
            f"'{name[:80]}' cannot be the name of a model in Ollama.",
            advice="Use small letters, digits, '.', '_', '-' and '/', with ':tag' if wanted: "
            "--name shop",
        )
    return name


def create(server: Server, name: str, file: Path, spec: Spec, progress: Progress) -> None:
    """Make `file` the model `name` of `server`; one of that name is replaced.

    Raises:
        ExportError: the server cannot be reached, or refuses.
    """
    import httpx

    check_name(name)
    headers = {"Authorization": f"Bearer {server.key}"} if server.key else {}
    timeout = httpx.Timeout(_PATIENCE, connect=10.0)
    try:
        # Redirects are not followed: a model goes where it was sent.
        with httpx.Client(base_url=server.url, headers=headers, timeout=timeout) as client:
            digest = _send(client, file, progress)
            _make(client, name, file.name, digest, spec, progress)
            shown = client.post("/api/show", json={"model": name})
            _check(shown, "show the model that it has created")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ExportError(
            f"The Ollama server at {server.url} cannot be used: {error or type(error).__name__}.",
            advice="Start it (`ollama serve`), or name another one with --url.",
        ) from error


def _send(client: httpx.Client, file: Path, progress: Progress) -> str:
    """Give the server the file's bytes, unless it has them; returns their digest."""
    with file.open("rb") as stream:
        digest = f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"
    known = client.head(f"/api/blobs/{digest}")
    if known.status_code == 200:
        progress.say("The Ollama server has this file already.")
        return digest
    if known.status_code != 404:
        _check(known, "say whether it has the file")
    with progress.task("Sending", total=file.stat().st_size, unit="bytes") as task:

        def parts() -> Iterator[bytes]:
            with file.open("rb") as stream:
                while part := stream.read(_CHUNK):
                    yield part
                    task.advance(len(part))

        size = {"Content-Length": str(file.stat().st_size)}
        _check(client.post(f"/api/blobs/{digest}", content=parts(), headers=size), "take the file")
    return digest


def _make(
    client: httpx.Client, name: str, file: str, digest: str, spec: Spec, progress: Progress
) -> None:
    body: dict[str, Any] = {
        "model": name,
        "files": {file: digest},
        "stream": True,
    }
    more = {
        "template": spec.template,  # without one Ollama goes by the file's own
        "parameters": dict(spec.parameters),
        "license": spec.licence,
        "system": spec.system,
    }
    body |= {key: value for key, value in more.items() if value}
    last = ""
    with client.stream("POST", "/api/create", json=body) as reply:
        if reply.is_error:
            reply.read()
            _check(reply, "create the model")
        for line in reply.iter_lines():
            if not line.strip():
                continue
            said = _object(line)
            if "error" in said:
                raise ExportError(f"The Ollama server does not create '{name}': {said['error']}")
            last = str(said.get("status", ""))
            progress.say(f"Ollama: {last}")
    if last != "success":
        raise ExportError(
            f"The Ollama server broke off before '{name}' was there (after: {last or 'nothing'}).",
            advice="Look at its log, and run again: what it has received is not sent again.",
        )


def _check(reply: httpx.Response, what: str) -> None:
    if reply.is_success:
        return
    said = _object(reply.text).get("error") or reply.reason_phrase
    raise ExportError(
        f"The Ollama server does not {what}: {reply.status_code} {str(said)[:300]}",
        advice="Codetune speaks the API of Ollama 0.6 and later.",
    )


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
