"""Users' secrets at rest: sealed in the database and in backups, with a key beside neither."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import select

from codetune.accounts.secret import SEALING
from codetune.accounts.vault import Vault
from codetune.errors import StoreError
from codetune.registry.backup import back_up
from codetune.store.settings import Setting
from codetune.workspace.workspace import Workspace
from tests.unit.api.management import Office
from tests.unit.api.test_settings import SECRET, push

PATH = "PUT /api/v1/settings/webhook.secret"
OLD = datetime(2026, 1, 2, tzinfo=UTC)


def rows(office: Office) -> list[Setting]:
    with office.people.logins.database.session() as session:
        return list(session.scalars(select(Setting).order_by(Setting.updated)))


def files_hold(folder: Path, text: str) -> list[str]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    return [path.name for path in found if text.encode() in path.read_bytes()]


def test_neither_the_database_nor_a_backup_holds_a_secret(team: Office, tmp_path: Path) -> None:
    team("ada", PATH, 200, json={"value": SECRET})
    (row,) = rows(team)
    assert set(row.value) == {"sealed"} and SECRET not in str(row.value)
    key = team.home / SEALING
    assert key.stat().st_mode & 0o777 == 0o600
    backup = tmp_path / "backup.tar"
    back_up(team.people.logins.database, team.home, backup)
    assert row.value["sealed"].encode() in backup.read_bytes()
    assert files_hold(tmp_path, SECRET) == []
    assert files_hold(tmp_path, key.read_text()) == [SEALING]
    team("bob", PATH, 200, json={"value": SECRET})
    assert len({one.value["sealed"] for one in rows(team)}) == 2, "the same twice looks different"


def test_a_secret_of_an_earlier_version_is_sealed_when_the_server_starts(
    team: Office, tmp_path: Path
) -> None:
    database = team.people.logins.database
    with database.write() as session:
        plain = {"value": {"value": SECRET}, "secret": True, "updated": OLD}
        owner = team.people.ids["ada"]
        session.add(Setting(owner_id=owner, name="webhook.secret", **plain))
    Workspace.of(database, team.home)
    (row,) = rows(team)
    assert set(row.value) == {"sealed"} and row.updated == OLD
    if database.is_sqlite:
        assert files_hold(tmp_path, SECRET) == [], "nor is it in the free space, or in the log"
    Workspace.of(database, team.home)
    assert rows(team)[0].value == row.value
    push(team, 202)


def test_a_row_opens_for_its_owner_alone(team: Office, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody who writes into the database makes nobody's secret another one's."""
    team("ada", PATH, 200, json={"value": SECRET})
    push(team, 202)
    with team.people.logins.database.write() as session:
        row = session.scalars(select(Setting)).one()
        row.owner_id = team.people.ids["bob"]
    with caplog.at_level(logging.ERROR):
        push(team, 401)
    assert "A call of bob's hosts cannot be checked" in caplog.text


def test_without_its_key_a_secret_is_set_again(team: Office) -> None:
    team("ada", PATH, 200, json={"value": SECRET})
    (team.home / SEALING).unlink()
    push(team, 401)
    assert not (team.home / SEALING).exists(), "asking makes no key"
    team("bob", PATH, 200, json={"value": SECRET + "2"})  # another key now
    push(team, 401)
    push(team, 202, secret=SECRET + "2")
    team("ada", PATH, 200, json={"value": SECRET})
    push(team, 202)
    (team.home / SEALING).chmod(0o644)
    answer = team("ada", PATH, 503, json={"value": SECRET})
    assert str(team.home) not in answer.text


def test_what_was_changed_does_not_open(tmp_path: Path) -> None:
    vault = Vault(tmp_path)
    sealed = vault.seal("text", "a")
    assert vault.open(sealed, "a") == "text"
    other = "B" if sealed[-3] == "A" else "A"
    for wrong, purpose in ((sealed, "b"), (sealed[:-3] + other + sealed[-2:], "a"), ("x", "a")):
        with pytest.raises(StoreError, match="does not open"):
            vault.open(wrong, purpose)
