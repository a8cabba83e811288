"""User models over HTTP: saved, gone on from, renamed, promoted, shared, deleted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from codetune.accounts.users import actor_of, get_user
from codetune.registry.access import Actor
from codetune.registry.cards import Registry
from codetune.registry.ownership import claim
from codetune.store.jobs import Job
from codetune.store.users import LOCAL_USER
from tests.unit.api.management import Office, archive
from tests.unit.serving.tiny_models import base_of, make_adapter, register

LIST = "/api/v1/user-models"


@pytest.fixture
def shop(team: Office, small_base: Path, tmp_path: Path) -> str:
    """The id of ada/shop with two promoted versions, which one finished tuning of hers made."""
    base = base_of(small_base)
    for seed in (1, 2):
        adapter = make_adapter(base, tmp_path / f"made-{seed}", seed=seed)
        register(team.home, "ada/shop", base, adapter)
    source = team(
        "ada", "POST /api/v1/sources/upload", 201, files={"file": ("shop.zip", archive())}
    ).json()
    order = {"source_id": source["id"], "config": {"training": {"max_steps": 3}}}
    job_id = team("ada", "POST /api/v1/tuning", 202, json=order).json()["id"]
    with team.people.logins.database.write() as session:
        job = session.get(Job, job_id)
        assert job is not None
        job.state, job.result = "succeeded", {"model": "ada/shop:2"}
    (model,) = team("ada", f"GET {LIST}", 200).json()["items"]
    return str(model["id"])


def names(office: Office, who: str) -> list[str]:
    return [model["name"] for model in office(who, f"GET {LIST}", 200).json()["items"]]


def test_versions_and_who_sees_them(team: Office, shop: str) -> None:
    model = team("ada", f"GET {LIST}/{shop}", 200).json()
    assert model["current"] == "ada/shop:2"
    assert [version["version"] for version in model["versions"]] == [1, 2]
    assert str(team.home.parent) not in str(model)
    for other in ("bob", "eve", "vic"):
        assert names(team, other) == []
        team(other, f"GET {LIST}/{shop}", 404)
    for route in (f"POST {LIST}/{shop}/rollback", f"DELETE {LIST}/{shop}"):
        team("bob", route, 404)
    team("bob", f"POST {LIST}/{shop}/rename", 404, json={"name": "mine"})
    team("bob", f"PUT {LIST}/{shop}/sharing", 404, json={"visibility": "everyone"})
    assert names(team, "root1") == ["ada/shop"]


def test_promoted_and_rolled_back(team: Office, shop: str) -> None:
    back = team("ada", f"POST {LIST}/{shop}/rollback", 200).json()
    assert back["current"] == "ada/shop:1"
    team("ada", f"POST {LIST}/{shop}/rollback", 409)
    on = team("ada", f"POST {LIST}/{shop}/promote", 200, json={"version": 2}).json()
    assert on["current"] == "ada/shop:2"
    team("ada", f"POST {LIST}/{shop}/promote", 404, json={"version": 9})
    team("ada", f"DELETE {LIST}/{shop}/versions/2", 204)
    team("ada", f"DELETE {LIST}/{shop}/versions/2", 404)
    assert team("ada", f"GET {LIST}/{shop}", 200).json()["current"] == "ada/shop:1"
    team("ada", f"DELETE {LIST}/{shop}", 204)
    team("ada", f"GET {LIST}/{shop}", 404)
    assert names(team, "ada") == []


def test_shared_with_a_team(team: Office, shop: str) -> None:
    path, team_id = f"PUT {LIST}/{shop}/sharing", team.people.team_id
    team("ada", path, 404, json={"visibility": "team", "team_id": "team_x"})
    team("ada", path, 422, json={"visibility": "team"})
    team("ada", path, 200, json={"visibility": "team", "team_id": team_id})
    assert (names(team, "bob"), names(team, "vic"), names(team, "eve")) == (
        ["ada/shop"],
        ["ada/shop"],
        [],
    )
    team("bob", f"POST {LIST}/{shop}/rename", 403, json={"name": "mine"})
    team("bob", f"DELETE {LIST}/{shop}", 403)
    team("bob", path, 403, json={"visibility": "everyone"})
    team("eve", path, 404, json={"visibility": "everyone"})
    team("ada", path, 200, json={"visibility": "private"})
    assert names(team, "bob") == []


def test_renamed_with_all_versions(team: Office, shop: str) -> None:
    with team.people.logins.database.write() as session:
        claim(session, _actor(team, "ada"), "ada/taken")
    team("ada", f"POST {LIST}/{shop}/rename", 409, json={"name": "taken"})
    team("ada", f"POST {LIST}/{shop}/rename", 422, json={"name": "../x"})
    model = team("ada", f"POST {LIST}/{shop}/rename", 200, json={"name": "till"}).json()
    assert (model["id"], model["name"], model["current"]) == (shop, "ada/till", "ada/till:2")
    registry = Registry(team.home)
    assert [card.id for card in registry.list() if card.kind != "base"] == [
        "ada/till:1",
        "ada/till:2",
    ]
    assert not registry.problems()
    listed = team("ada", "GET /api/v1/models?kind=adapter", 200).json()["items"]
    assert {"ada/till", "ada/till:1"} <= {entry["id"] for entry in listed}


def test_no_name_is_taken_from_under_a_job(team: Office, shop: str) -> None:
    """It would make its version of a model that nobody owns, or find no base to go on from."""
    url, path = "https://git.example.com/a/shop", f"POST {LIST}/{shop}/rename"
    for order in ({"source": url}, {"source": url, "name": "x", "base": "shop:1"}):
        job = team("ada", "POST /api/v1/tuning", 202, json=order).json()
        refused = team("ada", path, 409, json={"name": "till"})
        assert job["id"] in refused.json()["error"]["message"]
        team("ada", f"POST /api/v1/tuning/{job['id']}/cancel", 202)
    assert names(team, "ada") == ["ada/shop"]
    team("ada", path, 200, json={"name": "till"})


def test_nothing_is_deleted_from_under_a_job(team: Office, shop: str) -> None:
    """It would make its version of a model that nobody owns, whose name is nobody's to take."""
    url = "https://git.example.com/a/shop"
    job = team("ada", "POST /api/v1/tuning", 202, json={"source": url}).json()
    refused = team("ada", f"DELETE {LIST}/{shop}", 409)
    assert job["id"] in refused.json()["error"]["message"]
    team("ada", f"DELETE {LIST}/{shop}/versions/1", 204)
    team("ada", f"DELETE {LIST}/{shop}/versions/2", 409)  # the last one, and the name with it
    team("ada", f"POST /api/v1/tuning/{job['id']}/cancel", 202)
    team("ada", f"DELETE {LIST}/{shop}", 204)
    assert names(team, "ada") == []


def test_whether_somebody_has_a_model_is_not_told(
    team: Office, shop: str, small_base: Path, tmp_path: Path
) -> None:
    """Nor whether the machine has one that nobody has claimed."""
    base = base_of(small_base)
    register(team.home, "old", base, make_adapter(base, tmp_path / "made", seed=3))

    def ask(who: str, name: str, status: int) -> dict[str, Any]:
        body = {"source": "https://git.example.com/a/b", "name": "x", "base": name}
        answer: dict[str, Any] = team(who, "POST /api/v1/tuning", status, json=body).json()
        return answer

    there = ("ada/shop", "ada/shop:2", "ada/shop:9", "old")
    for name in (*there, "ada/none", "ada/a/b", "bob/none", "older"):
        assert ask("eve", name, 404)["error"]["message"] == f"There is no model '{name}'."
    for who, name in (("ada", "shop"), ("eve", "nano"), ("eve", "Qwen/Qwen2.5-Coder-0.5B")):
        ask(who, name, 202)


@pytest.mark.parametrize("name", ["https://evil", "file:///etc", "a\0b", "a/b\0", "a/b/c", "a b"])
def test_what_no_base_can_be_called_is_refused_at_once(
    team: Office, alone: Office, name: str
) -> None:
    url = "https://git.example.com/a/b"
    for route, body in (
        ("tuning", {"source": url, "name": "x", "base": name}),
        ("tuning", {"source": url, "name": "x", "config": {"base": name}}),
        ("models/pull", {"model": name}),
    ):
        refused = team("ada", f"POST /api/v1/{route}", 422, json=body)
        assert "cannot be" in refused.json()["error"]["message"]
        if name != "a/b/c" or route == "models/pull":  # of a home without accounts it may be
            alone(None, f"POST /api/v1/{route}", 422, json=body)


def test_gone_on_from_by_a_later_name(team: Office, shop: str) -> None:
    (job,) = team("ada", "GET /api/v1/tuning", 200).json()["items"]
    body = {"tuning_id": job["id"], "name": "best"}
    saved = team("ada", f"POST {LIST}/", 201, json=body).json()
    team("ada", f"POST {LIST}/{shop}/rename", 200, json={"name": "till"})
    for model_id, base in ((shop, "ada/till:2"), (saved["id"], "ada/best:1")):
        again = team("ada", f"POST {LIST}/import/{model_id}", 202).json()
        assert again["config"]["base"] == base
        assert again["config"]["training"] == {"max_steps": 3}


def test_saved_under_another_name(team: Office, shop: str) -> None:
    (job,) = team("ada", "GET /api/v1/tuning", 200).json()["items"]
    body = {"tuning_id": job["id"], "name": "best", "description": "Of the fair."}
    saved = team("ada", f"POST {LIST}/", 201, json=body).json()
    assert (saved["name"], saved["current"]) == ("ada/best", "ada/best:1")
    assert saved["description"] == "Of the fair."
    assert team("ada", f"POST {LIST}", 201, json=body).json() == saved
    team("bob", f"POST {LIST}", 404, json=body)
    assert names(team, "ada") == ["ada/best", "ada/shop"]
    assert not Registry(team.home).problems()


def test_gone_on_from(team: Office, shop: str) -> None:
    job = team("ada", f"POST {LIST}/import/{shop}", 202).json()
    assert job["config"]["base"] == "ada/shop:2"
    assert job["config"]["training"] == {"max_steps": 3}
    assert job["source"].endswith("shop.zip") and job["state"] == "queued"
    body = {"source": "https://git.example.com/a/b", "config": {"training": {"epochs": 1}}}
    other = team("ada", f"POST {LIST}/import/{shop}", 202, json=body).json()
    assert other["source"] == body["source"] and other["config"]["training"] == {"epochs": 1}
    team("eve", f"POST {LIST}/import/{shop}", 404)
    share = {"visibility": "team", "team_id": team.people.team_id}
    team("ada", f"PUT {LIST}/{shop}/sharing", 200, json=share)
    team("bob", f"POST {LIST}/import/{shop}", 409)  # what she tuned on is not his to see
    mine = team("bob", f"POST {LIST}/import/{shop}", 202, json=body).json()
    assert (mine["config"]["base"], mine["owner"]) == ("ada/shop:2", "bob")


def test_a_model_that_nobody_has_claimed_is_the_machines(
    team: Office, alone: Office, small_base: Path, tmp_path: Path
) -> None:
    base = base_of(small_base)
    register(team.home, "old", base, make_adapter(base, tmp_path / "made", seed=3))
    assert (names(team, "ada"), names(team, "root1")) == ([], ["old"])
    (model,) = alone(None, f"GET {LIST}", 200).json()["items"]
    assert model["owner_id"] == LOCAL_USER
    share = alone(None, f"PUT {LIST}/{model['id']}/sharing", 200, json={"visibility": "everyone"})
    assert share.json()["id"] == model["id"]
    assert names(team, "eve") == ["old"]
    acts = team("root1", "GET /api/v1/audit?action=model.share", 200).json()
    assert [(act["subject"], act["details"]) for act in acts] == [
        ("old", {"visibility": "everyone", "team": None})
    ]


def test_no_two_models_have_one_id(alone: Office, small_base: Path, tmp_path: Path) -> None:
    """A model keeps its id when it is renamed; the next one of its old name gets another."""
    base, ids = base_of(small_base), dict[str, str]()
    for seed, name in enumerate(("till", "desk", "shop")):
        register(alone.home, "shop", base, make_adapter(base, tmp_path / name, seed=seed))
        listed = alone(None, f"GET {LIST}", 200).json()["items"]
        (ids[name],) = (model["id"] for model in listed if model["name"] == "shop")
        if name != "shop":
            rename = f"POST {LIST}/{ids[name]}/rename"
            assert alone(None, rename, 200, json={"name": name}).json()["id"] == ids[name]
    assert len(set(ids.values())) == 3
    for name in ("desk", "till"):
        alone(None, f"DELETE {LIST}/{ids[name]}", 204)
        alone(None, f"DELETE {LIST}/{ids[name]}", 404)
    (left,) = alone(None, f"GET {LIST}", 200).json()["items"]
    assert (left["id"], left["name"]) == (ids["shop"], "shop")


def _actor(team: Office, name: str) -> Actor:
    with team.people.logins.database.session() as session:
        return actor_of(session, get_user(session, name))
