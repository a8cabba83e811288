"""Every route × everybody: what happens is what the tables beside the routes declare."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from codetune.accounts import tokens, users
from codetune.accounts.audit import Origin
from codetune.accounts.config import AccountOptions
from codetune.accounts.logins import Logins
from codetune.api.app import create_app
from codetune.api.permissions import Permissions
from codetune.errors import StoreError
from codetune.registry.access import ROLES, SCOPES
from codetune.registry.cards import Registry
from codetune.registry.ownership import Owners
from codetune.serving.catalog import Catalog
from codetune.serving.complete import Completer
from codetune.serving.config import ServingOptions
from codetune.serving.engines.local import LocalEngine
from codetune.store.database import Database
from codetune.store.users import User
from codetune.workspace.workspace import Workspace
from tests.accounts import PASSWORD, People
from tests.unit.serving.tiny_models import make_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("bases") / "tiny")


@pytest.fixture
def completer(base: Path, people: People) -> Iterator[Completer]:
    options = ServingOptions(base=str(base))
    engine = LocalEngine(options)
    owners = Owners(people.logins.database)
    yield Completer(engine, Catalog(Registry(base / "none"), options.base, owners), options)
    engine.close()


@pytest.fixture
def app(completer: Completer, people: People, tmp_path: Path) -> FastAPI:
    return create_app(
        completer,
        hosts=["codetune.test"],
        logins=people.logins,
        workspace=Workspace.of(people.logins.database, tmp_path / "home"),
    )


def _url(folder: Path) -> str:
    return f"sqlite:///{folder / 'nobody.db'}"


@pytest.fixture
def nobody(tmp_path: Path, cheap_passwords: None) -> Iterator[Logins]:
    """The accounts of a machine on which none has been made."""
    with Database.open(_url(tmp_path)) as database:
        yield Logins(database, tmp_path, AccountOptions())


def call(app: FastAPI, *requests: httpx.Request, client: str = "127.0.0.1") -> list[httpx.Response]:
    async def send() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app, client=(client, 1))
        async with httpx.AsyncClient(transport=transport) as sender:
            return [await sender.send(request) for request in requests]

    return asyncio.run(send())


def request(method: str, path: str, headers: dict[str, str] | None = None) -> httpx.Request:
    # An id that nobody has, and a body that no route takes: what is allowed gets 400 to 422.
    path = re.sub(r"{[^}]*}", "id_of_nobody", path)
    return httpx.Request(method, f"http://codetune.test{path}", headers=headers, content=b"[1")


def routes_of(app: FastAPI) -> list[str]:
    """Every method and path that the router answers."""
    found = set()
    for context in iter_route_contexts(app.routes):
        for method in (context.methods or set()) - {"HEAD"}:
            found.add(f"{method} {context.path}")
    return sorted(found)


def permissions_of(app: FastAPI) -> Permissions:
    (gate,) = [m for m in app.user_middleware if "permissions" in m.kwargs]
    found = gate.kwargs["permissions"]
    assert isinstance(found, Permissions)
    return found


def test_every_route_is_declared_and_every_declaration_is_a_route(app: FastAPI) -> None:
    assert routes_of(app) == sorted(permissions_of(app).levels)


def test_a_request_is_judged_by_the_route_that_answers_it(app: FastAPI) -> None:
    permissions = permissions_of(app)
    for route in routes_of(app):
        method, path = route.split(" ", 1)
        concrete = re.sub(r"{[^}]*}", "x", path)
        assert permissions.of(method, concrete) == permissions.levels[route], route
        assert permissions.of(method, concrete.rstrip("/") + "/") == permissions.levels[route]


@pytest.mark.parametrize("name", [None, "root1", "ada", "vic", "eve"])
def test_everybody_gets_what_the_table_says(app: FastAPI, people: People, name: str | None) -> None:
    role = {"root1": "admin", "vic": "viewer", None: None}.get(name, "member")
    levels = permissions_of(app).levels
    asked = [request(*route.split(" ", 1), people.headers(name)) for route in levels]
    for (route, level), answer in zip(levels.items(), call(app, *asked), strict=True):
        if level == "public" or (role is not None and level in ("login", "account")):
            expected = True
        else:
            expected = role is not None and level in ROLES[role]
        refused = answer.status_code in (401, 403)
        if route == "POST /register/":  # allowed to be asked, and switched off
            assert answer.status_code == 403
            continue
        if route == "GET /ready":  # for everybody; nothing is loaded yet
            assert answer.status_code == 503
            continue
        assert refused != expected, (route, level, answer.status_code, answer.text)
        if name is None and refused:
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.status_code < 500, (route, answer.text)


def test_a_token_does_what_its_scopes_say(app: FastAPI, people: People) -> None:
    levels = permissions_of(app).levels
    with people.logins.database.write() as session:
        root = users.get_user(session, "root1")
        made = {scope: tokens.make_token(session, root, "x", [scope])[1] for scope in SCOPES}
    for scope, secret in made.items():
        headers = {"X-API-Key": secret}
        asked = [request(*route.split(" ", 1), headers) for route in levels]
        for (route, level), answer in zip(levels.items(), call(app, *asked), strict=True):
            if level in ("public", "login") or route == "POST /register/":
                continue
            expected = scope == "write" if level == "account" else level in SCOPES[scope]
            assert (answer.status_code != 403) == expected, (scope, route, answer.text)


def test_an_account_is_reached_by_its_id_whoever_is_called_so(app: FastAPI, people: People) -> None:
    database, ada = people.logins.database, people.ids["ada"]
    with database.write() as session:
        session.add(User(name=ada))
    _, login, _ = people.logins.log_in("ada", PASSWORD, Origin("127.0.0.1"))
    site, hers = "http://codetune.test/api/v1", {"Authorization": f"Bearer {login}"}
    change = {"old": PASSWORD, "new": "another good password"}
    promoted, token, password = call(
        app,
        httpx.Request(
            "PATCH", f"{site}/users/{ada}", headers=people.headers("root1"), json={"role": "viewer"}
        ),
        httpx.Request("POST", f"{site}/tokens", headers=hers, json={}),
        httpx.Request("PUT", f"{site}/me/password", headers=hers, json=change),
    )
    assert (promoted.json()["name"], promoted.json()["role"]) == ("ada", "viewer")
    assert people.logins.identify(token.json()["token"]).id == ada
    assert password.status_code == 204


def test_what_is_declared_nowhere_is_for_administrators(app: FastAPI, people: People) -> None:
    @app.get("/forgotten")
    def forgotten() -> str:
        return "secret"

    asked = [request("GET", "/forgotten", people.headers(n)) for n in (None, "ada", "root1")]
    anonymous, ada, root = call(app, *asked)
    assert (anonymous.status_code, ada.status_code, root.status_code) == (401, 404, 200)
    (nothing,) = call(app, request("GET", "/nothing", people.headers("ada")))
    assert ada.json() == {
        "error": nothing.json()["error"] | {"message": ada.json()["error"]["message"]}
    }


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer {}"},
        {"Authorization": "bearer   {}"},
        {"X-API-Key": "{}"},
        {"api-key": "{}"},
    ],
)
def test_clients_say_who_they_are_in_their_own_ways(
    app: FastAPI, people: People, headers: dict[str, str]
) -> None:
    given = {name: value.format(people.tokens["ada"]) for name, value in headers.items()}
    (answer,) = call(app, request("GET", "/api/v1/me", given))
    assert answer.json()["name"] == "ada"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in answer.headers


def test_without_accounts_only_this_machine_is_answered(completer: Completer) -> None:
    app = create_app(completer, hosts=["codetune.test"])
    asked = request("GET", "/v1/models", {"Authorization": "Bearer any key"})
    assert call(app, asked)[0].status_code == 200
    assert call(app, asked, client="::1")[0].status_code == 200
    for client in ("10.0.0.7", "8.8.8.8", "not an address"):
        (answer,) = call(app, asked, client=client)
        assert answer.status_code == 403
        assert "no accounts" in answer.json()["error"]["message"]


def test_a_login_with_the_form_gives_a_bearer(app: FastAPI, people: People) -> None:
    form = {"username": "ada", "password": PASSWORD, "grant_type": "password"}
    (answer,) = call(app, httpx.Request("POST", "http://codetune.test/token", data=form))
    assert answer.json()["token_type"] == "bearer"
    assert answer.headers["cache-control"] == "no-store"
    bearer = {"Authorization": f"Bearer {answer.json()['access_token']}"}
    (me,) = call(app, request("GET", "/api/v1/me", bearer))
    assert me.json() == {
        "id": people.ids["ada"],
        "name": "ada",
        "role": "member",
        "teams": [people.team_id],
        "scopes": ["admin", "complete", "metrics", "read", "write"],
    }
    wrong = httpx.Request("POST", "http://codetune.test/token", data=form | {"password": "x"})
    nobody = httpx.Request("POST", "http://codetune.test/token", data=form | {"username": "x"})
    first, second = call(app, wrong, nobody)
    assert first.status_code == second.status_code == 401
    assert first.json() == second.json()


def test_what_a_route_does_not_take_is_said_without_repeating_it(
    app: FastAPI, people: People
) -> None:
    body = {"name": "zoe", "password": ["hidden"], "role": "member"}
    asked = httpx.Request(
        "POST", "http://codetune.test/api/v1/users", json=body, headers=people.headers("root1")
    )
    form = httpx.Request("POST", "http://codetune.test/token", data={"password": "hidden"})
    for answer, field in zip(call(app, asked, form), ("password", "username"), strict=True):
        assert answer.status_code == 422
        assert answer.json()["error"]["param"] == field
        assert "hidden" not in answer.text


def test_null_characters_and_long_values_break_nothing(app: FastAPI, people: People) -> None:
    """PostgreSQL takes neither; SQLite takes both."""
    people.tokens["root1"] = people.logins.log_in("root1", PASSWORD, Origin())[1]
    root = people.headers("root1")
    site = "http://codetune.test"
    asked = [
        httpx.Request("DELETE", f"{site}/api/v1/tokens/x%00y", headers=root),
        httpx.Request("PATCH", f"{site}/api/v1/users/x%00y", headers=root, json={}),
        httpx.Request("PUT", f"{site}/api/v1/teams/%00/members/%00", headers=root),
        httpx.Request("POST", f"{site}/api/v1/tokens", headers=root, json={"name": "a\0b"}),
        httpx.Request("POST", f"{site}/api/v1/users", headers=root, json={"name": "a\0b"}),
        httpx.Request("GET", f"{site}/api/v1/audit?actor=%00", headers=root),
        httpx.Request("POST", f"{site}/token", data={"username": "a\0b", "password": "x\0"}),
        httpx.Request("GET", f"{site}/api/v1/me", headers={b"X-API-Key": b"ct_\xff"}),
    ]
    for answer in call(app, *asked):
        assert answer.status_code in (200, 201, 401, 404, 422), (answer.request.url, answer.text)


def test_the_openapi_document_names_every_status_of_accounts(app: FastAPI) -> None:
    paths = app.openapi()["paths"]
    for path in ("/register/", "/token", "/api/v1/tokens", "/api/v1/users", "/api/v1/audit"):
        for operation in paths[path].values():
            assert {"401", "403", "422", "429", "503"} <= set(operation["responses"])


@pytest.mark.parametrize("as_form", [True, False])
def test_on_ones_own_machine_anybody_registers_and_logs_in(
    completer: Completer, nobody: Logins, as_form: bool
) -> None:
    app = create_app(completer, hosts=["codetune.test"], logins=nobody)
    site, account = "http://codetune.test", {"username": "Zoe", "password": PASSWORD}
    more = {"data": account} if as_form else {"content": json.dumps(account | {"email": "x"})}
    if not as_form:  # as `curl -d` sends it
        more["headers"] = {"Content-Type": "application/x-www-form-urlencoded"}
    made, again, logged = call(
        app,
        httpx.Request("POST", f"{site}/register/", **more),
        httpx.Request("POST", f"{site}/register/", **more),
        httpx.Request("POST", f"{site}/token", data=account),
    )
    assert (made.status_code, made.json()["role"], again.status_code) == (201, "member", 409)
    bearer = {"Authorization": f"Bearer {logged.json()['access_token']}"}
    mine, local = call(app, request("GET", "/api/v1/me", bearer), request("GET", "/api/v1/me", {}))
    assert (mine.json()["name"], local.json()["name"]) == ("zoe", "local")


def test_the_first_administrator_shuts_the_door_of_a_server_that_runs(
    completer: Completer, nobody: Logins, tmp_path: Path
) -> None:
    """Made by a command beside it, and seen within moments; nothing opens it again."""
    models, health = request("GET", "/v1/models", {}), request("GET", "/health", {})
    app = create_app(completer, hosts=["codetune.test"], logins=nobody)
    with Database.open(_url(tmp_path)) as beside:
        assert call(app, models)[0].status_code == 200
        with beside.write() as session:
            users.add_user(session, "bob", PASSWORD)
        time.sleep(1.05)
        assert call(app, models)[0].status_code == 200  # a member cannot administer it
        with beside.write() as session:
            users.add_user(session, "ada", PASSWORD, "admin")
        time.sleep(1.05)
        stream = httpx.Request(
            "POST", "http://codetune.test/v1/completions", json={"prompt": "a", "stream": True}
        )
        register = httpx.Request(
            "POST", "http://codetune.test/register/", json={"username": "z", "password": PASSWORD}
        )
        asked = (stream, models, request("GET", "/api/v1/users", {}), register, health)
        assert [one.status_code for one in call(app, *asked)] == [401, 401, 401, 403, 200]
        with beside.write() as session:
            users.get_user(session, "ada").disabled = True
        time.sleep(1.05)
        assert call(app, models)[0].status_code == 401


def test_the_first_administrator_made_over_http_shuts_the_door_at_once(
    completer: Completer, nobody: Logins
) -> None:
    app = create_app(completer, hosts=["codetune.test"], logins=nobody)
    ada, site = {"name": "ada", "password": PASSWORD}, "http://codetune.test/api/v1/users"
    member = httpx.Request("POST", site, json=ada)
    listed = request("GET", "/api/v1/users", {})
    made, users_then = call(app, member, listed)
    assert (made.status_code, users_then.status_code) == (201, 200)
    role = httpx.Request("PATCH", f"{site}/{made.json()['id']}", json={"role": "admin"})
    assert [one.status_code for one in call(app, role, listed)] == [200, 401]


def test_a_server_without_accounts_whose_database_is_away_says_so(
    completer: Completer, nobody: Logins, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lets nobody in then, since an administrator may have been made."""

    def away() -> None:
        raise StoreError("away")

    app = create_app(completer, hosts=["codetune.test"], logins=nobody)
    monkeypatch.setattr(nobody.database, "session", away)
    models, health = request("GET", "/v1/models", {}), request("GET", "/health", {})
    assert [one.status_code for one in call(app, models, models, health)] == [503, 503, 200]


def test_registering_on_a_server_is_switched_on_by_its_operator(
    completer: Completer, people: People, tmp_path: Path
) -> None:
    logins = Logins(people.logins.database, tmp_path, AccountOptions(registration=True))
    app = create_app(completer, hosts=["codetune.test"], logins=logins)
    body = {"username": "zoe", "password": PASSWORD}
    asked = httpx.Request("POST", "http://codetune.test/register/", json=body)
    assert call(app, asked)[0].json()["role"] == "member"
    assert PASSWORD not in call(app, asked)[0].text
