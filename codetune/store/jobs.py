"""Work in the background, what happened to it, and who does it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import CheckConstraint, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from codetune.store.base import ID, NAME, Base, new_id, now
from codetune.store.owned import Owned

STATES = ("queued", "running", "succeeded", "failed", "cancelled")
ENDED = ("succeeded", "failed", "cancelled")


class Job(Owned, Base):
    """One piece of work, as the queue knows it."""

    __tablename__ = "jobs"
    CONSTRAINTS: ClassVar = (
        CheckConstraint(
            "state in ('queued', 'running', 'succeeded', 'failed', 'cancelled')", "state"
        ),
        Index("ix_jobs_queue", "state", "priority", "created"),
        Index("ix_jobs_recent", "owner_id", "started"),
    )

    id: Mapped[str] = mapped_column(ID, primary_key=True, default=lambda: new_id("job"))
    kind: Mapped[str] = mapped_column(String(32), index=True)
    parameters: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(String(16), default="queued")
    priority: Mapped[int] = mapped_column(default=0)  # higher is earlier
    not_before: Mapped[datetime] = mapped_column(default=now)

    # Who has it. Every claim raises its number: what an owner of the past says is not heard.
    worker_id: Mapped[str | None] = mapped_column(ID)
    claim: Mapped[int] = mapped_column(default=0)
    leased_until: Mapped[datetime | None]
    cancel_requested: Mapped[datetime | None]

    # How it went. Crashes and losses count from the last new ground: stages that are finished,
    # and steps of the next one that a checkpoint keeps.
    attempts: Mapped[int] = mapped_column(default=0)
    crashes: Mapped[int] = mapped_column(default=0)
    losses: Mapped[int] = mapped_column(default=0)
    ground_stage: Mapped[int] = mapped_column(default=0)
    ground_step: Mapped[int] = mapped_column(default=0)
    collected: Mapped[str | None]  # the source's artifact: every attempt sees the same source
    progress: Mapped[dict[str, Any]] = mapped_column(default=dict)
    result: Mapped[dict[str, Any] | None]
    error: Mapped[dict[str, Any] | None]
    started: Mapped[datetime | None]  # the last attempt
    finished: Mapped[datetime | None]
    worked: Mapped[float] = mapped_column(default=0.0)  # seconds, over all attempts
    last_event: Mapped[int] = mapped_column(default=0)


class JobEvent(Base):
    """What happened to a job, numbered from 1 without gaps: nobody can miss one."""

    __tablename__ = "job_events"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime] = mapped_column(default=now)
    kind: Mapped[str] = mapped_column(String(32))
    data: Mapped[dict[str, Any]] = mapped_column(default=dict)


class JobWorker(Base):
    """A process that does jobs; `machine` is the running kernel it lives on."""

    __tablename__ = "job_workers"

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    machine: Mapped[str] = mapped_column(NAME)
    host: Mapped[str] = mapped_column(NAME)
    pid: Mapped[int]
    slots: Mapped[int]
    started: Mapped[datetime] = mapped_column(default=now)
    seen: Mapped[datetime] = mapped_column(default=now, index=True)
