"""Bringing a database up to this version of codetune."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text

from codetune.errors import StoreError

if TYPE_CHECKING:
    from alembic.config import Config

    from codetune.store.database import Database

_LOCK = 7_203_185_001  # PostgreSQL's advisory lock while the tables change


@cache
def versions() -> tuple[str, ...]:
    """The versions of the schema that this codetune knows, oldest first."""
    folder = resources.files("codetune.store.migrations") / "versions"
    names = (re.match(r"(\d{4})_\w+\.py$", file.name) for file in folder.iterdir())
    return tuple(sorted(match[1] for match in names if match))


def version_of(connection: Connection) -> str | None:
    """The version of the database's schema; None if it is empty."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return found


def migrate(database: Database) -> None:
    """Make the tables, or change them to those of this version; nothing half-done remains.

    Raises:
        StoreError: the database was written by a newer version.
    """
    with database.connection() as connection:
        if _is_current(database, version_of(connection)):
            return
        connection.rollback()
        if database.is_sqlite:
            # A table that SQLite cannot alter is copied and dropped: its rows must not take
            # others with them. What refers to what is checked at the end, instead.
            connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
            connection.rollback()
        try:
            with connection.begin():
                if not database.is_sqlite:
                    connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
                if not _is_current(database, version_of(connection)):  # by another process
                    _upgrade(connection)
                if (
                    database.is_sqlite
                    and connection.exec_driver_sql("PRAGMA foreign_key_check").first()
                ):
                    raise StoreError(
                        f"The database {database.url} refers to rows that it does not have.",
                        advice="Restore a backup: codetune restore FILE",
                    )
        finally:
            connection.invalidate()  # with its pragmas


def is_current(database: Database) -> bool:
    """Whether the schema is this version's just now: another process may have changed it.

    Raises:
        StoreError: the database does not answer, or a newer version has written it.
    """
    with database.session() as session:
        return version_of(session.connection()) == versions()[-1]


def configuration(connection: Connection) -> Config:
    """Alembic's configuration, without an ini file."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "codetune.store:migrations")
    config.attributes["connection"] = connection
    return config


def _upgrade(connection: Connection) -> None:
    from alembic import command

    command.upgrade(configuration(connection), "head")


def _is_current(database: Database, found: str | None) -> bool:
    known = versions()
    if found is not None and found not in known:
        raise StoreError(
            f"The database {database.url} was written by a newer codetune: its schema is "
            f"{found}, and this version knows up to {known[-1]}.",
            advice="Install that version again, or restore a backup that this one made.",
        )
    return found == known[-1]
