"""The rows of a database as lines of JSON, and back: the same lines for SQLite and PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, Connection, Date, DateTime, MetaData, Table, func, insert, select, text
from sqlalchemy.orm import Session

from codetune.errors import StoreError
from codetune.store.database import Database
from codetune.store.datasets import Dataset
from codetune.store.schema import configuration, version_of, versions
from codetune.store.sources import Source
from codetune.store.tables import METADATA
from codetune.store.users import LOCAL_USER, User

SENT = ("datasets", "uploads")  # folders of the home; a row's location begins with its own
_AT_ONCE = 500  # rows of one statement
# What a new database has, too, or what may be lost: they do not make one a database in use.
_LITTLE = frozenset({"users", "alembic_version", "login_failures", "audit", "job_workers"})


def snapshot(session: Session) -> str:
    """Begin to see the database as it is now, to the session's end; its schema's version."""
    found = version_of(session.connection())
    assert found is not None, "it has been opened, so it has tables"
    return found


def dump(session: Session, folder: Path) -> list[Path]:
    """Write each table's rows to `folder`/<table>.jsonl, as the session's transaction sees them."""
    made = []
    for table in METADATA.sorted_tables:
        path = folder / f"{table.name}.jsonl"
        with path.open("x", encoding="utf-8") as file:
            rows = session.execute(select(table), execution_options={"yield_per": _AT_ONCE})
            for row in rows.mappings():
                file.write(json.dumps(dict(row), default=_plain, ensure_ascii=False) + "\n")
        made.append(path)
    return made


def sent_folders(session: Session) -> set[str]:
    """The folders below the home that rows refer to: what people have sent."""
    places = [*session.scalars(select(Dataset.location)), *session.scalars(select(Source.location))]
    parts = [place.split("/") for place in places]
    return {"/".join(part[:2]) for part in parts if part[0] in SENT and len(part) > 1}


def is_in_use(session: Session) -> bool:
    """Has anybody an account, or is there anything that belongs to somebody?"""
    if session.scalar(select(func.count()).select_from(User).where(User.id != LOCAL_USER)):
        return True
    return any(
        session.execute(select(table).limit(1)).first() is not None
        for table in METADATA.sorted_tables
        if table.name not in _LITTLE
    )


def load(database: Database, folder: Path, version: str, before_commit: Iterator[None]) -> None:
    """Replace everything in the database by the lines in `folder`, or leave it as it was.

    The tables are made as they were at `version`, filled, and brought up to date.
    `before_commit` is advanced once, when all rows are in.

    Raises:
        StoreError: a newer version made the lines, or they do not fit together.
    """
    if version not in versions():
        raise StoreError(
            f"The backup is of a newer codetune (schema {version}; this one knows up to "
            f"{versions()[-1]}).",
            advice="Install that version, and restore again.",
        )
    from alembic import command

    with database.connection() as connection:
        if database.is_sqlite:  # see `migrate`
            connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
            connection.rollback()
        try:
            with connection.begin():
                old = MetaData()
                old.reflect(connection)
                old.drop_all(connection)
                command.upgrade(configuration(connection), version)
                tables = MetaData()
                tables.reflect(connection)
                for table in tables.tables.values():
                    for column in table.columns:
                        if isinstance(column.type, JSON):
                            column.type.none_as_null = True
                _fill(connection, tables, folder)
                command.upgrade(configuration(connection), "head")
                if (
                    database.is_sqlite
                    and connection.exec_driver_sql("PRAGMA foreign_key_check").first()
                ):
                    raise StoreError("The backup's rows refer to rows that it does not have.")
                next(before_commit)
        finally:
            connection.invalidate()  # with its pragmas


def _fill(connection: Connection, tables: MetaData, folder: Path) -> None:
    filled = [table for table in tables.sorted_tables if table.name != "alembic_version"]
    for table in reversed(filled):
        connection.execute(table.delete())  # the rows that the migrations made
    for table in filled:
        path = folder / f"{table.name}.jsonl"
        if not path.exists():
            raise StoreError(f"The backup does not have the table {table.name}.")
        with path.open(encoding="utf-8") as lines:
            rows = _rows(table, lines)
            while some := list(islice(rows, _AT_ONCE)):
                connection.execute(insert(table), some)
        if connection.dialect.name == "postgresql":
            _count_on(connection, table)


def _rows(table: Table, lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, 1):
        try:
            values = json.loads(line)
            yield {
                column.name: _typed(column.type, values[column.name]) for column in table.columns
            }
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"The backup's table {table.name}, row {number}, cannot be read: {error}."
            ) from error


def _typed(kind: Any, value: Any) -> Any:
    if isinstance(value, str) and isinstance(kind, DateTime):
        moment = datetime.fromisoformat(value).astimezone(UTC)
        return moment if kind.timezone else moment.replace(tzinfo=None)
    if isinstance(value, str) and isinstance(kind, Date):
        return date.fromisoformat(value)
    return value


def _count_on(connection: Connection, table: Table) -> None:
    """PostgreSQL's counters go on after the highest number that came in."""
    for column in table.primary_key.columns:
        named = {"table": table.name, "column": column.name}
        sequence = connection.scalar(text("SELECT pg_get_serial_sequence(:table, :column)"), named)
        if sequence is not None:
            highest = connection.scalar(select(func.max(column)))
            connection.execute(
                text("SELECT setval(:sequence, :highest, :used)"),
                {"sequence": sequence, "highest": highest or 1, "used": highest is not None},
            )


def _plain(value: Any) -> str:
    if isinstance(value, datetime | date):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} in the database")
