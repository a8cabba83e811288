"""What was written down long ago is forgotten: completions, usage, the audit log.

A batch of rows is one short transaction: nobody waits for a sweep, however much there is to go,
and rows that somebody else holds are left for the next time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, inspect, select, tuple_

from codetune.jobs.config import JobOptions
from codetune.jobs.rows import clock
from codetune.store.audit import AuditEntry
from codetune.store.base import Base
from codetune.store.completions import Completion
from codetune.store.database import Database
from codetune.store.usage import Usage

_AT_ONCE = 500  # rows of one transaction


@dataclass(frozen=True)
class Shelf:
    """A table, the column that says how old a row is, and what that is compared with."""

    table: type[Base]
    age: Any
    moment: Callable[[datetime], Any]


# A completion takes what editors said of it along; a day of usage goes when it is wholly over.
_COMPLETIONS = Shelf(Completion, Completion.at, lambda at: at)
_USAGE = Shelf(Usage, Usage.day, datetime.date)
_AUDIT = Shelf(AuditEntry, AuditEntry.at, lambda at: at)


def forget_old(database: Database, options: JobOptions, at_most: int = _AT_ONCE) -> int:
    """Delete what is older than `options` keep, `at_most` rows of each table; returns how many.

    Call it until it returns 0.

    Raises:
        StoreError: the database cannot be used.
    """
    shelves = (
        (_COMPLETIONS, options.keep_completions),
        (_USAGE, options.keep_usage),
        (_AUDIT, options.keep_audit),
    )
    return sum(_forget(database, shelf, days, at_most) for shelf, days in shelves if days)


def _forget(database: Database, shelf: Shelf, days: float, at_most: int) -> int:
    keys = inspect(shelf.table).primary_key
    with database.session() as session:  # a look that locks nothing: mostly there is nothing
        old = shelf.age < shelf.moment(clock(session) - timedelta(days=days))
        if session.execute(select(*keys).where(old).limit(1)).first() is None:
            return 0
    with database.write() as session:
        batch = select(*keys).where(old).order_by(shelf.age).limit(at_most)
        found = session.execute(batch.with_for_update(skip_locked=True)).all()
        named = tuple_(*keys).in_([tuple(row) for row in found])
        session.execute(delete(shelf.table).where(named), execution_options=_PLAIN)
    return len(found)


_PLAIN = {"synchronize_session": False}  # the session holds no row of the table
