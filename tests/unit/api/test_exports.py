"""Models brought out over HTTP: who may, what the job does, and that tokens stay where they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from codetune.accounts.users import actor_of, get_user
from codetune.errors import ConfigError, ExportError
from codetune.export.hub import check_endpoint
from codetune.export.reading import read_model
from codetune.jobs.config import JobOptions
from codetune.jobs.worker import Worker
from codetune.models.load import resolve_base
from codetune.registry.ownership import claim, share_model
from codetune.store.teams import Team
from tests.accounts import People
from tests.unit.api.management import Office
from tests.unit.export.servers import Hub, Ollama
from tests.unit.serving.tiny_models import make_adapter, register

EXPORT, PUSH = "POST /api/v1/exports", "POST /api/v1/models/push"
CREATE, TOKEN = "POST /api/v1/ollama/create", "PUT /api/v1/settings/hub.token"
SECRET = "hf_right"


@pytest.fixture
def office(
    people: People, tmp_path: Path, small_base: Path, hub: Hub, ollama: Ollama
) -> Iterator[Office]:
    """ada/shop, shared with her team; a hub that the administrator allows, and an Ollama."""
    home, nano = tmp_path / "home", resolve_base("nano")
    register(home, "ada/shop", nano, make_adapter(nano, tmp_path / "made", lora_alpha=1))
    with people.logins.database.write() as session:
        row = claim(session, actor_of(session, get_user(session, "ada")), "ada/shop")
        share_model(row, "team", session.get(Team, people.team_id))
    engines = [{"name": "box", "kind": "ollama", "url": ollama.url}]
    made = Office(people, home, small_base, login=True, engines=engines)
    made.workspace.jobs.options = JobOptions(hubs=(hub.url,))
    yield made
    made.engine.close()


def worked(office: Office) -> None:
    """Everything that waits is done, in child processes as on a server."""
    database = office.people.logins.database
    Worker(database, office.home, office.workspace.jobs.options).run(once=True)


def test_who_may_bring_a_model_out(office: Office, hub: Hub) -> None:
    """Its owner; with whom it is shared may use it, and take nothing of it away."""
    push = {"model": "ada/shop", "repo_id": "team/shop", "endpoint": hub.url}
    office("ada", TOKEN, 200, json={"value": SECRET})
    office("eve", TOKEN, 200, json={"value": SECRET})
    office("bob", TOKEN, 200, json={"value": SECRET})
    for route, body in ((EXPORT, {"model": "ada/shop"}), (PUSH, push)):
        office(None, route, 401, json=body)
        office("vic", route, 403, json=body)
        office("eve", route, 404, json=body)
        office("bob", route, 403, json=body)
        for model in ("../shop", "ada/../ada/shop", "/etc/passwd", "nano", "ada/shop:2", "mdl_x"):
            office("ada", route, 404, json=body | {"model": model})
    office("bob", CREATE, 403, json={"model": "ada/shop"})
    office("ada", CREATE, 403, json={"model": "ada/shop"})
    once = {"Idempotency-Key": "k"}
    made = [
        office("ada", EXPORT, 202, json={"model": "shop"}, headers=once).json() for _ in range(2)
    ]
    assert made[0]["id"] == made[1]["id"]
    assert (made[0]["kind"], made[0]["source"]) == ("export", "ada/shop:1")
    path = f"/api/v1/exports/{made[0]['id']}"
    for other in ("bob", "eve", "vic"):
        office(other, f"GET {path}", 404)
        office(other, f"GET {path}/files/model.safetensors", 404)
    office("ada", f"GET {path}/files/model.safetensors", 409)
    assert office("ada", "GET /api/v1/exports?state=queued", 200).json()["total"] == 1
    office("ada", f"POST {path}/cancel", 202)
    acts = office("root1", "GET /api/v1/audit", 200).json()
    assert ("model.export", "ada/shop:1") in {(act["action"], act["subject"]) for act in acts}


def test_what_cannot_be_asked_for(office: Office, hub: Hub) -> None:
    push: dict[str, Any] = {"model": "shop", "repo_id": "team/shop", "endpoint": hub.url}
    said = office("ada", PUSH, 409, json=push).json()["error"]["message"]
    assert "no token" in said
    office("ada", TOKEN, 200, json={"value": SECRET})
    for change in (
        {"endpoint": "http://169.254.169.254"},
        {"endpoint": "https://elsewhere.example.com"},
        {"endpoint": f"{hub.url}/x"},
        {"repo_id": "../../etc"},
        {"repo_id": "a/b/c"},
    ):
        office("ada", PUSH, 422, json=push | change)
    office("ada", EXPORT, 422, json={"model": "shop", "quantize": "q8_0"})
    office("ada", EXPORT, 422, json={"model": "shop", "format": "gguf", "dtype": "float32"})
    office("ada", EXPORT, 422, json={"model": "shop", "format": "exe"})
    office("root1", CREATE, 422, json={"model": "ada/shop", "name": "../x"})
    office("root1", CREATE, 404, json={"model": "ada/shop", "engine": "none"})
    office("root1", CREATE, 422, json={"name": "x"})
    office("root1", CREATE, 422, json={"name": "x", "model": "ada/shop", "path": "/x"})
    answer = office("root1", CREATE, 422, json={"name": "x", "path": "/etc/passwd"})
    assert "paths of the server" in answer.json()["error"]["message"]


def test_addresses_and_paths_that_cannot_be_are_refused(tmp_path: Path) -> None:
    for url in ("https://[x", "https://hub.example.com:x"):
        with pytest.raises(ConfigError, match="address of a hub"):
            check_endpoint(url)
    (tmp_path / "Modelfile").write_text("FROM ~nosuchuser/x.gguf\n")
    with pytest.raises(ExportError, match="cannot be read"):
        read_model(tmp_path / "Modelfile")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_jobs_bring_it_out(office: Office, hub: Hub, ollama: Ollama) -> None:
    """Files to fetch, a repository, and a model of Ollama; the token is in none of the traces."""
    pytest.importorskip("gguf", reason="GGUF is written with the extra 'gguf'")
    office("ada", TOKEN, 200, json={"value": SECRET})
    export = office("ada", EXPORT, 202, json={"model": "shop"}).json()["id"]
    body = {"model": "shop", "repo_id": "team/shop", "endpoint": hub.url}
    push = office("ada", PUSH, 202, json=body).json()["id"]
    body = {"model": "ada/shop", "name": "shop:q8", "quantize": "q8_0"}
    load = office("root1", CREATE, 202, json=body).json()["id"]
    worked(office)
    found = {job: office("root1", f"GET /api/v1/jobs/{job}", 200).json() for job in (
        export, push, load
    )}  # fmt: skip
    for job in found.values():
        assert job["state"] == "succeeded", job["error"]
        assert job["result"]["parity"]["written"][0]["divergence"] < 0.01
        assert "artifact" not in job["result"]
    path = f"/api/v1/exports/{export}/files"
    for name, size in found[export]["result"]["files"].items():
        assert len(office("ada", f"GET {path}/{name}", 200).content) == size
    part = office("ada", f"GET {path}/model.safetensors", 206, headers={"Range": "bytes=0-7"})
    assert len(part.content) == 8
    for name in ("none", "..%2fmanifest.json", "%2e%2e", "..%2F..%2Flog"):
        office("ada", f"GET {path}/{name}", 404)
    office("bob", f"GET {path}/model.safetensors", 404)
    assert hub.visibility == {"team/shop": "private"}
    assert hub.files["team/shop"].keys() == found[export]["result"]["files"].keys()
    assert found[push]["result"]["commit"].startswith(f"{hub.url}/team/shop/commit/")
    assert list(ollama.models) == ["shop:q8"]
    # What was only on its way is not kept; and nobody reads the token anywhere.
    jobs = office.home / "jobs"
    assert (jobs / export / "export").is_dir()
    assert not (jobs / push / "export").exists()
    traces = [file.read_bytes() for file in jobs.rglob("*") if file.is_file()]
    assert not any(SECRET.encode() in trace for trace in traces)
    assert SECRET not in json.dumps(found)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_second_attempt_does_not_export_again(
    office: Office, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What failed on the way to the hub goes on there; and without a login nobody's is used."""
    monkeypatch.setenv("HF_TOKEN", SECRET)  # the server's own, which is not ada's to use
    office("ada", TOKEN, 200, json={"value": SECRET})
    body = {"model": "shop", "repo_id": "team/shop", "endpoint": hub.url}
    job = office("ada", PUSH, 202, json=body).json()["id"]
    office("ada", "DELETE /api/v1/settings/hub.token", 204)
    worked(office)
    failed = office("ada", f"GET /api/v1/jobs/{job}", 200).json()
    assert (failed["state"], "hub.token" in failed["error"]["advice"]) == ("failed", True)
    assert "no token" in failed["error"]["message"]
    made = office.home / "jobs" / job / "export" / "model.safetensors"
    made.with_name("README.md").write_text("as the first attempt has left it")
    office("ada", TOKEN, 200, json={"value": SECRET})
    office("ada", f"POST /api/v1/jobs/{job}/retry", 202)
    worked(office)
    assert office("ada", f"GET /api/v1/jobs/{job}", 200).json()["state"] == "succeeded"
    assert hub.files["team/shop"]["README.md"] == b"as the first attempt has left it"
