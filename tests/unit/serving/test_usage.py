"""Usage is added up beside the answers, and written to either database without a loss."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from sqlalchemy import text

from codetune.serving.usage import Asked, UsageBook
from codetune.store.database import Database
from codetune.store.usage import Usage
from codetune.store.users import LOCAL_USER, User

ONE = Asked(requests=1, prompt_tokens=10, completion_tokens=4, seconds=0.5)


def rows(database: Database) -> dict[tuple[str, str], tuple[int, int, int, float]]:
    with database.session() as session:
        return {
            (row.owner_id, row.model): (
                row.requests,
                row.prompt_tokens,
                row.completion_tokens,
                row.seconds,
            )
            for row in session.query(Usage)
        }


def test_two_servers_add_to_the_same_rows(database: Database) -> None:
    """Many threads count while both write; what is in the database is the sum."""
    with UsageBook(database, every=0.01) as one, UsageBook(database, every=0.01) as other:

        def count(book: UsageBook) -> None:
            for number in range(300):
                book.add(LOCAL_USER, f"model-{number % 3}", ONE)

        threads = [threading.Thread(target=count, args=(b,)) for b in (one, other, one, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert rows(database) == {
        (LOCAL_USER, f"model-{n}"): (400, 4000, 1600, 200.0) for n in range(3)
    }


def test_what_the_database_does_not_take_waits(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    book = UsageBook(database, every=3600)
    with database.connection() as connection, connection.begin():
        connection.execute(text("ALTER TABLE usage RENAME TO away"))
    with book:
        for _ in range(2):
            book.add(LOCAL_USER, "nano", ONE)
            assert not book.flush()
        assert len(caplog.records) == 1, "said once"
        with database.connection() as connection, connection.begin():
            connection.execute(text("ALTER TABLE away RENAME TO usage"))
        book.add(LOCAL_USER, "nano", ONE)
    assert rows(database) == {(LOCAL_USER, "nano"): (3, 30, 12, 1.5)}


def test_whoever_is_gone_keeps_nobody_elses_from_being_written(database: Database) -> None:
    with database.write() as session:
        session.add(User(id="usr_ada", name="ada"))
    with UsageBook(database, every=3600) as book:
        for owner in ("usr_ada", LOCAL_USER):
            book.add(owner, "nano", ONE)
        with database.write() as session:
            session.delete(session.get_one(User, "usr_ada"))
    assert set(rows(database)) == {(LOCAL_USER, "nano")}


def test_names_that_clients_make_fit(database: Database) -> None:
    """A remote engine's model is called what the client likes; many of them are written, too."""
    with UsageBook(database, every=3600) as book:
        book.add(LOCAL_USER, "remote:there/" + "x\0" * 1000, ONE)
        for number in range(1200):
            book.add(LOCAL_USER, f"remote:there/{number}", ONE)
    found = rows(database)
    assert len(found) == 1201
    assert max(len(model) for _, model in found) == 128


def test_it_is_written_every_few_seconds_too(tmp_path: Path) -> None:
    """A server that is killed forgets little."""
    with Database.open(f"sqlite:///{tmp_path / 'codetune.db'}") as database:
        with UsageBook(database, every=0.01) as book:
            book.add(LOCAL_USER, "nano", ONE)
            while not rows(database):
                pass
        assert rows(database) == {(LOCAL_USER, "nano"): (1, 10, 4, 0.5)}
