"""The database: one schema on both kinds, transactions that hold, errors with a name."""

from __future__ import annotations

import sqlite3
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from codetune.artifacts import home
from codetune.errors import ConfigError, ConflictError, StoreError
from codetune.store.database import FILE, VARIABLE, Database
from codetune.store.schema import configuration, versions
from codetune.store.usage import Usage
from codetune.store.users import LOCAL_USER, User
from tests.databases import new_database


def test_the_tables_in_the_code_are_those_that_the_migrations_make(database: Database) -> None:
    from alembic import command

    with database.connection() as connection:
        command.check(configuration(connection))


def test_it_knows_the_local_user_and_times_keep_their_zone(database: Database) -> None:
    with database.session() as session:
        user = session.get_one(User, LOCAL_USER)
    assert (user.name, user.role, user.password_hash) == ("local", "admin", None)
    assert user.created.tzinfo is UTC
    assert abs((datetime.now(UTC) - user.created).total_seconds()) < 3600


def test_opened_again_it_is_left_as_it_is(database: Database) -> None:
    with database.write() as session:
        session.add(User(name="ada"))
    with Database.open(database.secret_url) as again, again.session() as session:
        assert {user.name for user in session.query(User)} == {"local", "ada"}


def test_a_newer_database_is_refused_and_not_touched(database: Database) -> None:
    with database.connection() as connection, connection.begin():
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreError, match="newer codetune: its schema is 9999"):
        Database.open(database.secret_url)
    with database.connection() as connection:
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == "9999"


def test_a_migration_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'new.db'}"
    with monkeypatch.context() as patch:
        patch.setattr("codetune.store.base.now", lambda: None)
        patch.setattr("alembic.op.bulk_insert", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            Database.open(url)
    assert sqlite3.connect(tmp_path / "new.db").execute(
        "SELECT count(*) FROM sqlite_master"
    ).fetchone() == (0,)
    Database.open(url).close()


def test_a_write_happens_as_a_whole_or_not_at_all(database: Database) -> None:
    with pytest.raises(RuntimeError), database.write() as session:
        session.add(User(name="ada"))
        session.flush()
        raise RuntimeError
    with pytest.raises(ConflictError), database.write() as session:
        session.add(User(name="bob"))
        session.flush()
        session.add(User(name="local"))
    with database.session() as session:
        assert [user.name for user in session.query(User)] == ["local"]


def test_half_a_surrogate_pair_is_neither_kept_nor_looked_for(database: Database) -> None:
    with pytest.raises(ConfigError, match="surrogate"), database.write() as session:
        session.add(User(name="\ud800"))
    with pytest.raises(ConfigError, match="surrogate"), database.session() as session:
        session.get(User, "\ud800")


def test_a_reader_cannot_write(database: Database) -> None:
    with pytest.raises(StoreError, match=r"read-?only"), database.session() as session:
        session.add(User(name="ada"))
        session.commit()


def test_readers_see_one_state_and_writers_take_turns(database: Database) -> None:
    def add_one() -> None:
        with database.write() as session:
            user = session.get_one(User, LOCAL_USER, with_for_update=True)
            user.epoch += 1

    with database.session() as reader:
        before = reader.scalar(text("SELECT epoch FROM users"))
        threads = [threading.Thread(target=add_one) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert reader.scalar(text("SELECT epoch FROM users")) == before
    with database.session() as session:
        assert session.get_one(User, LOCAL_USER).epoch == 16


@pytest.mark.parametrize(
    "url", ["mysql://u:hidden@h/x", "sqlite://", "sqlite:///:memory:", "hidden", "http://hidden/x"]
)
def test_other_urls_are_refused_without_saying_them(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Database.open(url)
    assert "hidden" not in str(caught.value)


def test_an_unreachable_server_is_named_without_its_password() -> None:
    with pytest.raises(StoreError, match="cannot be used") as caught:
        Database.open("postgresql://codetune:hidden@127.0.0.1:1/codetune")
    assert "hidden" not in str(caught.value)


def test_no_password_is_shown_wherever_it_stands() -> None:
    urls = ("postgresql://u:hidden@h/x", "postgresql://u@h/x?password=hidden&sslmode=require")
    shown = [Database(create_engine(url.replace(":", "+psycopg:", 1))).url for url in urls]
    assert shown == ["postgresql://u:***@h/x", "postgresql://u@h/x?sslmode=require"]


def test_a_home_whose_server_used_another_database_has_to_be_told_which(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODETUNE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv(VARIABLE, raising=False)
    home().mkdir()
    database.bind()
    with pytest.raises(ConfigError, match="is not set") as caught:
        Database.open()
    assert database.url in str(caught.value)
    assert not (home() / FILE).exists()
    monkeypatch.setenv(VARIABLE, database.secret_url)
    Database.open().close()
    monkeypatch.setenv(VARIABLE, "")  # a server in the folder itself, from now on
    with Database.open() as own:
        own.bind()
    monkeypatch.delenv(VARIABLE)
    Database.open().close()


def test_versions_are_numbered_without_a_gap() -> None:
    assert list(versions()) == [f"{n:04d}" for n in range(1, len(versions()) + 1)]


def test_usage_of_an_earlier_version_is_kept(database: Database) -> None:
    """Its rows get zeros for what nobody counted then."""
    from alembic import command

    added = ("cancelled", "seconds", "first_seconds", "answered")
    with database.connection() as connection, connection.begin():
        for column in added:
            connection.execute(text(f"ALTER TABLE usage DROP COLUMN {column}"))
        command.stamp(configuration(connection), "0001")
        connection.execute(
            text("INSERT INTO usage VALUES ('2026-01-01', :owner, 'nano', 2, 30, 4)"),
            {"owner": LOCAL_USER},
        )
    with Database.open(database.secret_url) as later, later.session() as session:
        row = session.query(Usage).one()
    assert (row.requests, row.prompt_tokens, row.completion_tokens) == (2, 30, 4)
    assert [getattr(row, column) for column in added] == [0, 0.0, 0.0, 0]


def test_who_falls_asleep_in_a_transaction_loses_it_and_its_locks(postgres: str) -> None:
    """A suspended machine must not keep all others from claiming jobs until it wakes up."""
    with new_database(postgres) as url:
        with Database.open(url) as usual, usual.session() as session:
            assert session.scalar(text("SHOW idle_in_transaction_session_timeout")) == "30s"
        soon = f"{url}&options=-c%20idle_in_transaction_session_timeout%3D300"
        with Database.open(soon) as asleep, Database.open(url) as awake:
            with pytest.raises(StoreError), asleep.write() as session:
                asleep.turn(session, "queue")
                session.add(User(name="ada"))
                session.flush()
                with awake.write() as other:
                    awake.turn(other, "queue")  # waits for the sleeper
                    other.add(User(name="bob"))
            with asleep.write() as session:  # the next one has a new connection
                session.add(User(name="cleo"))
            with awake.session() as session:
                names = {user.name for user in session.query(User)}
        assert names == {"local", "bob", "cleo"}
