"""Jobs as people use them: submit, look, follow, cancel, try again.

Every function takes the actor and asks the one authorisation function; a job that is not the
actor's is not there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import func, select, text, tuple_
from sqlalchemy.orm import Session

from codetune.accounts.users import actor_of, as_of_now
from codetune.artifacts import home as default_home
from codetune.errors import BadRequestError, ConflictError, NotFoundError, QuotaError
from codetune.jobs.config import JobOptions
from codetune.jobs.follow import Event, place_of, read_on
from codetune.jobs.limits import checked
from codetune.jobs.process import LOG
from codetune.jobs.rows import add_event, clock, is_sqlite
from codetune.jobs.work import DELIVERIES, KINDS, Work
from codetune.project import ProjectConfig
from codetune.registry.access import Action, Actor, readable, require, require_role
from codetune.registry.cards import Registry
from codetune.registry.ownership import Owners, claim
from codetune.sources.identity import without_credentials
from codetune.store.database import Database
from codetune.store.jobs import ENDED, STATES, Job, JobWorker
from codetune.store.users import User
from codetune.tracing import REQUEST_ID

POLL = 0.3  # seconds between two looks for news of a job that is followed
PING = 15.0  # seconds of silence after which a follower is told that the line still stands
# Of work: what is not kept in a job's parameters.
_NOT_KEPT = ("kind", "collected", "token", "foreign_base", "sites")
_ALIVE = 60.0  # seconds since a worker was heard of


@dataclass(frozen=True)
class Page:
    """A part of a list; `next` goes into `after` for the part that follows."""

    jobs: Sequence[Job]
    next: str | None


class Jobs:
    """The jobs of one database and home, for those who wait for them."""

    def __init__(
        self, database: Database, options: JobOptions | None = None, home: Path | None = None
    ) -> None:
        self._database, self.options = database, options or JobOptions()
        self.home = home or default_home()

    def submit(
        self,
        actor: Actor,
        kind: str,
        source: str,
        config: ProjectConfig,
        *,
        priority: int = 0,
        folder: Path | None = None,
        granted: Sequence[str] = (),
    ) -> Job:
        """Put a job into the queue.

        Args:
            kind: one of `work.KINDS`.
            source: an address; or a path, which is looked for in `folder`.
            priority: higher comes first; above 0 only for who manages the server.
            granted: paths of the server that the caller has found to be the actor's to read.

        Raises:
            ForbiddenError, NotFoundError: the actor may not do this, or not with that base.
            ConfigError, UnsafeSourceError: it cannot be done, or reads what is not the actor's.
            ConflictError: the model's name is somebody else's.
            QuotaError: the actor has as many jobs waiting as they may.
        """
        require_role(actor, "create")
        work = checked(
            actor,
            kind,
            source,
            config,
            self.options.model_copy(update={"roots": (*self.options.roots, *granted)}),
            registry=Registry(self.home),
            owners=Owners(self._database),
            folder=folder,
        )
        return self.enqueue(actor, work, priority=priority)

    def enqueue(self, actor: Actor, work: Work, *, priority: int = 0) -> Job:
        """Put work into the queue whose paths and names the caller has found to be the actor's.

        Raises:
            ForbiddenError: the actor may not have jobs, or not before others.
            ConflictError: the model's name is somebody else's.
            QuotaError: the actor has as many jobs waiting as they may.
        """
        require_role(actor, "create")
        if priority > 0:
            require_role(actor, "manage")
        parameters = {k: v for k, v in asdict(work).items() if k not in _NOT_KEPT}
        with self._database.write() as session:
            _hold_owner(session, actor.id)
            self._check_quota(session, actor.id)
            name = work.config.get("name")
            if work.kind == "tune" and name is not None:
                claim(session, actor, name)
            now = clock(session)
            job = Job(
                kind=work.kind,
                owner_id=actor.id,
                parameters=parameters,
                priority=priority,
                created=now,
                not_before=now,
            )
            session.add(job)
            session.flush()
            asked = {"request_id": request} if (request := REQUEST_ID.get()) else {}
            add_event(session, job.id, "state", {"state": "queued", **asked}, now)
            return job

    def get(self, actor: Actor | None, job_id: str) -> Job:
        """One job.

        Raises:
            NotFoundError: there is none, or it is not the actor's.
        """
        with self._database.session() as session:
            job = require(actor, "read", session.get(Job, job_id), f"job '{job_id}'")
        assert job is not None
        return job

    def list(
        self,
        actor: Actor | None,
        *,
        state: str | None = None,
        kind: str | None = None,
        owner: str | None = None,
        limit: int = 50,
        after: str | None = None,
    ) -> Page:
        """The jobs that the actor may see, newest first.

        Raises:
            BadRequestError: there is no such state or kind.
            NotFoundError: `after` is no job of theirs.
        """
        _check_known("state", state, STATES)
        _check_known("kind", kind, KINDS)
        found = select(Job).where(readable(actor, Job))
        for column, value in ((Job.state, state), (Job.kind, kind), (Job.owner_id, owner)):
            if value is not None:
                found = found.where(column == value)
        if after is not None:
            last = self.get(actor, after)
            found = found.where(tuple_(Job.created, Job.id) < (last.created, last.id))
        found = found.order_by(Job.created.desc(), Job.id.desc()).limit(limit + 1)
        with self._database.session() as session:
            jobs = session.scalars(found).all()
        more = len(jobs) > limit
        return Page(jobs[:limit], jobs[limit - 1].id if more else None)

    def cancel(self, actor: Actor | None, job_id: str) -> Job:
        """Cancel a job: at once if it waits, within five seconds if it runs.

        Raises:
            NotFoundError, ForbiddenError: it is not the actor's.
            ConflictError: it has ended otherwise.
        """
        with self._database.write() as session:
            job = _held(session, actor, "write", job_id)
            if job.state in ("succeeded", "failed"):
                raise ConflictError(f"The job {job_id} has {job.state} already.")
            now = clock(session)
            if job.state == "running":
                job.cancel_requested = job.cancel_requested or now
            elif job.state == "queued":
                job.state, job.cancel_requested, job.finished = "cancelled", now, now
                session.flush()
                add_event(session, job_id, "state", {"state": "cancelled"}, now)
            return job

    def retry(self, actor: Actor | None, job_id: str) -> Job:
        """Queue a job again that failed or was cancelled; it goes on where it stopped.

        Raises:
            NotFoundError, ForbiddenError: it is not the actor's.
            ConflictError: it has not failed.
            QuotaError: its owner has as many jobs waiting as they may.
            CodetuneError: its owner could not submit it now, as `submit` says.
        """
        owner = self._check_again(self.get(actor, job_id))
        with self._database.write() as session:
            job = _held(session, actor, "write", job_id)
            if job.state not in ("failed", "cancelled"):
                raise ConflictError(
                    f"The job {job_id} is {job.state}.",
                    advice="Only a failed or cancelled job can be tried again.",
                )
            _hold_owner(session, job.owner_id)
            self._check_quota(session, job.owner_id)
            name = job.parameters.get("config", {}).get("name")
            if job.kind == "tune" and name is not None:
                claim(session, owner, name)
            now = clock(session)
            job.state, job.not_before, job.finished = "queued", now, None
            job.cancel_requested = job.error = None
            job.crashes = job.losses = 0
            session.flush()
            add_event(session, job_id, "state", {"state": "queued"}, now)
            return job

    def follow(self, actor: Actor | None, job_id: str, after: str | None = None) -> Iterator[Event]:
        """What has happened to a job and what happens, until it has ended.

        `after` is the id of the last event that is known; see `watch` for a server's loop.

        Raises:
            NotFoundError: there is no such job of the actor's.
            BadRequestError: `after` is no event's id.
        """
        place = place_of(after)
        while True:
            events, over = self._read(actor, job_id, str(place))
            yield from events
            if over:
                return
            if events:
                place = place_of(events[-1].id)
            else:
                time.sleep(POLL)

    async def watch(
        self,
        actor: Actor | None,
        job_id: str,
        after: str | None = None,
        *,
        ending: Callable[[], bool] = lambda: False,
    ) -> AsyncIterator[Event]:
        """The same without a thread for each who waits, and with a "ping" in long silences.

        The actor's right is asked anew each time: who loses it hears no more. Nobody does when
        it is `ending`.
        """
        place, silent = place_of(after), time.monotonic()
        while not ending():
            events, over = await asyncio.to_thread(self._read, actor, job_id, str(place))
            for event in events:
                yield event
            if over:
                return
            if events:
                place, silent = place_of(events[-1].id), time.monotonic()
                continue
            if time.monotonic() - silent > PING:
                silent = time.monotonic()
                yield Event(str(place), "ping", {})
            await asyncio.sleep(POLL)

    def log(self, actor: Actor | None, job_id: str) -> str:
        """All that a job has printed so far."""
        self.get(actor, job_id)
        path = self.home / "jobs" / job_id / LOG
        return path.read_text(errors="replace") if path.exists() else ""

    def workers(self) -> Sequence[JobWorker]:
        """The workers that were heard of within the last minute."""
        with self._database.session() as session:
            return living(session)

    def owners(self, jobs: Iterable[Job]) -> dict[str, str]:
        """The names of the jobs' owners by their ids."""
        wanted = select(User).where(User.id.in_({job.owner_id for job in jobs}))
        with self._database.session() as session:
            return {user.id: user.name for user in session.scalars(wanted)}

    def _read(self, actor: Actor | None, job_id: str, after: str) -> tuple[Sequence[Event], bool]:
        try:
            with self._database.session() as session:
                present = actor and as_of_now(session, actor)
            self.get(present, job_id)
        except NotFoundError:
            self.get(actor, job_id)  # who never could see it is told so
            return (), True
        return read_on(self._database, self.home / "jobs" / job_id, job_id, place_of(after))

    def _check_again(self, job: Job) -> Actor:
        """The owner of a job, if they could still submit it."""
        with self._database.session() as session:
            owner = actor_of(session, session.get_one(User, job.owner_id))
        if owner.is_local or job.kind in DELIVERIES:
            return owner
        require_role(owner, "create")
        # What was sent was found to be the owner's when the job was submitted.
        sent = (str(self.home / "uploads"), str(self.home / "datasets"))
        checked(
            owner,
            job.kind,
            job.parameters["source"],
            ProjectConfig.load(job.parameters["config"], "the job's options"),
            self.options.model_copy(update={"roots": (*self.options.roots, *sent)}),
            registry=Registry(self.home),
            owners=Owners(self._database),
            folder=None,
        )
        return owner

    def _check_quota(self, session: Session, owner: str) -> None:
        waiting = session.scalar(
            select(func.count()).where(Job.owner_id == owner, Job.state == "queued")
        )
        if (waiting or 0) >= self.options.max_queued:
            raise QuotaError(
                f"{waiting} jobs are waiting already, which is as many as one user may have.",
                advice="Cancel one, or wait until one is done.",
            )


_PLACES = ("artifact", "report")  # of a result: where it lies on the server


def public(job: Job, owner: str | None = None, *, places: bool = False) -> dict[str, Any]:
    """A job as clients see it: no credentials of the source, and no `places` unless wanted."""
    result = job.result
    if result is not None and not places:
        result = {key: value for key, value in result.items() if key not in _PLACES}
    times = {
        name: value.isoformat(timespec="milliseconds") if value is not None else None
        for name, value in (
            ("created", job.created),
            ("started", job.started),
            ("finished", job.finished),
        )
    }
    return {
        "id": job.id,
        "kind": job.kind,
        "state": job.state,
        "cancelling": job.state == "running" and job.cancel_requested is not None,
        "source": without_credentials(job.parameters.get("source", "")),
        "config": job.parameters.get("config", {}),
        "owner": owner or job.owner_id,
        "priority": job.priority,
        "attempts": job.attempts,
        "progress": job.progress,
        "result": result,
        "error": job.error,
        **times,
    }


def has_ended(job: Job) -> bool:
    return job.state in ENDED


def living(session: Session) -> Sequence[JobWorker]:
    """The workers that were heard of within the last minute."""
    now = clock(session)
    found = session.scalars(select(JobWorker).order_by(JobWorker.started)).all()
    return [worker for worker in found if (now - worker.seen).total_seconds() < _ALIVE]


def _held(session: Session, actor: Actor | None, action: Action, job_id: str) -> Job:
    """The job's row, which nobody else changes until the transaction ends."""
    job = session.scalar(select(Job).where(Job.id == job_id).with_for_update())
    require(actor, action, job, f"job '{job_id}'")
    assert job is not None
    return job


def _hold_owner(session: Session, owner: str) -> None:
    """One submission of an owner at a time: two at once would both see the last free place."""
    if not is_sqlite(session):
        session.execute(
            text("SELECT pg_advisory_xact_lock(hashtextextended(:owner, 3))"), {"owner": owner}
        )


def _check_known(param: str, value: str | None, known: Collection[str]) -> None:
    if value is not None and value not in known:
        raise BadRequestError(
            f"There is no {param} '{value}'.", param=param, advice=f"Known: {', '.join(known)}."
        )
