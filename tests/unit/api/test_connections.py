"""Real sockets on which nothing comes, or nobody reads, and what the log says of them."""

from __future__ import annotations

import asyncio
import errno
import io
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from fastapi import FastAPI, Request

from codetune.api.connections import Complaints, Connection
from codetune.api.logs import logging_to
from codetune.api.server import Server, listen
from codetune.api.stream import EventStream
from tests.accounts import People
from tests.unit.api.served import Served, until

PATIENCE = 0.4
HEAD = b"POST /length HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n"


def made() -> FastAPI:
    """An application that reads, refuses unread, is silent, or writes without end."""
    app = FastAPI()
    app.state.readiness = SimpleNamespace(draining=False)

    @app.post("/length")
    async def length(request: Request) -> int:
        return len(await request.body())

    @app.post("/refused")
    async def refused() -> str:
        return "no"

    @app.get("/late")
    async def late() -> EventStream:
        async def events() -> AsyncIterator[bytes]:
            yield b"early "
            await asyncio.sleep(3 * PATIENCE)
            yield b"late"

        return EventStream(events())

    @app.get("/flood")
    async def flood() -> EventStream:
        async def events() -> AsyncIterator[bytes]:
            while True:
                yield b"x" * 100_000
                await asyncio.sleep(0)

        return EventStream(events())

    return app


@contextmanager
def served_by(log: io.StringIO) -> Iterator[int]:
    """The port of a server; the block ends when it has."""
    engine = cast(Any, SimpleNamespace(close=lambda drain: None))
    with listen("127.0.0.1", 0) as listener, logging_to(log, "text"):
        server = Server(made(), engine)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


@pytest.fixture
def log() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def port(log: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(Connection, "patience", PATIENCE)
    with served_by(log) as port:
        yield port


def told(port: int, *parts: bytes, pause: float = 0.0) -> bytes:
    """All that is answered to `parts` until the server closes; some seconds at most."""
    with socket.create_connection(("127.0.0.1", port), timeout=4) as line:
        for part in parts:
            line.sendall(part)
            time.sleep(pause)
        return b"".join(iter(lambda: line.recv(65536), b""))


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([], b""),
        ([b"POST /length HT"], b""),
        ([HEAD + b"\r\n", b"ab"], b"HTTP/1.1 408 Request Timeout"),
        ([HEAD.replace(b"length", b"refused") + b"\r\n", b"a"], b"HTTP/1.1 200 OK"),
        ([HEAD + b"\r\nabcd", HEAD], b"HTTP/1.1 200 OK"),
    ],
    ids=["nothing", "half a head", "half a body", "half a body unread", "half a second head"],
)
def test_who_says_no_more_is_left(port: int, parts: list[bytes], said: bytes) -> None:
    answer = told(port, *parts, pause=0.05)
    assert answer.startswith(said) and bool(answer) == bool(said)


def test_a_head_has_to_be_whole_in_time(port: int) -> None:
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        told(port, *[b"X"] * 20, pause=PATIENCE / 4)


def test_whoever_is_slow_but_not_silent_is_served(port: int) -> None:
    body = [bytes([letter]) for letter in b"abcd"]
    close = HEAD + b"Connection: close\r\n\r\n"
    assert told(port, close, *body, pause=PATIENCE / 2).endswith(b"\r\n\r\n4")
    assert httpx.get(f"http://127.0.0.1:{port}/late").text == "early late"


def test_a_reader_that_stalls_is_cut_off_without_a_word(
    port: int, log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("codetune.api.stream._SLOWEST_READER", 0.2)
    with socket.create_connection(("127.0.0.1", port), timeout=4) as line:
        line.sendall(b"GET /flood HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(1)
        body = b"".join(iter(lambda: line.recv(1 << 20), b""))
    assert body and not body.endswith(b"\r\n0\r\n\r\n")
    assert "without completing" not in log.getvalue()


def test_a_reader_that_stalls_at_the_end_is_cut_off_without_a_word(log: io.StringIO) -> None:
    with served_by(log) as port:
        line = socket.create_connection(("127.0.0.1", port))
        line.sendall(b"GET /flood HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert line.recv(10)
    line.close()
    assert log.getvalue() == ""


def test_that_no_connection_is_left_is_said_once(log: io.StringIO) -> None:
    with logging_to(log, "text"), asyncio.Runner() as runner:
        loop = runner.get_loop()
        loop.set_exception_handler(Complaints())
        for _ in range(3):
            error = OSError(errno.EMFILE, "Too many open files")
            loop.call_exception_handler({"message": "accept", "exception": error})
        assert log.getvalue().count("\n") == 1
        assert "New connections have to wait: Too many open files." in log.getvalue()
        loop.call_exception_handler({"message": "something else", "exception": OSError()})
    assert "something else" in log.getvalue()


def test_as_many_files_may_be_open_as_the_system_allows() -> None:
    program = (
        "import resource; from codetune.api.connections import allow_open_files\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (200, 300)); allow_open_files()\n"
        "print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= 300
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert said.stdout.split() == [b"300", b"300"]


def test_who_follows_a_job_is_let_go_when_the_server_stops(
    people: People, tmp_path: Path, small_base: Path
) -> None:
    served = Served(people, tmp_path / "home", small_base)
    url = {"source": "https://git.example.com/team/shop.git"}
    with served.running(lambda: served.completer.load(None), drain=10) as server:
        until(lambda: served.client.get("/ready").status_code == 200)
        job = served.ask("ada", "POST /api/v1/ingest", json=url).json()
        route, headers = f"/api/v1/jobs/{job['id']}/events", people.headers("ada")
        with served.client.stream("GET", route, headers=headers) as answer:
            lines = answer.iter_lines()
            assert next(lines).startswith("id: ")
            server.should_exit = True
            stopping = time.monotonic()
            list(lines)  # an unfinished body would raise
    assert time.monotonic() - stopping < 5
    assert [line for line in served.lines() if line["level"] != "info"] == []
