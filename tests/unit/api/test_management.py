"""Sources and tunings over HTTP: what is created, listed, refused, and seen by whom."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.api.management import Office, archive, repository


def test_sources_are_named_listed_and_forgotten(team: Office, tmp_path: Path) -> None:
    url = {"location": "https://git.example.com/team/shop.git"}
    made = team("ada", "POST /api/v1/sources/", 201, json=url).json()
    assert (made["kind"], made["name"]) == ("git", "shop")
    again = team("ada", "POST /api/v1/sources", 201, json=url).json()
    assert again["id"] == made["id"]
    sent = team(
        "ada", "POST /api/v1/sources/upload", 201, files={"file": ("../../shop.zip", archive())}
    ).json()
    assert (sent["kind"], sent["location"], sent["name"]) == ("upload", None, "shop")
    assert (tmp_path / "home/uploads" / sent["id"] / "shop.zip").read_bytes() == archive()
    listed = team("ada", "GET /api/v1/sources/?limit=1&offset=1", 200).json()
    assert (listed["total"], [row["id"] for row in listed["items"]]) == (2, [made["id"]])
    kinds = team("ada", "GET /api/v1/sources?kind=upload", 200).json()
    assert [row["id"] for row in kinds["items"]] == [sent["id"]]
    for other in ("bob", "eve", "vic"):
        assert team(other, "GET /api/v1/sources", 200).json()["total"] == 0
        team(other, f"GET /api/v1/sources/{sent['id']}", 404)
    team("eve", f"DELETE /api/v1/sources/{sent['id']}", 404)
    team("ada", f"DELETE /api/v1/sources/{sent['id']}", 204)
    assert not (tmp_path / "home/uploads" / sent["id"]).exists()
    team("ada", f"GET /api/v1/sources/{sent['id']}", 404)


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("/etc", "paths of the server"),
        ("file:///etc", "paths of the server"),
        ("../..", "paths of the server"),
        ("ext::sh -c id", "run a program"),
        ("https://ada:secret@git.example.com/a/b", "password"),
        ("https://ghp_token@git.example.com/a/b", "password"),
        ("-oProxyCommand=id", "paths of the server"),
        ("~nosuchuser/x", "cannot be used"),
    ],
)
def test_sources_that_are_not_the_users_to_read(team: Office, location: str, said: str) -> None:
    answer = team("ada", "POST /api/v1/sources", json={"location": location})
    assert answer.status_code in (400, 422), answer.text
    assert said in answer.json()["error"]["message"]
    assert "secret" not in answer.text and "ghp_" not in answer.text
    assert team("ada", "GET /api/v1/sources", 200).json()["total"] == 0


def test_paths_are_for_ones_own_machine_and_below_allowed_folders(
    team: Office, alone: Office, tmp_path: Path
) -> None:
    allowed = repository(tmp_path / "allowed/shop")
    (tmp_path / "allowed/link").symlink_to("/etc")
    team("ada", "POST /api/v1/sources", 201, json={"location": str(allowed)})
    team("ada", "POST /api/v1/sources", 422, json={"location": str(tmp_path / "allowed/link")})
    long = str(tmp_path / "allowed" / ("x" * 300))
    team("ada", "POST /api/v1/sources", 422, json={"location": long})
    team("ada", "POST /api/v1/sources", 201, json={"location": f"git@example.com:{'x' * 300}"})
    other = repository(tmp_path / "elsewhere")
    for name in ("ada", "root1"):
        team(name, "POST /api/v1/sources", 422, json={"location": str(other)})
    made = alone(None, "POST /api/v1/sources", 201, json={"location": str(other)}).json()
    assert (made["kind"], made["location"]) == ("git", str(other))
    alone(None, "POST /api/v1/sources", 422, json={"location": str(other / "nothing")})


def test_a_tuning_is_queued_followed_cancelled_and_tried_again(team: Office) -> None:
    source = team(
        "ada", "POST /api/v1/sources/upload", 201, files={"file": ("shop.zip", archive())}
    ).json()
    order = {"source_id": source["id"], "config": {"training": {"max_steps": 2}}}
    made = team("ada", "POST /api/v1/tuning/", 202, json=order).json()
    assert (made["state"], made["kind"], made["owner"]) == ("queued", "tune", "ada")
    assert made["source"] == f"uploads/{source['id']}/shop.zip"
    assert made["config"] == {"training": {"max_steps": 2}, "name": "ada/shop"}
    path = f"/api/v1/tuning/{made['id']}"
    assert team("ada", f"GET {path}", 200).json() == made
    assert team("ada", f"GET {path}/progress", 200).json()["state"] == "queued"
    team("ada", f"DELETE /api/v1/sources/{source['id']}", 409)
    for other in ("bob", "eve"):
        for route in (f"GET {path}", f"GET {path}/progress", f"GET {path}/events"):
            team(other, route, 404)
        for verb in ("cancel", "retry"):
            team(other, f"POST {path}/{verb}", 404)
        assert team(other, "GET /api/v1/tuning", 200).json()["total"] == 0
        team(other, "POST /api/v1/tuning", 404, json=order)
    assert team("root1", f"GET {path}", 200).json()["owner"] == "ada"
    team("ada", f"POST {path}/retry", 409)
    assert team("ada", f"POST {path}/cancel", 202).json()["state"] == "cancelled"
    events = team("ada", f"GET {path}/events", 200)
    assert events.headers["content-type"].startswith("text/event-stream")
    lines = events.text.split("\n\n")
    assert [line.split("\n")[1] for line in lines[:2]] == ["event: state"] * 2
    first = lines[0].split("\n")[0].removeprefix("id: ")
    rest = team("ada", f"GET {path}/events", 200, headers={"Last-Event-ID": first}).text
    assert rest == lines[1] + "\n\n"
    team("ada", f"GET {path}/events", 422, headers={"Last-Event-ID": "x"})
    assert team("ada", f"POST {path}/retry", 202).json()["state"] == "queued"
    assert team("ada", "GET /api/v1/tuning?state=queued", 200).json()["total"] == 1
    assert team("ada", "GET /api/v1/tuning?state=failed", 200).json()["total"] == 0


def test_options_and_fields_that_do_not_exist_are_refused(team: Office) -> None:
    url = "https://git.example.com/team/shop"
    teacher = {"instructions": {"teacher": {"url": "http://localhost/\ud800"}}}
    for body, status, said in (
        ({"source": url, "config": {"trainin": {}}}, 422, "trainin"),
        ({"source": url, "config": {"training": {"epochs": -1}}}, 422, "training.epochs"),
        ({"source": url, "sauce": 1}, 422, "sauce"),
        ({}, 422, "source_id"),
        ({"source": url, "source_id": "src_x"}, 422, "source_id"),
        ({"source_id": "src_x"}, 404, "src_x"),
        ({"source": url, "datasets": [{"id": "dst_x"}]}, 404, "dst_x"),
        ({"source": url, "priority": 5}, 403, "role"),
        ({"source": url, "name": "my model!"}, 422, "name"),
        ({"source": url, "config": {"name": "\ud800"}}, 422, "name"),
        ({"source": url, "config": {"dataset": teacher}}, 422, "\\ud800"),
        ({"source": "https://me:secret@git.example.com/a/b"}, 422, "password"),
        ({"source": "~nosuchuser/x"}, 422, "nosuchuser"),
        ({"source": url, "base": "x" * 300}, 422, "base"),
    ):
        sent = {"content": json.dumps(body), "headers": {"Content-Type": "application/json"}}
        answer = team("ada", "POST /api/v1/tuning", status, **sent)
        assert said in answer.json()["error"]["message"], answer.text
    assert team("ada", "GET /api/v1/tuning", 200).json()["total"] == 0


def test_no_weight_is_without_end(team: Office) -> None:
    url = "https://git.example.com/team/shop"
    text = {"Content-Type": "application/json"}
    for body in (
        f'{{"source": "{url}", "datasets": [{{"id": "dst_x", "weight": 1e999}}]}}',
        f'{{"source": "{url}", "config": {{"dataset": {{"span_mix": {{"line": 1e999}}}}}}}}',
    ):
        answer = team("ada", "POST /api/v1/tuning", 422, content=body, headers=text)
        assert "finite" in answer.json()["error"]["message"]


def test_a_request_sent_twice_under_one_key_is_done_once(team: Office) -> None:
    body = {"source": "https://git.example.com/team/shop"}
    key = {"Idempotency-Key": "k1"}
    first = team("ada", "POST /api/v1/tuning", 202, json=body, headers=key)
    second = team("ada", "POST /api/v1/tuning", 202, json=body, headers=key)
    assert second.json() == first.json()
    assert second.headers["idempotency-replayed"] == "true"
    team("ada", "POST /api/v1/tuning", 409, json=body | {"priority": -1}, headers=key)
    team("bob", "POST /api/v1/tuning", 202, json=body, headers=key)
    bad = {"Idempotency-Key": "k2"}
    team("ada", "POST /api/v1/tuning", 404, json={"source_id": "src_x"}, headers=bad)
    team("ada", "POST /api/v1/tuning", 202, json=body, headers=bad)
    assert team("ada", "GET /api/v1/tuning", 200).json()["total"] == 2


def test_every_path_that_queues_a_job_takes_a_key(alone: Office) -> None:
    key = {"Idempotency-Key": "k1"}
    source = {"source": "https://git.example.com/team/shop"}
    sent = {"files": {"file": ("notes.md", b"All about A.")}}
    asked: tuple[tuple[str, int, dict[str, Any]], ...] = (
        ("/documents", 201, sent),
        ("/fine-tuning/setup", 202, {}),
        ("/ingest", 202, {"json": source}),
        ("/fine-tune/generate-data", 202, {}),
        ("/fine-tune/start", 202, {}),
    )
    for number, (path, status, body) in enumerate(asked):
        key = {"Idempotency-Key": f"k{number}"}
        first, second = (alone(None, f"POST {path}", status, headers=key, **body) for _ in range(2))
        assert second.json() == first.json(), path
        assert second.headers["idempotency-replayed"] == "true"
    assert alone(None, "GET /api/v1/jobs", 200).json()["total"] == 4
    alone(None, "POST /fine-tune/start", 409, headers=key, json=source)


def test_the_document_names_every_route_and_status(team: Office) -> None:
    document = team("ada", "GET /openapi.json", 200).json()
    for path, methods in document["paths"].items():
        if path.startswith("/api/v1/tuning") or path.startswith("/api/v1/sources"):
            for operation in methods.values():
                assert {"401", "403", "404"} <= set(operation["responses"])


def test_a_completion_as_the_completion_server_documents_it(alone: Office) -> None:
    body = {
        "file_path": "a.py",
        "prior_context": "def add(a, b):\n    return ",
        "proceeding_context": "\n",
        "max_decode_length": 4,
    }
    answer = alone(None, "POST /generate", 200, json=body).json()
    assert set(answer) == {"generated_text", "score"} and answer["score"] <= 0
    del body["file_path"], body["proceeding_context"]
    assert alone(None, "POST /generate", 200, json=body).json()["score"] <= 0


def test_a_project_is_tuned_on(alone: Office, tmp_path: Path) -> None:
    body = {"project_dict": {"shop/a.py": "A = 1\n"}, "documents": ["All about A."]}
    made = alone(None, "POST /finetune/project", 202, json=body).json()
    folder = tmp_path / "home/uploads" / made["source_id"]
    assert (folder / "shop/a.py").read_text() == "A = 1\n"
    assert (folder / "documents/0001.md").read_text() == "All about A."
    assert alone(None, f"GET {made['status_endpoint']}", 200).json()["state"] == "queued"
    for path in ("../x.py", "/etc/x.py", "a/../../x.py", "", "a\0.py", "a" * 300, "a/" * 5000):
        alone(None, "POST /finetune/project", 422, json={"project_dict": {path: "x"}})
    for path in (".git", ".git/HEAD", "vendored/.git/config", "a/../.GIT/HEAD"):
        refused = alone(None, "POST /finetune/project", 422, json={"project_dict": {path: "x"}})
        assert "git's own" in refused.json()["error"]["message"]
    alone(None, "POST /finetune/project", 422, json={})
    alone(None, "POST /finetune/project", 422, json={"libraries": ["numpy"]})
    assert len(list((tmp_path / "home/uploads").iterdir())) == 1


def test_a_project_is_a_repository_or_what_is_sent(alone: Office) -> None:
    urls = {"urls": ["https://git.example.com/team/shop"]}
    for field, value in (
        ("project_dict", {"a.py": "A = 1\n"}),
        ("documents", ["x"]),
        ("libraries", ["x"]),
    ):
        answer = alone(None, "POST /finetune/project", 422, json={**urls, field: value})
        assert answer.json()["error"]["param"] == field
    alone(None, "POST /finetune/project", 202, json=urls)


def test_a_project_that_finds_no_place_is_not_kept(alone: Office, tmp_path: Path) -> None:
    body = {"project_dict": {"a.py": "A = 1\n"}}
    most = alone.workspace.jobs.options.max_queued
    for _ in range(most):
        alone(None, "POST /finetune/project", 202, json=body)
    alone(None, "POST /finetune/project", 429, json=body)
    assert alone(None, "GET /api/v1/sources", 200).json()["total"] == most
    assert len(list((tmp_path / "home/uploads").iterdir())) == most


def test_jobs_of_every_kind_are_found_and_cancelled(team: Office) -> None:
    body = {"source": "https://git.example.com/team/shop"}
    routes = ("ingest", "datasets/build", "evaluations", "tuning")
    made = [team("ada", f"POST /api/v1/{route}", 202, json=body).json() for route in routes]
    assert [job["kind"] for job in made] == ["ingest", "dataset", "evaluate", "tune"]
    listed = team("ada", "GET /api/v1/jobs?kind=dataset", 200).json()
    assert [job["id"] for job in listed["items"]] == [made[1]["id"]]
    team("ada", "GET /api/v1/jobs?kind=bake", 422)
    team("ada", f"GET /api/v1/tuning/{made[0]['id']}", 404)
    for job in made:
        team("bob", f"POST /api/v1/jobs/{job['id']}/cancel", 404)
        team("vic", f"POST /api/v1/jobs/{job['id']}/cancel", 403)
        done = team("ada", f"POST /api/v1/jobs/{job['id']}/cancel", 202).json()
        assert done["state"] == "cancelled"
        assert "cancelled" in team("ada", f"GET /api/v1/jobs/{job['id']}/events", 200).text
        assert team("ada", f"GET /api/v1/jobs/{job['id']}/log", 200).text == ""
    assert team("bob", "GET /api/v1/jobs", 200).json()["total"] == 0
    assert team("root1", "GET /api/v1/jobs?state=cancelled", 200).json()["total"] == 4


def test_null_characters_are_the_senders_fault(team: Office) -> None:
    body = {"location": "https://git.example.com/a/b", "name": "a\0b"}
    assert team("ada", "POST /api/v1/sources", json=body).status_code in (201, 422)
    for route in (
        "GET /api/v1/sources/%00",
        "GET /api/v1/jobs/a%00b",
        "GET /api/v1/sources?kind=%00",
    ):
        assert team("ada", route).status_code in (200, 422, 404)
