"""Somebody names what is another's, in every dialect: it is as if it were not there."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from codetune.accounts import teams, tokens, users
from codetune.accounts.audit import Origin
from codetune.api.app import create_app
from codetune.errors import ConflictError, LoginError
from codetune.models.load import BaseModel
from codetune.registry.access import LOCAL, Actor
from codetune.registry.cards import Registry
from codetune.registry.ownership import Owners, claim, saved_as, share_model
from codetune.serving.catalog import Catalog
from codetune.serving.complete import Completer
from codetune.serving.config import ServingOptions
from codetune.serving.engines.local import LocalEngine
from codetune.store.models import Model
from codetune.store.teams import Team
from tests.accounts import PASSWORD, People
from tests.unit.serving.tiny_models import base_of, make_adapter, make_base, register

NOTHING = "eve/nothing"
_ADVICE = re.compile(r" ?(?:Did you mean|Known:)[^\"]*")
# Every way to name a model, with what else the request needs.
ASKS: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "/v1/completions", {"model": "?", "prompt": "x", "max_tokens": 1}),
    ("POST", "/v1/completions", {"model": "?", "prompt": "x", "suffix": "y", "max_tokens": 1}),
    ("POST", "/v1/completions", {"model": "?", "segments": {"prefix": "x"}}),
    (
        "POST",
        "/v1/chat/completions",
        {"model": "?", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1},
    ),
    ("GET", "/v1/models/?", {}),
    ("POST", "/v1/fim/completions", {"model": "?", "prompt": "x", "suffix": "y", "max_tokens": 1}),
    ("POST", "/infill", {"model": "?", "input_prefix": "x", "input_suffix": "y", "n_predict": 1}),
    ("POST", "/completion", {"model": "?", "prompt": "x", "n_predict": 1}),
    ("POST", "/tokenize", {"model": "?", "content": "x"}),
    ("POST", "/detokenize", {"model": "?", "tokens": [1]}),
    ("POST", "/apply-template", {"model": "?", "messages": [{"role": "user", "content": "x"}]}),
    ("GET", "/props?model=?", {}),
    ("POST", "/api/show", {"model": "?"}),
    ("POST", "/api/show", {"name": "?"}),
    ("POST", "/api/generate", {"model": "?", "prompt": "x", "options": {"num_predict": 1}}),
    (
        "POST",
        "/api/chat",
        {
            "model": "?",
            "messages": [{"role": "user", "content": "x"}],
            "options": {"num_predict": 1},
        },
    ),
    ("POST", "/v1/embeddings", {"model": "?", "input": "x"}),
    ("POST", "/api/embed", {"model": "?", "input": "x"}),
    ("POST", "/api/embeddings", {"model": "?", "prompt": "x"}),
    ("POST", "/embedding", {"model": "?", "content": "x"}),
    ("POST", "/embeddings", {"model": "?", "content": "x"}),
    ("POST", "/v1/load_lora_adapter", {"lora_name": "mine", "lora_path": "?"}),
]
NAMES = ("ada/secret", "ada/shared", "bob/secret", "unclaimed")
SEES = {
    "ada": {"ada/secret", "ada/shared"},
    "bob": {"bob/secret", "ada/shared"},
    "vic": {"ada/shared"},
    "eve": set(),
    "root1": set(NAMES),
}
LISTS = ["/v1/models", "/api/tags", "/api/ps", "/lora-adapters", "/props", "/v1/health"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return base_of(make_base(tmp_path_factory.mktemp("bases") / "tiny"))


@pytest.fixture(scope="module")
def home(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ada's own model, one of hers that the team sees, Bob's, and one of the machine's."""
    made, home = tmp_path_factory.mktemp("made"), tmp_path_factory.mktemp("home")
    for number, name in enumerate(NAMES):
        register(home, name, base, make_adapter(base, made / str(number), seed=number))
    return home


@pytest.fixture(scope="module")
def engine(base: BaseModel) -> Iterator[LocalEngine]:
    made = LocalEngine(ServingOptions(base=str(base.path)))
    yield made
    made.close()


@pytest.fixture
def server(home: Path, base: BaseModel, engine: LocalEngine, people: People) -> Completer:
    database = people.logins.database
    with database.write() as session:
        for name in ("ada", "bob"):
            actor = Actor(people.ids[name], name, "member")
            claim(session, actor, f"{name}/secret")
        shared = claim(session, Actor(people.ids["ada"], "ada", "member"), "ada/shared")
        share_model(shared, "team", session.get_one(Team, people.team_id))
    options = ServingOptions(base=str(base.path))
    return Completer(engine, Catalog(Registry(home), options.base, Owners(database)), options)


def ask(server: Completer, people: People, name: str | None, *asks: Any) -> list[httpx.Response]:
    app = create_app(server, hosts=["codetune.test"], logins=people.logins)

    async def send() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app, client=("127.0.0.1", 1))
        async with httpx.AsyncClient(
            transport=transport, base_url="http://codetune.test", headers=people.headers(name)
        ) as client:
            return [
                await client.request(method, path, json=body or None) for method, path, body in asks
            ]

    return asyncio.run(send())


def named(model: str) -> list[tuple[str, str, dict[str, Any]]]:
    filled = []
    for method, path, body in ASKS:
        where = path if path.count("?") == 0 else path[::-1].replace("?", model[::-1], 1)[::-1]
        filled.append((method, where, {k: model if v == "?" else v for k, v in body.items()}))
    return filled


def _words(answer: httpx.Response, asked: str) -> str:
    """What is said, without the asked name and without the suggestions."""
    return _ADVICE.sub("", answer.text.replace(asked, "?"))


def _suggested(answer: httpx.Response) -> list[str]:
    advice = " ".join(_ADVICE.findall(answer.text))
    return [name for name in NAMES if name in advice]


@pytest.mark.parametrize("who", ["eve", "bob", "vic"])
def test_anothers_model_is_404_in_every_dialect_and_looks_like_none(
    server: Completer, people: People, who: str
) -> None:
    model = "ada/secret:1" if who == "eve" else "ada/secret"
    theirs = ask(server, people, who, *named(model))
    none = ask(server, people, who, *named(NOTHING))
    for what, answer, nothing in zip(ASKS, theirs, none, strict=True):
        assert answer.status_code == nothing.status_code == 404, (what, answer.text, nothing.text)
        hidden = _words(answer, model), _words(nothing, NOTHING)
        assert hidden[0] == hidden[1], what
        assert not set(_suggested(answer)) - SEES[who], what


def test_ones_own_and_shared_models_answer_in_every_dialect(
    server: Completer, people: People
) -> None:
    for who, model in (("ada", "ada/secret"), ("ada", "secret"), ("bob", "ada/shared")):
        for what, answer in zip(ASKS, ask(server, people, who, *named(model)), strict=True):
            if what[1] == "/v1/models/?" and "/" not in model:
                continue  # it is listed by its whole name
            assert answer.status_code == 200, (who, what, answer.text)


def test_lists_name_ones_own_and_shared_models_alone(server: Completer, people: People) -> None:
    for who, mine in SEES.items():
        for path, answer in zip(
            LISTS, ask(server, people, who, *(("GET", p, {}) for p in LISTS)), strict=True
        ):
            assert answer.status_code == 200, (who, path, answer.text)
            found = {name for name in NAMES if name in answer.text}
            assert found <= mine, (who, path)
            if path in ("/v1/models", "/api/tags"):
                assert found == mine, (who, path)


def test_without_a_name_the_default_is_nobody_elses(server: Completer, people: People) -> None:
    body = {"prompt": "x", "max_tokens": 1}
    for who, default in (("eve", "tiny"), ("vic", "ada/shared:1"), ("bob", "bob/secret:1")):
        (answer,) = ask(server, people, who, ("POST", "/v1/completions", body))
        assert answer.json()["model"] == default


def test_a_share_that_ends_ends_at_once_also_under_a_name_of_ones_own(
    server: Completer, people: People
) -> None:
    app_asks = [
        ("POST", "/v1/load_lora_adapter", {"lora_name": "mine", "lora_path": "ada/shared"}),
        ("POST", "/v1/completions", {"model": "mine", "prompt": "x", "max_tokens": 1}),
    ]
    assert [a.status_code for a in ask(server, people, "bob", *app_asks)] == [200, 200]
    with people.logins.database.write() as session:
        row = session.query(Model).filter_by(name="ada/shared").one()
        share_model(row, "private")
    for answer in ask(server, people, "bob", *named("ada/shared")):
        assert answer.status_code == 404


def test_an_adapter_is_listed_under_whatever_name_it_was_loaded(
    server: Completer, people: People
) -> None:
    """Bob leaves out his own name, and then gives another name to a name that he gave."""
    load = "/v1/load_lora_adapter"
    *loads, first, second, listed = ask(
        server,
        people,
        "bob",
        ("POST", load, {"lora_name": "x", "lora_path": "secret"}),
        ("POST", load, {"lora_name": "y", "lora_path": "x"}),
        ("GET", "/v1/models/x", {}),
        ("POST", "/v1/completions", {"model": "y", "prompt": "x", "max_tokens": 1}),
        ("GET", "/v1/models", {}),
    )
    assert [answer.status_code for answer in loads] == [200, 200]
    assert first.json()["root"] == "bob/secret:1"
    assert second.json()["model"] == "y"
    roots = {model["id"]: model["root"] for model in listed.json()["data"]}
    assert (roots["x"], roots["y"]) == ("bob/secret:1", "bob/secret:1")


@pytest.mark.parametrize("name", ["remote:z", "w:latest"])
def test_an_adapter_gets_no_name_that_means_something_else(
    server: Completer, people: People, name: str
) -> None:
    body = {"lora_name": name, "lora_path": "ada/shared"}
    (answer,) = ask(server, people, "ada", ("POST", "/v1/load_lora_adapter", body))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "lora_name")


def test_somebody_who_leaves_or_is_locked_out_is_out(server: Completer, people: People) -> None:
    asks = [("POST", "/v1/completions", {"model": "ada/shared", "prompt": "x", "max_tokens": 1})]
    assert ask(server, people, "vic", *asks)[0].status_code == 200
    with people.logins.database.write() as session:
        team = teams.get_team(session, "backend")
        teams.leave(session, team, users.get_user(session, "vic"))
    assert ask(server, people, "vic", *asks)[0].status_code == 404
    with people.logins.database.write() as session:
        users.set_disabled(session, users.get_user(session, "vic"), True)
    assert ask(server, people, "vic", *asks)[0].status_code == 401
    assert ask(server, people, None, *asks)[0].status_code == 401


def test_tokens_users_teams_and_the_log_of_others_are_out_of_reach(
    server: Completer, people: People
) -> None:
    with people.logins.database.write() as session:
        row, secret = tokens.make_token(session, users.get_user(session, "ada"), "x")
    asks = [
        ("DELETE", f"/api/v1/tokens/{row.id}", {}),
        ("GET", "/api/v1/tokens", {}),
        ("GET", "/api/v1/teams", {}),
        ("GET", "/api/v1/users", {}),
        ("GET", "/api/v1/audit", {}),
        ("POST", "/api/v1/users", {"name": "eve2", "password": "long enough", "role": "admin"}),
    ]
    answers = ask(server, people, "eve", *asks)
    assert [a.status_code for a in answers] == [404, 200, 200, 403, 403, 403]
    assert row.id not in answers[1].text
    assert answers[2].json() == []
    assert people.logins.identify(secret).name == "ada"
    (mine,) = ask(server, people, "ada", ("GET", "/api/v1/tokens", {}))
    assert {t["id"] for t in mine.json()} >= {row.id}
    assert secret not in mine.text
    assert "digest" not in mine.text


def test_a_token_makes_no_other_that_would_outlive_it(server: Completer, people: People) -> None:
    with people.logins.database.write() as session:
        root = users.get_user(session, "root1")
        people.tokens["small"] = tokens.make_token(session, root, "x", ["write"])[1]
    asks = [
        ("POST", "/api/v1/tokens", {"scopes": ["admin"]}),
        ("POST", "/api/v1/tokens", {"scopes": ["write"], "expires": "1h"}),
        ("PUT", "/api/v1/me/password", {"old": "x", "new": "y" * 12}),
    ]
    assert [a.status_code for a in ask(server, people, "small", *asks)] == [403, 403, 403]
    people.tokens["login"] = logged_in(people, "root1")
    made = ask(server, people, "login", *asks[:2])
    assert [(a.status_code, a.json()["scopes"]) for a in made] == [
        (201, ["admin"]),
        (201, ["write"]),
    ]
    assert people.logins.identify(made[1].json()["token"]).scopes == {"write"}


def logged_in(people: People, name: str) -> str:
    """What a password gives: a login, not a token."""
    return people.logins.log_in(name, PASSWORD, Origin())[1]


def test_what_was_done_is_written_down_without_secrets(server: Completer, people: People) -> None:
    password = "a password to look for"
    people.tokens["root1"] = logged_in(people, "root1")
    asks = [
        ("POST", "/api/v1/users", {"name": "zoe", "password": password}),
        ("POST", "/api/v1/tokens", {"name": "vim", "scopes": ["complete"]}),
        ("GET", "/api/v1/audit", {}),
    ]
    answers = ask(server, people, "root1", *asks)
    assert [a.status_code for a in answers] == [201, 201, 200]
    log = answers[2].json()
    assert [(e["actor"], e["action"], e["address"]) for e in log[:2]] == [
        ("root1", "token.add", "127.0.0.1"),
        ("root1", "user.add", "127.0.0.1"),
    ]
    assert log[0]["request_id"] == answers[1].headers["x-request-id"]
    assert password not in json.dumps(log)
    assert answers[1].json()["token"] not in json.dumps(log)


def test_who_is_called_like_the_beginning_of_a_models_name_does_not_get_it(
    home: Path, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An administrator's "ada/shared" is there; ada, who is new, saves one of that name."""
    monkeypatch.setenv("CODETUNE_HOME", str(home))
    ada = Actor(people.ids["ada"], "ada", "member")
    with people.logins.database.write() as session:
        with pytest.raises(ConflictError, match="taken"):
            claim(session, ada, saved_as(ada, "shared"))
        assert claim(session, ada, saved_as(ada, "new")).owner_id == ada.id
        assert claim(session, LOCAL, "ada/shared").owner_id == LOCAL.id


def test_the_local_user_cannot_be_logged_in_as(server: Completer, people: People) -> None:
    for name in (LOCAL.name, LOCAL.id):
        with pytest.raises(LoginError):
            people.logins.log_in(name, "", Origin("127.0.0.1"))
