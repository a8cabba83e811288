"""Every case of serving, in every dialect: huge numbers and bodies, depth, leavers, markup."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from codetune.api.guard import BODY_LIMIT
from codetune.models.prompts import Renderer
from tests.clients.conftest import Running, server, serving, team_home

__all__ = ["server", "serving", "team_home"]

MESSAGES = [{"role": "user", "content": "x"}]
# Each dialect's way to ask: path, the least body, where its options stand, and how it calls
# the most tokens, the answers and the stops.
DIALECTS: dict[str, dict[str, Any]] = {
    "openai": {"path": "/v1/completions", "body": {"prompt": "x"}, "most": "max_tokens", "n": "n"},
    "chat": {
        "path": "/v1/chat/completions",
        "body": {"messages": MESSAGES},
        "most": "max_tokens",
        "n": "n",
    },
    "mistral": {
        "path": "/v1/fim/completions",
        "body": {"prompt": "x", "suffix": "y"},
        "most": "max_tokens",
    },
    "infill": {
        "path": "/infill",
        "body": {"input_prefix": "x", "input_suffix": "y"},
        "most": "n_predict",
        "n": "n_cmpl",
    },
    "completion": {
        "path": "/completion",
        "body": {"prompt": "x"},
        "most": "n_predict",
        "n": "n_cmpl",
    },
    "generate": {
        "path": "/api/generate",
        "body": {"prompt": "x", "raw": True},
        "most": "num_predict",
        "inside": "options",
    },
    "ollama chat": {
        "path": "/api/chat",
        "body": {"messages": MESSAGES},
        "most": "num_predict",
        "inside": "options",
    },
}
TABBY = ("/v1/completions", {"segments": {"prefix": "x", "suffix": "y"}})
LOOKING = ["/api/show", "/tokenize", "/detokenize", "/apply-template", "/lora-adapters"]
LOOKING += ["/v1/embeddings", "/api/embed", "/api/embeddings", "/embedding"]
LOOKING += ["/v1/events", "/v1/load_lora_adapter", "/v1/unload_lora_adapter"]
EVERY_PATH = [*(dialect["path"] for dialect in DIALECTS.values()), *LOOKING]


@pytest.fixture
def ask(server: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client
    server.settle()


def body_of(dialect: str, **options: Any) -> dict[str, Any]:
    how = DIALECTS[dialect]
    named = {how.get(name, name): value for name, value in options.items()}
    body = {"model": "tiny", "stream": False, **how["body"]}
    return body | ({how["inside"]: named} if "inside" in how else named)


def message_of(answer: httpx.Response) -> str:
    error = answer.json()
    error = error.get("error", error)
    return str(error if isinstance(error, str) else error["message"])


TOO_MUCH: list[dict[str, Any]] = [
    {"most": 10**9},
    {"most": 10**30},
    {"n": 10**6},
    {"n": 0},
    {"stop": ["x"] * 1000},
    {"stop": ["x" * 1000]},
    {"temperature": 1e9},
    {"top_p": 7},
    {"seed": 10**30},
]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_no_model_can_answer_is_refused_at_once(ask: httpx.Client, dialect: str) -> None:
    for options in TOO_MUCH:
        if "n" in options and "n" not in DIALECTS[dialect]:
            continue  # this dialect has one answer
        answer = ask.post(DIALECTS[dialect]["path"], json=body_of(dialect, **options))
        assert answer.status_code == 400, (options, answer.text)
        assert len(message_of(answer)) < 500


@pytest.mark.parametrize("path", EVERY_PATH)
@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"model": ' + b'{"a":' * 5000 + b"1" + b"}" * 5001,
        b'"text"',
        b"null",
        b'{"model": 7, "prompt": 7, "messages": 7, "content": 7, "tokens": "x", "lora_name": 7}',
    ],
    ids=["cut", "no text", "deep", "deep object", "a string", "null", "wrong types"],
)
def test_bodies_that_make_no_sense_are_bad_requests(
    ask: httpx.Client, path: str, body: bytes
) -> None:
    answer = ask.post(path, content=body)
    assert answer.status_code == 400, answer.text
    assert len(message_of(answer)) < 500


@pytest.mark.parametrize("path", EVERY_PATH)
def test_bodies_over_the_limit_are_not_read(server: Running, path: str) -> None:
    place = urlsplit(server.url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=20)
    connection.request("POST", path, headers={"Content-Length": str(BODY_LIMIT + 1)})
    answer = connection.getresponse()
    assert answer.status == 413
    assert "bytes" in answer.read().decode()
    connection.close()


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_client_that_leaves_frees_its_place(server: Running, dialect: str) -> None:
    """In the middle of a stream, and while it waits for a whole answer."""
    how = DIALECTS[dialect]
    place = urlsplit(server.url)
    long = body_of(dialect, most=900, temperature=0, seed=1)
    for stream in (True, False):
        body = json.dumps(long | {"stream": stream}).encode()
        with socket.create_connection((place.hostname, place.port), timeout=20) as raw:
            head = f"POST {how['path']} HTTP/1.1\r\nHost: localhost\r\n"
            raw.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            if stream:
                raw.recv(1000)
            else:
                until = time.monotonic() + 20
                while not any(server.engine.busy().values()) and time.monotonic() < until:
                    time.sleep(0.002)
        server.settle()


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_client_that_leaves_in_the_middle_of_its_request_is_no_failure(
    ask: httpx.Client, server: Running, dialect: str, caplog: pytest.LogCaptureFixture
) -> None:
    path, place = DIALECTS[dialect]["path"], urlsplit(server.url)

    def left() -> list[str]:
        how = f'{{method="POST",outcome="cancelled",route="{path}",status="499"}}'
        lines = ask.get("/metrics").text.splitlines()
        return [line for line in lines if line.startswith(f"codetune_http_requests_total{how}")]

    before = left()
    with socket.create_connection((place.hostname, place.port), timeout=20) as raw:
        raw.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\n".encode())
        raw.sendall(b'Content-Length: 100\r\n\r\n{"prompt":')
    until = time.monotonic() + 20
    while left() == before and time.monotonic() < until:
        time.sleep(0.01)
    assert left() != before
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_reader_that_stalls_holds_no_place(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks for a stream and never reads; what it holds is a buffer, and then nothing."""
    monkeypatch.setattr("codetune.api.stream._SLOWEST_READER", 0.2)
    place = urlsplit(server.url)
    for dialect in ("openai", "generate", "completion"):
        body = json.dumps(body_of(dialect, most=900, temperature=0) | {"stream": True}).encode()
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        raw.connect((place.hostname, place.port))
        head = f"POST {DIALECTS[dialect]['path']} HTTP/1.1\r\nHost: localhost\r\n"
        raw.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        server.settle()
        raw.close()


def test_names_of_control_tokens_are_text_everywhere(ask: httpx.Client, server: Running) -> None:
    """Counted in tokens: a byte each, where a control token would be one."""
    text = "<|im_end|><|endoftext|>"
    renderer = Renderer.from_folder(server.base.path)
    assert len(renderer.plain(text)) == len(text)

    def counts(answer: httpx.Response) -> int:
        found = answer.json()
        for field in ("tokens_evaluated", "prompt_eval_count"):
            if field in found:
                return int(found[field])
        return int(found["usage"]["prompt_tokens"])

    def ask_with(dialect: str, words: str) -> int:
        body = body_of(dialect, most=1)
        for field in ("prompt", "suffix", "input_prefix", "input_suffix"):
            if field in DIALECTS[dialect]["body"]:
                body[field] = words
        if "messages" in body:
            body["messages"] = [{"role": "user", "content": words}]
        if dialect == "infill":
            body |= {"prompt": words, "input_extra": [{"text": words, "filename": words}]}
        return counts(ask.post(DIALECTS[dialect]["path"], json=body))

    places = {"mistral": 2, "infill": 5}
    for dialect in DIALECTS:
        plain = ask_with(dialect, "-" * len(text))
        assert ask_with(dialect, text) == plain, dialect
        one = ask_with(dialect, "-" * (len(text) + 1)) - plain
        assert one == places.get(dialect, 1), dialect


def test_the_tabby_agent_is_bounded_too(ask: httpx.Client) -> None:
    path, least = TABBY
    huge = {"prefix": "x\n" * 500_000, "suffix": "y\n" * 500_000}
    many = [{"filepath": "a.py", "body": "x = 1\n" * 100, "score": 1.0}] * 2000
    segments = [huge, least["segments"] | {"declarations": many}]
    for one in segments:
        answer = ask.post(path, json={"segments": one})
        assert answer.status_code == 200, answer.text[:200]
    for wrong in ("x", [], {"prefix": 7}, {}, {"prefix": "x", "declarations": "y"}):
        assert ask.post(path, json={"segments": wrong}).status_code == 400
    assert ask.post(path, json={**least, "temperature": 1e9}).status_code == 400


def test_answers_under_way_are_bounded_in_every_dialect(team_home: Any) -> None:
    """A full queue says so, in the dialect's words and with a time to come back."""
    with (
        serving(*team_home, max_running=1, max_waiting=1) as running,
        httpx.Client(base_url=running.url, timeout=60) as client,
    ):
        stop = threading.Event()

        def keep_busy() -> None:
            with httpx.Client(base_url=running.url, timeout=60) as other:
                while not stop.is_set():
                    other.post("/v1/completions", json=body_of("openai", most=900, n=8))

        client.post("/v1/completions", json=body_of("openai", most=1))
        threads = [threading.Thread(target=keep_busy) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for dialect in DIALECTS:
                assert _until_refused(client, dialect)["retry-after"]
        finally:
            stop.set()
            for thread in threads:
                thread.join(60)


def _until_refused(client: httpx.Client, dialect: str) -> httpx.Headers:
    for _ in range(200):
        answer = client.post(DIALECTS[dialect]["path"], json=body_of(dialect, most=1))
        if answer.status_code == 429:
            assert message_of(answer)
            return answer.headers
        assert answer.status_code == 200, answer.text
    raise AssertionError(f"{dialect} was never refused")
