"""One line a request: enough to follow it, and nothing that anybody said."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from codetune.api.logs import Format, logging_to
from codetune.tracing import REQUEST_ID, request_id
from tests.accounts import PASSWORD, People
from tests.unit.api.served import Served, until

SECRET = "correct_horse_battery_staple"


@pytest.fixture
def served(people: People, tmp_path: Path, small_base: Path) -> Iterator[Served]:
    served = Served(people, tmp_path / "home", small_base)
    yield served
    served.engine.close()


def test_a_request_can_be_followed_by_its_id(served: Served) -> None:
    """From the client's header to the answer, the log, the audit and the job's events."""
    with served.running():
        order = {"source": f"https://git.example.com/a/{SECRET}"}
        headers = {"X-Request-ID": "Build-7.of_ada"}
        answer = served.ask("ada", "POST /api/v1/tuning", json=order, headers=headers)
        assert answer.headers["x-request-id"] == "Build-7.of_ada"
        path = f"/api/v1/jobs/{answer.json()['id']}/events"
        with served.client.stream("GET", path, headers=served.people.headers("ada")) as events:
            told = next(line for line in events.iter_lines() if line.startswith("data:"))
        body = {"username": "ada", "password": "wrong " + SECRET}
        failed = served.client.post("/token", data=body, headers={"X-Request-ID": "login-1"})
        audit = served.ask("root1", "GET /api/v1/audit?action=login.failed").json()
        line = served.line("Build-7.of_ada")
    assert failed.status_code == 401
    (entry,) = audit
    assert entry["request_id"] == "login-1"
    assert json.loads(told[5:])["request_id"] == "Build-7.of_ada"
    assert line | {"time": "", "ms": 0} == {
        "time": "",
        "level": "info",
        "logger": "codetune.requests",
        "message": "POST /api/v1/tuning 202",
        "request_id": "Build-7.of_ada",
        "user": served.people.ids["ada"],
        "method": "POST",
        "route": "/api/v1/tuning",
        "status": 202,
        "outcome": "ok",
        "ms": 0,
    }
    assert SECRET not in served.log.getvalue()


@pytest.mark.parametrize(
    "given", [None, "", "a b", "x" * 41, "-x", 'a"b', "a\u00e9", "a/b", "a;b", "\x1b[31m"]
)
def test_other_ids_are_made_anew(given: str | None) -> None:
    made = request_id(given)
    assert made != given
    assert made.startswith("req-")
    assert len(made) == 20
    assert request_id("x" * 40) == "x" * 40


def test_neither_prompts_nor_secrets_nor_names_are_in_the_log(served: Served) -> None:
    """Whatever happens: answered, refused, failed, and said by exceptions."""
    token = served.people.tokens["ada"]
    with served.running(lambda: served.completer.load(None)) as server:

        @server.config.app.get("/broken")  # type: ignore[union-attr]
        def broken() -> None:
            with served.database.session() as session:
                session.execute(text("SELECT :told FROM nowhere"), {"told": SECRET})

        @server.config.app.get("/broken-by-ourselves")  # type: ignore[union-attr]
        def broken_by_ourselves() -> None:
            raise ZeroDivisionError

        until(lambda: served.client.get("/ready").status_code == 200)
        prompt = {"prompt": SECRET, "max_tokens": 3, "user": SECRET, "stop": [SECRET]}
        served.ask("ada", "POST /v1/completions", json=prompt)
        served.ask("ada", "POST /v1/completions", json=prompt | {"max_tokens": -1})
        served.ask("ada", "POST /v1/completions", json={"model": SECRET, "prompt": SECRET})
        served.ask("ada", "POST /v1/completions", content=b'{"prompt": "' + SECRET.encode())
        served.ask("ada", f"GET /{SECRET}?{SECRET}", headers={"User-Agent": SECRET})
        served.ask(None, "GET /v1/models", headers={"Authorization": f"Bearer ct_{SECRET}"})
        served.ask("root1", "GET /broken")
        own = served.ask("root1", "GET /broken-by-ourselves", headers={"X-Request-ID": "own"})
        served.client.post("/token", data={"username": "ada", "password": PASSWORD})
        served.ask("ada", "PUT /api/v1/settings/webhook_secret", json={"value": SECRET})
    log = served.log.getvalue()
    for word in (SECRET, token, token[:12], PASSWORD, "Bearer", '"ada"', str(served.home)):
        assert word not in log, word
    assert own.status_code == 500
    lines = [line for line in served.lines() if line["request_id"] == "own"]
    assert {line["logger"] for line in lines} == {"codetune.api", "codetune.requests"}
    assert any("ZeroDivisionError" in line.get("exception", "") for line in lines)
    assert lines[-1]["error"] == "internal_error"
    assert lines[-1]["outcome"] == "failed"


def test_a_statement_that_fails_does_not_say_its_values(served: Served) -> None:
    with pytest.raises(SQLAlchemyError) as caught, served.database.engine.connect() as connection:
        connection.execute(text("SELECT :told FROM nowhere"), {"told": SECRET})
    assert SECRET not in str(caught.value)


def test_an_answer_that_breaks_off_is_a_failure(served: Served) -> None:
    """The stream has said 200; the log says how it ended."""
    body = {"prompt": "x", "max_tokens": 4000, "stream": True, "temperature": 0}
    headers = {**served.people.headers("ada"), "X-Request-ID": "cut"}
    with served.running(lambda: served.completer.load(None)):
        until(lambda: served.client.get("/ready").status_code == 200)
        with served.client.stream("POST", "/v1/completions", json=body, headers=headers) as answer:
            lines = answer.iter_lines()
            next(lines)
            served.engine.close()
            assert any("shutting down" in line for line in lines)
        line = served.line("cut")
    assert (line["status"], line["outcome"], line["error"]) == (200, "failed", "unavailable")
    assert line["tokens"] > 0


@pytest.mark.parametrize("form", ["text", "json"])
def test_nobody_writes_lines_of_their_own(form: Format) -> None:
    stream = io.StringIO()
    token = REQUEST_ID.set("req-1")
    try:
        with logging_to(stream, form):
            log = logging.getLogger("codetune.api")
            log.warning("'%s' cannot be served", "x\n2026-01-01 forged\x1b[2J\u2028\r")
            log.info("too small to be told")
            try:
                raise ValueError("said")
            except ValueError:
                log.exception("It failed", extra={"fields": {"a": 1}})
        logging.getLogger("codetune.api").warning("after the block")
    finally:
        REQUEST_ID.reset(token)
    first, second, *rest = stream.getvalue().splitlines()
    assert "forged" in first
    if form == "json":
        assert rest == []
        assert json.loads(first)["request_id"] == "req-1"
        found = json.loads(second)
        assert (found["level"], found["a"]) == ("error", 1)
        assert "ValueError: said" in found["exception"]
    else:
        assert second.endswith("ERROR It failed a=1")
        assert rest[-1] == "ValueError: said"


def test_a_server_that_is_not_asked_well_says_so_once(served: Served) -> None:
    """What the layers below refuse has its line, too."""
    with served.running():
        hosts = httpx.get(f"{served.url}/health", headers={"Host": "evil", "X-Request-ID": "h"})
        large = {"content": b"x" * 8_000_001, "headers": {"X-Request-ID": "l"}}
        too_large = served.ask("ada", "POST /v1/completions", **large).status_code
        codes = [served.line(name)["error"] for name in ("h", "l")]
        assert len([x for x in served.lines() if x["request_id"] == "h"]) == 1
    assert (hosts.status_code, too_large) == (403, 413)
    assert codes == ["host_not_allowed", "body_too_large"]
