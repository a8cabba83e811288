"""Scorecards and counts over HTTP."""

from __future__ import annotations

from pathlib import Path

from codetune.accounts.users import actor_of, get_user
from codetune.registry.ownership import claim
from codetune.serving.log import Logged, StoredLog
from tests.unit.api.management import Office
from tests.unit.serving.tiny_models import base_of, make_adapter, register


def test_scorecards_of_ones_own_models(team: Office, small_base: Path, tmp_path: Path) -> None:
    base, database = base_of(small_base), team.people.logins.database
    for seed in (1, 2):
        adapter = make_adapter(base, tmp_path / f"made-{seed}", seed=seed)
        register(team.home, "ada/shop", base, adapter, promoted=seed == 1)
    with database.write() as session:
        row = claim(session, actor_of(session, get_user(session, "ada")), "ada/shop")
    listed = team("ada", "GET /api/v1/evaluations", 200).json()
    assert {(one["model"], one["version"]) for one in listed["items"]} == {
        ("ada/shop", 1),
        ("ada/shop", 2),
    }
    assert listed["items"][0]["scorecard"]["reasons"] == []
    good = team("ada", f"GET /api/v1/evaluations?model_id={row.id}&promoted=true", 200).json()
    assert [one["version"] for one in good["items"]] == [1]
    one = team("ada", f"GET /api/v1/evaluations/{row.id}/2", 200).json()
    assert (one["promoted"], one["version"]) == (False, 2)
    team("ada", f"GET /api/v1/evaluations/{row.id}/3", 404)
    team("bob", f"GET /api/v1/evaluations/{row.id}/2", 404)
    team("bob", f"GET /api/v1/evaluations?model_id={row.id}", 404)
    assert team("bob", "GET /api/v1/evaluations", 200).json()["total"] == 0
    order = {"source": "https://git.example.com/a/b"}
    assert team("ada", "POST /api/v1/evaluations", 202, json=order).json()["kind"] == "evaluate"


def test_counts_are_ones_own_and_everybodys_for_administrators(team: Office) -> None:
    log = StoredLog(team.people.logins.database)
    for number, (name, kinds) in enumerate(
        [("ada", ["view", "view", "select"]), ("ada", ["view", "dismiss"]), ("bob", ["view"])]
    ):
        owner, made = team.people.ids[name], f"cmpl_{number}"
        log.completion(Logged(made, owner, "nano", "tabby", prompt_tokens=10, tokens=4))
        for kind in kinds:
            log.event(owner, made, kind, choice=0, details={})
    url = {"location": "https://git.example.com/a/b"}
    team("ada", "POST /api/v1/sources", 201, json=url)
    team("ada", "POST /api/v1/tuning", 202, json={"source": url["location"]})
    found = team("ada", "GET /api/v1/analytics/", 200).json()
    assert (found["sources"], found["datasets"], found["jobs"]["queued"]) == (1, 0, 1)
    assert found["quality"] == [
        {
            "model": "nano",
            "completions": 2,
            "shown": 2,
            "accepted": 1,
            "dismissed": 1,
            "accept_rate": 0.5,
            "dismiss_rate": 0.5,
            "looked_at": 0,
            "edit_ratio": None,
            "prompt_tokens": 20,
            "tokens": 8,
        }
    ]
    assert team("eve", "GET /api/v1/analytics", 200).json()["quality"] == []
    assert team("root1", "GET /api/v1/analytics", 200).json()["quality"][0]["completions"] == 3
