"""What every transaction on jobs is made of: the clock, the queue's lock, an event."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select, text, update
from sqlalchemy.orm import Session

from codetune.store.jobs import Job, JobEvent

_QUEUE = 7_203_185_002  # PostgreSQL's advisory lock of whoever shares jobs out


def is_sqlite(session: Session) -> bool:
    return session.get_bind().dialect.name == "sqlite"


def clock(session: Session) -> datetime:
    """The database's time: leases of several machines are measured by one clock."""
    if is_sqlite(session):  # this machine's
        return datetime.now(UTC)
    now: datetime = session.execute(text("SELECT clock_timestamp()")).scalar_one()
    return now


def hold_queue(session: Session) -> None:
    """Be the only one who shares jobs out, to the end of the transaction.

    Two claims at once would both see a user's quota unused. In SQLite a writer is alone anyway.
    """
    if not is_sqlite(session):
        session.execute(text(f"SELECT pg_advisory_xact_lock({_QUEUE})"))


def add_event(session: Session, job: str, kind: str, data: Mapping[str, Any], at: datetime) -> None:
    """Number and keep an event; the job's row is locked until the transaction ends.

    That is why numbers become visible in their order, and a reader who asks for what came after
    one misses none.
    """
    session.execute(update(Job).where(Job.id == job).values(last_event=Job.last_event + 1))
    number = session.execute(select(Job.last_event).where(Job.id == job)).scalar_one()
    session.add(JobEvent(job_id=job, number=number, kind=kind, data=dict(data), at=at))
    session.flush()
