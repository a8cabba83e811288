"""Settings over HTTP, and the signed calls of a repository's host."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

import httpx
import pytest

from tests.unit.api.management import Office

SECRET = "a secret of some length"
PUSH = {"repository": {"clone_url": "https://GitHub.com/team/shop.git", "name": "shop"}}


def push(
    office: Office, status: int, secret: str = SECRET, body: Any = PUSH, **headers: str
) -> httpx.Response:
    data = json.dumps(body).encode()
    signature = hmac.new(secret.encode(), data, hashlib.sha256).hexdigest()
    given = {"X-Hub-Signature-256": f"sha256={signature}", "X-GitHub-Event": "push", **headers}
    return office(None, "POST /webhook/github", status, content=data, headers=given)


def test_a_secret_is_written_and_never_told(team: Office) -> None:
    path = "/api/v1/settings/webhook.secret"
    made = team("ada", f"PUT {path}", 200, json={"value": SECRET})
    listed = team("ada", "GET /api/v1/settings", 200)
    assert listed.json()[0]["is_set"] and listed.json()[0]["value"] is None
    short = team("ada", f"PUT {path}", 422, json={"value": "short-secret"})
    wrong = team("ada", f"PUT {path}", 422, json={"value": [SECRET]})
    acts = team("root1", "GET /api/v1/audit", 200)
    for answer in (made, listed, short, wrong, acts):
        assert SECRET not in answer.text and "short-secret" not in answer.text
    assert not team("bob", "GET /api/v1/settings", 200).json()[0]["is_set"]
    team("ada", "PUT /api/v1/settings/webhook.secre", 404, json={"value": SECRET})
    team("ada", f"DELETE {path}", 204)
    assert not team("ada", "GET /api/v1/settings", 200).json()[0]["is_set"]


@pytest.mark.parametrize("name", ["hub.token", "webhook.secret"])
@pytest.mark.parametrize("more", ["\r\nX-Other: 1", "\n", "\0", "\t", "\x7f", "\u2028"])
def test_a_secret_is_one_line_of_text(team: Office, name: str, more: str) -> None:
    """It is sent in a header."""
    answer = team("ada", f"PUT /api/v1/settings/{name}", 422, json={"value": SECRET + more})
    assert "control characters" in answer.json()["error"]["message"]
    assert SECRET not in answer.text


def test_a_signed_push_queues_the_signers_sources(team: Office) -> None:
    url = {"location": "git@github.com:team/shop.git"}
    for name in ("ada", "bob"):
        team(name, "POST /api/v1/sources", 201, json=url)
    push(team, 401)
    team("ada", "PUT /api/v1/settings/webhook.secret", 200, json={"value": SECRET})
    for wrong in ("", "sha256=", "sha256=é", "sha1=abc"):
        headers = {"X-Hub-Signature-256": wrong.encode()}
        team(None, "POST /webhook/github", 401, content=b"{}", headers=headers)
    team(None, "POST /webhook/github", 422, content=b"{}")
    push(team, 401, secret=SECRET + "x")
    (job,) = push(team, 202).json()["job_ids"]
    assert team("ada", f"GET /api/v1/ingest/{job}", 200).json()["kind"] == "ingest"
    assert push(team, 202).json()["job_ids"] == []  # it waits already
    assert team("bob", "GET /api/v1/ingest", 200).json()["total"] == 0
    other = {"repository": {"clone_url": "https://github.com/team/other"}}
    assert push(team, 202, body=other).json()["job_ids"] == []
    assert push(team, 202, **{"X-GitHub-Event": "ping"}).json()["job_ids"] == []
    push(team, 422, body=[])
    with_account = team.people.ids["ada"]
    team("root1", f"PATCH /api/v1/users/{with_account}", 200, json={"disabled": True})
    push(team, 401)
