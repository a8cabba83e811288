"""The queue as its workers use it: claim, heartbeat, report, finish, and take over from the dead.

A job is a row. A worker owns it while its lease lasts, and proves that it is still the owner by
the number of its claim, which every claim raises: what a worker says that has lost its job in
between changes nothing. Each method is one transaction.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, and_, delete, func, or_, select, update
from sqlalchemy.orm import Session

from codetune.jobs.config import JobOptions
from codetune.jobs.rows import add_event, clock, hold_queue
from codetune.jobs.work import Work
from codetune.store.database import Database
from codetune.store.jobs import Job, JobWorker


@dataclass(frozen=True)
class Claim:
    """A job in a worker's hands; `number` is what makes the claim its own."""

    job: str
    number: int
    attempt: int
    work: Work
    owner: str = ""


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended.

    "succeeded"; "failed": the user can mend it; "crashed"; "lost": with its worker;
    "released": by a worker that was told to end.
    """

    kind: str
    result: Mapping[str, Any] | None = None
    message: str = ""
    advice: str = ""


@dataclass(frozen=True)
class Member:
    """A worker as it enters itself."""

    id: str
    machine: str  # the running kernel that it lives on: there its death is seen at once
    host: str
    pid: int
    slots: int


class Queue:
    """The jobs of one database, from the workers' side."""

    def __init__(self, database: Database, options: JobOptions) -> None:
        self._database, self.options = database, options

    def join(self, member: Member) -> None:
        """Enter a worker."""
        with self._database.write() as session:
            now = clock(session)
            session.add(JobWorker(**vars(member), started=now, seen=now))

    def members(self) -> dict[str, str]:
        """The workers that have entered themselves, with their machines."""
        with self._database.session() as session:
            return {row.id: row.machine for row in session.scalars(select(JobWorker))}

    def leave(self, worker: str) -> None:
        """Strike a worker off; it holds no job any more."""
        with self._database.write() as session:
            session.execute(delete(JobWorker).where(JobWorker.id == worker))

    def claim(self, worker: str) -> Claim | None:
        """Take the job whose turn it is, or None.

        The highest priority first; then the owner with the fewest running jobs, with the least
        recent work, the oldest job. Who has `max_running` already waits.
        """
        with self._database.write() as session:
            hold_queue(session)
            now = clock(session)
            job = session.execute(self._next(now)).scalar_one_or_none()
            if job is None:
                return None
            job.state, job.worker_id = "running", worker
            job.claim += 1
            job.attempts += 1
            job.leased_until = now + timedelta(seconds=self.options.lease)
            job.started, job.progress = now, {}
            session.flush()
            told = {"state": "running", "attempt": job.attempts}
            add_event(session, job.id, "state", told, now)
            work = Work(**{**job.parameters, "kind": job.kind, "collected": job.collected})
            return Claim(job.id, job.claim, job.attempts, work, job.owner_id)

    def beat(self, worker: str, claims: Sequence[Claim]) -> list[Claim]:
        """Renew the leases of `claims`; returns those that are no longer the worker's."""
        with self._database.write() as session:
            now = clock(session)
            session.execute(update(JobWorker).where(JobWorker.id == worker).values(seen=now))
            lease = now + timedelta(seconds=self.options.lease)
            return [claim for claim in claims if not _own(session, claim, leased_until=lease)]

    def cancelled(self, claims: Sequence[Claim]) -> set[str]:
        """The jobs among `claims` that someone wants cancelled."""
        if not claims:
            return set()
        asked = select(Job.id).where(
            Job.id.in_([claim.job for claim in claims]), Job.cancel_requested.is_not(None)
        )
        with self._database.session() as session:
            return set(session.execute(asked).scalars())

    def report(
        self,
        claim: Claim,
        *,
        progress: Mapping[str, Any] | None = None,
        events: Iterable[tuple[str, Mapping[str, Any]]] = (),
        ground: tuple[int, int] | None = None,
        collected: str | None = None,
    ) -> bool:
        """Write down what a child has told; False when the job is no longer the worker's.

        `ground` is what the next attempt need not do again. With more of it than ever before,
        the crashes and losses so far no longer count. `collected` is the source's artifact.
        """
        values: dict[str, Any] = {}
        if progress is not None:
            values["progress"] = dict(progress)
        if collected is not None:
            values["collected"] = collected
        with self._database.write() as session:
            if not _own(session, claim, **values):
                return False
            if ground is not None:
                _gain(session, claim.job, *ground)
            now = clock(session)
            for kind, data in events:
                add_event(session, claim.job, kind, data, now)
            return True

    def finish(self, claim: Claim, outcome: Outcome) -> str | None:
        """Settle an attempt; the job's state from now on, or None if it is another's by now."""
        with self._database.write() as session:
            if not _own(session, claim):
                return None
            return self._settle(session, claim.job, outcome)

    def reap(self, is_dead: Callable[[str, str], bool]) -> list[str]:
        """Take over from workers that are gone; returns the jobs that they held.

        Gone is a worker whose lease is over, or that `is_dead(worker, machine)` knows of.
        """
        gone = [worker for worker, where in self.members().items() if is_dead(worker, where)]
        with self._database.write() as session:
            hold_queue(session)
            now = clock(session)
            lost = select(Job.id).where(
                Job.state == "running", or_(Job.leased_until < now, Job.worker_id.in_(gone))
            )
            found = list(session.execute(lost.with_for_update(skip_locked=True)).scalars())
            for job in found:
                self._settle(session, job, Outcome("lost"))
            silent = now - timedelta(seconds=10 * self.options.lease)
            session.execute(
                delete(JobWorker).where(or_(JobWorker.id.in_(gone), JobWorker.seen < silent))
            )
            return found

    def _next(self, now: datetime) -> Select[Job]:
        """The statement that finds whose turn it is."""
        since = now - timedelta(seconds=self.options.fair_window)
        running = (
            select(Job.owner_id, func.count().label("jobs"))
            .where(Job.state == "running")
            .group_by(Job.owner_id)
            .subquery()
        )
        recent = (
            select(Job.owner_id, func.sum(Job.worked).label("seconds"))
            .where(Job.started > since)
            .group_by(Job.owner_id)
            .subquery()
        )
        count = func.coalesce(running.c.jobs, 0)
        return (
            select(Job)
            .outerjoin(running, running.c.owner_id == Job.owner_id)
            .outerjoin(recent, recent.c.owner_id == Job.owner_id)
            .where(Job.state == "queued", Job.not_before <= now, count < self.options.max_running)
            .order_by(
                Job.priority.desc(),
                count,
                func.coalesce(recent.c.seconds, 0.0),
                Job.created,
                Job.id,
            )
            .limit(1)
            # A row that someone is changing at this moment is passed over, not waited for.
            .with_for_update(of=Job, skip_locked=True)
        )

    def _settle(self, session: Session, name: str, outcome: Outcome) -> str:
        """Write down how an attempt ended; the caller owns the row."""
        job = session.execute(
            select(Job).where(Job.id == name).execution_options(populate_existing=True)
        ).scalar_one()
        now = clock(session)
        self._judge(job, outcome, now)
        job.worker_id = job.leased_until = None
        if job.started is not None:
            job.worked += (now - job.started).total_seconds()
        if job.state != "queued":
            job.finished = now
        session.flush()
        told = {"state": job.state, "after": outcome.kind, "error": job.error}
        add_event(session, name, "state", told, now)
        return job.state

    def _judge(self, job: Job, outcome: Outcome, now: datetime) -> None:
        """The state that follows `outcome`, and the reason why."""
        job.state, job.error = "queued", None
        job.not_before = now
        if outcome.kind == "succeeded":
            job.state, job.result = "succeeded", dict(outcome.result or {})
        elif job.cancel_requested is not None:
            job.state = "cancelled"
        elif outcome.kind == "failed":
            _fail(job, "failed", outcome.message, outcome.advice)
        elif outcome.kind == "released":
            job.attempts -= 1  # the worker's wish, not the job's fault
        elif outcome.kind == "lost":
            job.losses += 1
            if job.losses >= self.options.max_losses:
                message = f"Its worker was lost {job.losses} times without new ground."
                _fail(job, "lost", message, "Look at the log and at the machine, then retry it.")
        else:
            self._judge_crash(job, outcome, now)

    def _judge_crash(self, job: Job, outcome: Outcome, now: datetime) -> None:
        options = self.options
        job.crashes += 1
        if job.crashes >= options.max_crashes:
            message = f"It crashed {job.crashes} times without new ground. {outcome.message}"
            _fail(job, "crashed", message, "Look at the log, then retry it.")
            return
        wait = min(options.backoff * 2 ** (job.crashes - 1), options.max_backoff)
        wait *= 1 + random.random() / 10  # so that jobs that fell together do not again
        job.not_before = now + timedelta(seconds=wait)
        job.error = _reason("crashed", outcome.message, "It is tried again.")


def _fail(job: Job, reason: str, message: str, advice: str) -> None:
    job.state, job.error = "failed", _reason(reason, message, advice)


def _reason(reason: str, message: str, advice: str) -> dict[str, Any]:
    return {"reason": reason, "message": message, "advice": advice}


def _own(session: Session, claim: Claim, **values: Any) -> bool:
    """Whether the claim still holds; `values` are written if it does. Locks the row."""
    owned = session.execute(
        update(Job)
        .where(Job.id == claim.job, Job.claim == claim.number, Job.state == "running")
        .values(**(values or {"claim": claim.number}))
        .returning(Job.id)
    )
    return owned.first() is not None


def _gain(session: Session, job: str, stage: int, step: int) -> None:
    further = or_(Job.ground_stage < stage, and_(Job.ground_stage == stage, Job.ground_step < step))
    session.execute(
        update(Job)
        .where(Job.id == job, further)
        .values(ground_stage=stage, ground_step=step, crashes=0, losses=0)
    )
