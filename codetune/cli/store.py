"""What commands about the database share: its transactions, the audit log, plain tables."""

from __future__ import annotations

import getpass
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


@contextmanager
def reading() -> Iterator[Session]:
    """A session on this machine's database that only reads."""
    from codetune.store.database import Database

    with Database.open() as database, database.session() as session:
        yield session


@contextmanager
def writing() -> Iterator[Session]:
    """One transaction on this machine's database."""
    from codetune.store.database import Database

    with Database.open() as database, database.write() as session:
        yield session


def record(session: Session, action: str, subject: str, **details: Any) -> None:
    """Write an act of the command line down; the log says which user of the system it was."""
    from codetune.accounts import audit
    from codetune.registry.access import LOCAL

    audit.record(session, LOCAL, action, subject, system_user=getpass.getuser(), **details)


def show_rows(rows: Sequence[Mapping[str, Any]], *columns: str) -> None:
    """A table of these columns on the terminal; only the first is never broken into lines."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.replace("_", " "), no_wrap=column == columns[0], overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(row[column])) for column in columns))
    Console().print(table)


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)
