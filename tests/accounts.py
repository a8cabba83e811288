"""People for tests: an administrator, a member with a team, a viewer, and somebody outside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from argon2 import PasswordHasher

from codetune.accounts import passwords, teams, tokens, users
from codetune.accounts.config import AccountOptions
from codetune.accounts.logins import Logins
from codetune.registry.access import SCOPES
from codetune.store.database import Database

PASSWORD = "correct horse battery"
NAMES = ("root1", "ada", "bob", "eve", "vic")


@dataclass(frozen=True)
class People:
    """The administrator root1; ada and bob in the team backend; eve outside; vic, a viewer in
    the team. `tokens` have all scopes."""

    logins: Logins
    tokens: dict[str, str]
    ids: dict[str, str]
    team_id: str

    def headers(self, name: str | None) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens[name]}"} if name else {}


@pytest.fixture
def cheap_passwords(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Argon2 with costs that a test can pay."""
    passwords._nobodys.cache_clear()
    monkeypatch.setattr(passwords, "_HASHER", PasswordHasher(1, 8, 1))
    yield
    passwords._nobodys.cache_clear()


@pytest.fixture
def people(database: Database, tmp_path: Path, cheap_passwords: None) -> People:
    """Accounts on SQLite and on PostgreSQL."""
    return populate(database, tmp_path)


def populate(database: Database, home: Path) -> People:
    roles = {"root1": "admin", "vic": "viewer"}
    made: dict[str, str] = {}
    ids: dict[str, str] = {}
    with database.write() as session:
        team = teams.add_team(session, "backend")
        for name in NAMES:
            user = users.add_user(session, name, PASSWORD, roles.get(name, "member"))
            ids[name] = user.id
            made[name] = tokens.make_token(session, user, "test", SCOPES)[1]
            if name in ("ada", "bob", "vic"):
                teams.join(session, team, user)
    return People(Logins(database, home, AccountOptions()), made, ids, team.id)
