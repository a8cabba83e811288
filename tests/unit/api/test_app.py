"""The application on its edges: who may ask, what is refused, what an error says."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from codetune import errors
from codetune.api.app import create_app
from codetune.api.errors import failure_of
from codetune.api.guard import BODY_LIMIT
from codetune.api.server import Server, listen
from codetune.api.stream import EventStream
from codetune.serving.catalog import Catalog
from codetune.serving.complete import Completer
from codetune.serving.config import ServingOptions
from codetune.serving.engines.local import LocalEngine
from tests.unit.serving.tiny_models import make_base


@pytest.fixture(scope="module")
def completer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Completer]:
    from codetune.registry.cards import Registry

    folder = make_base(tmp_path_factory.mktemp("bases") / "tiny")
    options = ServingOptions(base=str(folder))
    engine = LocalEngine(options)
    yield Completer(engine, Catalog(Registry(folder / "none"), options.base), options)
    engine.close()


@pytest.fixture(scope="module")
def port(completer: Completer) -> Iterator[int]:
    app = create_app(completer)

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("secret of /home/me")

    @app.get("/damaged")
    async def damaged() -> None:
        raise errors.ModelError("/home/me/model is damaged.")

    ready = threading.Event()
    with listen("127.0.0.1", 0) as listener:
        server = Server(app, completer.engine, ready.set)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        assert ready.wait(10)
        yield int(listener.getsockname()[1])
        server.should_exit = True
        thread.join(10)


def ask(
    port: int, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, Any], dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response.status, answer, {k.lower(): v for k, v in response.getheaders()}


def complete(port: int, **fields: Any) -> tuple[int, dict[str, Any]]:
    body = json.dumps({"model": "tiny", "prompt": "x", "max_tokens": 2} | fields).encode()
    return ask(port, "POST", "/v1/completions", body)[:2]


def test_health_says_what_runs(port: int) -> None:
    status, body, headers = ask(port, "GET", "/health")
    assert (status, body["status"], body["running"]) == (200, "ok", 0)
    assert headers["x-request-id"].startswith("req-")
    assert "server" not in headers


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("GET", "/docs", 404, "not_found"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v1/completions", 405, "method_not_allowed"),
        ("GET", "/v1/models/none/such", 404, "model_not_found"),
    ],
)
def test_every_refusal_is_an_error_object(
    port: int, method: str, path: str, status: int, code: str
) -> None:
    found, body, _ = ask(port, method, path)
    assert found == status
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert body["error"]["code"] == code


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"prompt": ' + b'{"a":' * 5000 + b"1" + b"}" * 5001,
        b'{"model": "tiny", "prompt": {"a": 1}}',
        b'{"model": "tiny", "prompt": [1, "x"]}',
        b'{"model": "tiny", "prompt": []}',
        b'{"model": "tiny", "prompt": "x", "max_tokens": "many"}',
        b'{"model": "tiny", "prompt": "x", "max_tokens": 1e400}',
        b'{"model": "tiny", "prompt": "x", "temperature": NaN}',
        b'{"model": "tiny", "prompt": "x", "stop": [[1]]}',
        b'{"model": "tiny", "prompt": "\\ud800", "max_tokens": 0}',
        b'{"model": ["tiny"]}',
        b'{"model": "tiny", "prompt": "x", "n": 1' + b"0" * 400 + b"}",
        b'{"model": "tiny", "prompt": "x", "temperature": 1' + b"0" * 400 + b"}",
    ],
)
def test_bodies_that_make_no_sense_are_bad_requests(port: int, body: bytes) -> None:
    if body == b"":
        body = b'{"model": "tiny", "messages": []}'
        status, answer, _ = ask(port, "POST", "/v1/chat/completions", body)
    else:
        status, answer, _ = ask(port, "POST", "/v1/completions", body)
    assert status == 400
    assert answer["error"]["type"] == "invalid_request_error"
    assert len(answer["error"]["message"]) < 500


def test_images_and_other_formats_are_refused_clearly(port: int) -> None:
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
    body = json.dumps({"model": "tiny", "messages": [image]}).encode()
    status, answer, _ = ask(port, "POST", "/v1/chat/completions", body)
    assert (status, answer["error"]["param"]) == (400, "messages")


def test_bodies_over_the_limit_are_not_read(port: int) -> None:
    status, answer, _ = ask(port, "POST", "/v1/completions", Content_Length="99999999999")
    assert (status, answer["error"]["code"]) == (413, "body_too_large")
    # Without a length, the server counts.
    with socket.create_connection(("127.0.0.1", port), timeout=20) as raw:
        raw.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
        for _ in range(BODY_LIMIT // 0x100000 + 1):
            raw.sendall(chunk)
        assert b"413" in raw.recv(100)


def test_a_missing_model_means_the_default_one(port: int) -> None:
    status, answer = complete(port, model=None)
    assert (status, answer["model"]) == (200, "tiny")


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost:8000", True),
        ("LOCALHOST", True),
        ("127.0.0.1", True),
        ("[::1]:8000", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example:8000", False),
        ("evil.example@127.0.0.1", False),
        ("", False),
        ("169.254.169.254", False),
    ],
)
def test_only_this_machines_names_are_answered(port: int, host: str, allowed: bool) -> None:
    """DNS rebinding: a page's own name suddenly means 127.0.0.1."""
    status, body, _ = ask(port, "GET", "/v1/models", Host=host)
    assert status == (200 if allowed else 403)
    assert allowed or body["error"]["code"] == "host_not_allowed"


def test_web_pages_cannot_ask_nor_read(port: int) -> None:
    named = ("https://evil.example", "http://localhost.evil.example", "http://127.0.0.1.x:80")
    named = (*named, "http://[x")  # which no browser says, and no parser reads
    for page in (*named, "null"):  # the last: a sandboxed frame, or a page that is a data: address
        status, _, headers = ask(port, "GET", "/v1/models", Origin=page)
        assert status == 403, page
        assert not any(name.startswith("access-control") for name in headers)
    assert ask(port, "GET", "/v1/models", Origin="http://localhost:3000")[0] == 200
    assert ask(port, "GET", "/v1/models", Origin="vscode-webview://abc")[0] == 200
    status, _, headers = ask(port, "OPTIONS", "/v1/completions")
    assert status == 405
    assert not any(name.startswith("access-control") for name in headers)


@pytest.mark.parametrize("path", ["/broken", "/damaged"])
def test_errors_are_opaque_outside_and_logged_inside(
    port: int, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "codetune.api"):
        status, body, headers = ask(port, "GET", path)
    assert status == 500
    assert "/home/me" not in json.dumps(body)
    assert headers["x-request-id"] in body["error"]["message"]
    code = {"/broken": "internal_error", "/damaged": "model_unusable"}[path]
    assert body["error"]["code"] == code
    assert "/home/me" in caplog.text
    assert headers["x-request-id"] in caplog.text


def test_every_error_of_ours_has_a_status() -> None:
    """A new class of error is put into the map, or is an opaque 500 on purpose."""
    opaque = {"ModelError", "UnsafeModelError"}
    internal = {name for name in vars(errors) if name.endswith("Error")} - opaque
    statuses = {}
    for name in internal:
        kind = getattr(errors, name)
        more = {"retry_after": 7} if name == "LoginLimitError" else {}
        error = kind("x", "y") if name == "MissingExtraError" else kind("x", **more)
        statuses[name] = failure_of(error, "req-1").status
    serving = {name: statuses[name] for name in statuses if statuses[name] != 500}
    assert serving == {
        "BadRequestError": 400,
        "ConfigError": 400,
        "LoginError": 401,
        "ForbiddenError": 403,
        "NotFoundError": 404,
        "RegistryError": 404,
        "ConflictError": 409,
        "UnservableModelError": 409,
        "DatasetError": 422,
        "ExportError": 422,
        "ParityError": 422,
        "SourceError": 422,
        "TeacherError": 422,
        "UnsafeSourceError": 422,
        "LoginLimitError": 429,
        "OverloadedError": 429,
        "QuotaError": 429,
        "ServingError": 503,
        "StoreError": 503,
        "DeadlineError": 504,
    }


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/v1/nothing", {"error": {"message", "type", "param", "code"}}),
        ("/api/v1/nothing", {"error": {"message", "type", "param", "code"}}),
        ("/api/nothing", {"error": str}),
        ("/v1/fim/nothing", {"object", "message", "type", "param", "code"}),
        ("/lora-adapters/nothing", {"error": {"code", "message", "type"}}),
    ],
)
def test_every_path_is_refused_in_its_dialects_words(port: int, path: str, shape: Any) -> None:
    for host, status in (("localhost", 404), ("evil.example", 403)):
        found, body, _ = ask(port, "GET", path, Host=host)
        assert found == status
        if isinstance(shape, set):
            assert body.keys() == shape
        elif shape["error"] is str:
            assert isinstance(body["error"], str)
        else:
            assert body["error"].keys() == shape["error"]


def test_a_reader_that_stalls_does_not_hold_its_place(
    port: int, completer: Completer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("codetune.api.stream._SLOWEST_READER", 0.2)
    closed = False

    async def events() -> AsyncIterator[bytes]:
        nonlocal closed
        try:
            while True:
                yield b"x" * 1000
        finally:
            closed = True

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            await asyncio.sleep(60)

    async def receive() -> Any:
        await asyncio.sleep(60)

    started = time.monotonic()
    asyncio.run(EventStream(events())({"type": "http"}, receive, send))
    assert closed
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.com", ""])
def test_a_public_address_is_refused(host: str) -> None:
    with pytest.raises(errors.ConfigError, match=r"others reach|not an IP address"):
        listen(host, 0)


def test_an_address_of_another_machine_is_named() -> None:
    with pytest.raises(errors.ServingError, match="none of this machine's addresses") as caught:
        listen("192.0.2.1", 0, public=True)
    assert "1024" not in caught.value.advice


def test_a_port_in_use_is_named() -> None:
    with listen("localhost", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(errors.ServingError, match=f"Port {port} is in use") as caught:
            listen("127.0.0.1", port)
    assert "--port" in caught.value.advice
