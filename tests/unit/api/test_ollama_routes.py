"""Bases that are fetched, and Ollama servers behind this one."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from codetune.errors import ModelError
from codetune.jobs.reports import Reporter
from codetune.jobs.service import public
from codetune.jobs.work import Work, do
from codetune.store.jobs import Job
from tests.unit.api.management import Office
from tests.unit.serving.test_remote import app_with
from tests.unit.serving.tiny_models import base_of

PULL = "POST /api/v1/models/pull"


def test_a_base_is_fetched_as_a_job(team: Office, small_base: Path, tmp_path: Path) -> None:
    team(None, PULL, 401, json={"model": "Qwen/Qwen2.5-Coder-0.5B"})
    team("vic", PULL, 403, json={"model": "Qwen/Qwen2.5-Coder-0.5B"})
    key = {"Idempotency-Key": "k"}
    made = [
        team("ada", PULL, 202, json={field: "Qwen/Qwen2.5-Coder-0.5B"}, headers=key).json()
        for field in ("model", "repo_id", "name")
    ]
    assert len({job["id"] for job in made}) == 1
    assert (made[0]["kind"], made[0]["source"]) == ("pull", "Qwen/Qwen2.5-Coder-0.5B")
    path = f"/api/v1/jobs/{made[0]['id']}"
    for other in ("bob", "eve"):
        team(other, f"GET {path}", 404)
    assert team("ada", "GET /api/v1/jobs?kind=pull", 200).json()["total"] == 1
    # Folders: below the administrator's roots alone.
    allowed = tmp_path / "allowed" / "base"
    allowed.parent.mkdir()
    allowed.symlink_to(small_base)
    for place in (str(small_base), str(allowed), "~", "../x", "/etc"):
        answer = team("ada", PULL, 422, json={"model": place})
        assert "paths of the server" in answer.json()["error"]["message"]
    allowed.unlink()
    allowed.mkdir()
    assert team("ada", PULL, 202, json={"model": str(allowed)}).json()["source"] == str(allowed)
    team("ada", PULL, 422, json={"model": ""})


def test_what_the_job_says_of_the_base(small_base: Path, tmp_path: Path) -> None:
    stream = io.StringIO()
    result = do(Work("pull", str(small_base), {}), Reporter(stream))
    base = base_of(small_base)
    assert (result["digest"], result["architecture"]) == (base.digest, "qwen2")
    told = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [one.get("stage") for one in told if one["report"] == "stage"] == ["fetch"]
    shown = public(Job(kind="pull", state="succeeded", result=result, parameters={"source": "x"}))
    assert "artifact" not in shown["result"]
    with pytest.raises(ModelError):
        do(Work("pull", str(tmp_path), {}), Reporter(io.StringIO()))


def ollama_of_its_own(app: FastAPI) -> None:
    """What Ollama says when it fetches a model, or has none of that name."""

    @app.post("/api/pull")
    async def pull(request: Request) -> Response:
        model = (await request.json())["model"]
        if model == "refused":
            return JSONResponse({"error": "refused"}, 400)

        async def lines() -> Any:
            yield b'{"status":"pulling manifest"}\n'
            if model == "none":
                yield b'{"error":"pull model manifest: file does not exist"}\n'
                return
            await asyncio.sleep(0)
            yield b'{"status":"pulling abc","digest":"sha256:abc","total":9,"completed":9}\n'
            yield b'{"status":"success"}\n'

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    @app.get("/api/version")
    async def version() -> dict[str, str]:
        return {"version": "0.12.0"}

    @app.get("/api/tags")
    async def tags() -> dict[str, Any]:
        return {"models": [{"name": "qwen:1b"}]}


@pytest.fixture
def engines(elsewhere: str) -> Iterator[list[dict[str, Any]]]:
    """Another codetune, an Ollama, and an Ollama that is down."""
    with app_with(ollama_of_its_own) as ollama:
        yield [
            {"name": "there", "kind": "ollama", "url": elsewhere},
            {"name": "box", "kind": "ollama", "url": ollama},
            {"name": "down", "kind": "ollama", "url": "http://127.0.0.1:9", "retries": 0},
        ]


def test_models_here_and_of_the_servers(office: Office) -> None:
    office(None, "GET /api/v1/ollama/models", 401)
    for who, own in (("ada", True), ("bob", False), ("vic", False)):
        found = office(who, "GET /api/v1/ollama/models", 200).json()
        names = {model["name"]: model["engine"] for model in found["models"]}
        assert ("ada/shop:1" in names) == own
        assert names["tiny:latest"] is None
        assert names["remote:there/shop:latest"] == "there"
        assert names["remote:box/qwen:1b"] == "box"
        states = {server["engine"]: server["reachable"] for server in found["servers"]}
        assert states == {"there": True, "box": True, "down": False}


def test_a_conversation_with_any_of_them(office: Office) -> None:
    chat = "POST /api/v1/ollama/chat"
    body = {
        "messages": [{"role": "user", "content": "Hello"}],
        "options": {"temperature": 0, "num_predict": 6},
        "stream": False,
    }
    office(None, chat, 401, json=body | {"model": "tiny"})
    own = office("ada", chat, 200, json=body | {"model": "shop"}).json()
    there = office("bob", chat, 200, json=body | {"model": "remote:there/shop:latest"}).json()
    assert own["message"] == there["message"] and own["eval_count"] == 6
    lines = office("ada", chat, 200, json={**body, "model": "shop", "stream": True}).text
    said = [json.loads(line) for line in lines.splitlines()]
    assert "".join(one["message"]["content"] for one in said) == own["message"]["content"]
    for who in ("bob", "eve"):
        office(who, chat, 404, json=body | {"model": "shop"})
        office(who, chat, 404, json=body | {"model": "ada/shop:1"})
    office("ada", chat, 422, json=body | {"model": 7})
    office("ada", chat, 400, content=b"{")


def test_a_prompt_for_an_engine_elsewhere_is_passed_on(office: Office) -> None:
    generate = "POST /api/generate"
    options = {"temperature": 0, "num_predict": 3}
    body = {"model": "remote:there/shop", "options": options, "stream": False}
    for more in ({"prompt": "x"}, {"prompt": "x", "raw": True}):
        assert office("bob", generate, 200, json={**body, **more}).json()["response"]
    assert office("bob", generate, 200, json=body).json()["done_reason"] == "load"


def test_an_administrator_has_a_server_fetch_a_model(office: Office) -> None:
    pull = "POST /api/v1/ollama/pull"
    office(None, pull, 401, json={"model": "x"})
    office("ada", pull, 403, json={"model": "x", "engine": "box"})
    office("root1", pull, 409, json={"model": "x"})
    office("root1", pull, 404, json={"model": "x", "engine": "boxx"})
    office("root1", pull, 503, json={"model": "x", "engine": "down"})
    office("root1", pull, 404, json={"model": "x", "engine": "there"})  # codetune fetches none
    office("root1", pull, 400, json={"model": "refused", "engine": "box"})
    done = office("root1", pull, 200, json={"name": "qwen:1b", "engine": "box"})
    lines = [json.loads(line) for line in done.text.splitlines()]
    assert lines[1]["completed"] == 9 and lines[-1] == {"status": "success"}
    none = office("root1", pull, 200, json={"model": "none", "engine": "box"}).text
    assert "does not exist" in json.loads(none.splitlines()[-1])["error"]
