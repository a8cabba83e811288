"""Models side by side over HTTP, engines elsewhere among them, and which of them are listed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.api.management import Office

COMPARE = "POST /api/v1/compare"


@pytest.fixture
def engines(elsewhere: str) -> list[dict[str, Any]]:
    return [
        {"name": "there", "url": f"{elsewhere}/v1", "model": "shop"},
        {"name": "down", "url": "http://127.0.0.1:9/v1", "retries": 0},
    ]


def ask(office: Office, who: str, models: list[str], **body: Any) -> list[dict[str, Any]]:
    body = {"prompt": "def price(", "max_tokens": 12, **body}
    answer = office(who, COMPARE, 200, json={"models": models, **body})
    found: list[dict[str, Any]] = answer.json()["answers"]
    assert [one["asked"] for one in found] == models
    return found


def test_base_tuned_and_remote_side_by_side(office: Office) -> None:
    models = ["tiny", "shop", "ada/shop:1", "remote:there"]
    base, tuned, version, remote = ask(office, "ada", models)
    assert [one["model"] for one in (base, tuned, version)] == ["tiny", "ada/shop:1", "ada/shop:1"]
    assert base["text"] != tuned["text"] == version["text"] == remote["text"]
    for one in (base, tuned, version, remote):
        assert one["error"] is None and one["finish_reason"] == "length"
        assert (one["completion_tokens"], one["prompt_tokens"]) == (12, len("def price("))
        assert 0 < one["first_token_seconds"] <= one["seconds"]
    gap = ask(office, "ada", ["tiny", "remote:there/tiny"], suffix="\n", file_path="a.py")
    assert gap[0]["error"] is gap[1]["error"] is None
    turns = [{"role": "user", "content": "What?"}]
    (chat,) = ask(office, "ada", ["tiny"], prompt=None, messages=turns)
    assert chat["completion_tokens"] == 12


def test_an_engine_elsewhere_is_asked_for_no_scores(office: Office) -> None:
    """It gives none, and refuses whoever wants some."""
    body = {"prior_context": "def price(", "max_decode_length": 3}
    here = office("ada", "POST /generate", 200, json={**body, "model": "tiny"}).json()
    there = office("ada", "POST /generate", 200, json={**body, "model": "remote:there"}).json()
    assert here["score"] < 0 and there["score"] is None and there["generated_text"]
    question = {"q": "What?", "model": "remote:there", "max_tokens": 3}
    assert office("ada", "POST /query", 200, json=question).json()["answer"]


@pytest.mark.parametrize("who", ["bob", "eve", "vic"])
def test_a_side_that_is_somebody_elses_is_not_there(office: Office, who: str) -> None:
    """Nor is what fails kept from the others; the words are the same as for what nobody has."""
    models = ["ada/shop", "ada/shop:1", "shop", "none", "remote:none", "remote:down", "tiny"]
    *wrong, base = ask(office, who, models)
    assert base["error"] is None and base["text"]
    for one in wrong:
        assert one["text"] == "" and one["completion_tokens"] == 0
    assert [one["error"].split(".")[0] for one in wrong[:5]] == [
        "There is no model 'ada/shop'",
        "There is no model 'ada/shop:1'",
        "There is no model 'shop'",
        "There is no model 'none'",
        "There is no engine 'none'",
    ]
    assert "cannot be reached" in wrong[5]["error"]


def test_what_is_no_comparison(office: Office) -> None:
    office(None, COMPARE, 401, json={"models": ["tiny"], "prompt": "x"})
    turn = {"role": "user", "content": "x"}
    for body, field in (
        ({"prompt": "x"}, "models"),
        ({"prompt": "x", "models": []}, "models"),
        ({"prompt": "x", "models": ["tiny"] * 17}, "models"),
        ({"prompt": "x", "models": ["tiny"], "max_tokens": 4097}, "max_tokens"),
        ({"prompt": "x", "models": ["tiny"], "temperature": -1}, "temperature"),
        ({"prompt": "x", "models": ["tiny"], "n": 2}, "n"),
        ({"models": ["tiny"]}, None),
        ({"prompt": "x", "messages": [turn], "models": ["tiny"]}, None),
        ({"messages": [turn], "suffix": "x", "models": ["tiny"]}, None),
    ):
        answer = office("ada", COMPARE, 422, json=body)
        assert answer.json()["error"]["param"] == field, answer.text
    json_type = {"Content-Type": "application/json"}
    for content, headers in (
        (b'{"models": [', json_type),
        (b"[]", json_type),
        (b"", json_type),
        (b"{}", {"Content-Type": "text/plain"}),
    ):
        broken = office("ada", COMPARE, 400, content=content, headers=headers)
        assert broken.json()["error"]["param"] is None
    operation = office.app.openapi()["paths"]["/api/v1/compare"]["post"]
    assert {"200", "400", "401", "403", "404", "413", "422", "503"} <= set(operation["responses"])


def test_a_model_that_cannot_be_used_tells_no_folders(office: Office, tmp_path: Path) -> None:
    (weights,) = (tmp_path / "home/models").glob("*/model/adapter_model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-50])
    broken, base = ask(office, "ada", ["ada/shop", "tiny"])
    assert broken["error"] and str(tmp_path) not in broken["error"]
    assert base["text"]


def test_engines_elsewhere_are_listed_for_whoever_may_ask(office: Office) -> None:
    for who, own in (("ada", True), ("bob", False), ("vic", False)):
        listed = {m["id"]: m for m in office(who, "GET /v1/models", 200).json()["data"]}
        assert ("ada/shop" in listed) == own
        there = listed["remote:there"]
        assert (there["kind"], there["owned_by"], there["root"]) == (
            "remote",
            "there",
            "remote:there/shop",
        )
        assert (listed["tiny"]["kind"], listed["tiny"]["owned_by"]) == ("base", "codetune")
        assert office(who, "GET /v1/models/remote:down", 200).json()["root"] == "remote:down"
        page = office(who, "GET /api/v1/models?kind=remote", 200).json()
        assert [m["owner"] for m in page["items"]] == ["there", "down"]
        one = office(who, "GET /api/v1/models/remote:there", 200).json()
        assert (one["kind"], one["owner"]) == ("remote", "there")
    office(None, "GET /v1/models", 401)
    office("ada", "GET /v1/models/remote:none", 404)
    # What is tuned is not confused with what is elsewhere.
    info = office("bob", "GET /models/info", 200).json()
    assert info["fine_tuned"] is None and info["remote"] == ["down", "there"]
    tags = [m["name"] for m in office("bob", "GET /api/tags").json()["models"]]
    assert not any(name.startswith("remote") for name in tags)
