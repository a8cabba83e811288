"""`codetune users`, `teams`, `backup` and `restore` in a home of their own."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from codetune.accounts.config import AccountOptions
from codetune.accounts.logins import Logins
from codetune.accounts.users import get_user
from codetune.api.server import listen
from codetune.cli.main import cli
from codetune.errors import CodetuneError, ConfigError, ConflictError
from codetune.serving.usage import Asked, UsageBook
from codetune.store.database import Database
from codetune.store.in_use import restoring_to, serving_from
from codetune.store.usage import Usage
from codetune.store.users import LOCAL_USER

Run = Callable[..., Result]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cheap_passwords: None) -> Path:
    monkeypatch.setenv("CODETUNE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CODETUNE_DATABASE", raising=False)
    return tmp_path / "home"


def run(*arguments: str, typed: str = "") -> str:
    result = CliRunner().invoke(cli, arguments, input=typed, standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return result.stdout


def test_usage_is_shown_by_user_model_and_day(home: Path) -> None:
    run("users", "add", "ada", "--no-password")
    with Database.open() as database, UsageBook(database) as book:
        with database.session() as session:
            ada = get_user(session, "ada").id
        for owner in (ada, ada, LOCAL_USER):
            book.add(owner, "shop:1", Asked(1, 1, 10, 4, 0.5, 1, 0.25))
    shown = [line.split() for line in run("users", "usage").splitlines()]
    assert ["ada", "shop:1", "2", "2", "20", "8", "0.500", "0.250"] in shown
    assert shown[-1][:3] == ["local", "shop:1", "1"]
    found = json.loads(run("users", "usage", "--json", "--by-day"))
    assert [row["requests"] for row in found["usage"]] == [2, 1]
    assert found["usage"][0]["day"] == datetime.now(UTC).date().isoformat()
    with Database.open() as database, database.write() as session:
        for row in session.query(Usage):
            row.day -= timedelta(days=7)
    assert json.loads(run("users", "usage", "--json", "--days", "7"))["usage"] == []
    assert len(json.loads(run("users", "usage", "--json", "--days", "8"))["usage"]) == 2


def test_the_first_account_is_an_administrator_and_tokens_work(home: Path) -> None:
    assert "No" not in run("users", "list")
    run("users", "add", "ada", typed="a long password\n")
    run("users", "add", "bob", "--no-password")
    listed = json.loads(run("users", "list", "--json"))["users"]
    assert [(user["name"], user["role"]) for user in listed] == [
        ("ada", "admin"),
        ("bob", "member"),
    ]
    token = run("users", "token", "bob", "--scope", "complete", "--expires", "2w").strip()
    with Database.open() as database:
        logins = Logins(database, home, AccountOptions())
        assert logins.identify(token).scopes == {"complete"}
        run("users", "disable", "bob")
        with pytest.raises(CodetuneError):
            logins.identify(token)
    shown = run("users", "token", "bob", "--list")
    assert token not in shown
    audit = json.loads(run("users", "audit", "--json"))["audit"]
    assert [entry["action"] for entry in audit] == [
        "user.disable",
        "token.add",
        "user.add",
        "user.add",
    ]
    assert all(entry["details"]["system_user"] for entry in audit)


def test_nobody_else_reads_the_database(home: Path) -> None:
    run("users", "add", "ada", "--no-password")
    assert home.stat().st_mode & 0o077 == 0
    for path in home.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["add", "ada"], "There is no password"),
        (["add", "../x", "--no-password"], "cannot be a user's name"),
        (["token", "nobody"], "There is no user 'nobody'"),
        (["disable", "local"], "There is no user 'local'"),
    ],
)
def test_mistakes_are_named(home: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(CodetuneError, match=message):
        run("users", *arguments)


def test_teams_are_made_and_joined(home: Path) -> None:
    run("users", "add", "ada", "--no-password")
    run("teams", "add", "backend")
    run("teams", "join", "backend", "ada")
    listed = json.loads(run("teams", "list", "--json"))["teams"]
    assert listed == [{"name": "backend", "members": ["ada"], "models": []}]
    run("teams", "leave", "backend", "ada")
    assert json.loads(run("teams", "list", "--json"))["teams"][0]["members"] == []


def test_a_backup_comes_back_in_another_home(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("users", "add", "ada", "--no-password")
    file = tmp_path / "b.tar"
    with pytest.raises(ConfigError, match="There is no folder"):
        run("backup", str(tmp_path / "missing" / "b.tar"))
    assert CliRunner().invoke(cli, ["restore", str(file)]).exit_code == 2
    assert "0 model versions" in run("backup", str(file))
    monkeypatch.setenv("CODETUNE_HOME", str(tmp_path / "other"))
    run("restore", str(file))
    rows = sqlite3.connect(tmp_path / "other" / "codetune.db").execute("SELECT name FROM users")
    assert {name for (name,) in rows} == {"local", "ada"}


def test_a_home_in_use_is_not_restored_to_and_one_being_restored_is_not_served(
    home: Path, tmp_path: Path
) -> None:
    file = tmp_path / "b.tar"
    run("backup", str(file))
    run("users", "add", "ada", "--no-password")
    refused = pytest.raises(ConflictError, match="A server or a worker uses")
    with serving_from(home), serving_from(home), refused:
        run("restore", str(file), "--replace")
    with restoring_to(home):
        for command in ("serve", "worker"):
            with pytest.raises(ConflictError, match="being restored"):
                run(command)
    assert "ada" in run("users", "list")
    run("restore", str(file), "--replace")
    assert "ada" not in run("users", "list")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_a_public_address_takes_an_account(host: str) -> None:
    with pytest.raises(ConfigError, match="no account") as caught:
        listen(host, 0)
    assert "codetune users add" in str(caught.value)


def test_with_an_account_a_public_address_is_listened_on() -> None:
    with listen("0.0.0.0", 0, public=True) as listener:
        assert listener.getsockname()[0] == "0.0.0.0"
    with pytest.raises(ConfigError, match="not an IP address"):
        listen("example.org", 0, public=True)
