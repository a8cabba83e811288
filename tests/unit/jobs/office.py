"""Jobs of made-up users, put into the queue without asking anyone."""

from __future__ import annotations

import multiprocessing
from datetime import UTC, datetime, timedelta
from typing import Any

from codetune.jobs.config import JobOptions
from codetune.jobs.queue import Claim, Queue
from codetune.store.database import Database
from codetune.store.jobs import Job
from codetune.store.users import User

T0 = datetime(2026, 1, 1, tzinfo=UTC)


class Office:
    """One database with users, a queue, and ways to look at the rows."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._made = 0

    def queue(self, **options: Any) -> Queue:
        return Queue(self.database, JobOptions(**{"backoff": 0.0, **options}))

    def user(self, name: str) -> str:
        with self.database.write() as session:
            if session.get(User, name) is None:
                session.add(User(id=name, name=name))
        return name

    def put(self, owner: str = "anna", **values: Any) -> str:
        """One more job; each is a second younger than the one before."""
        self.user(owner)
        self._made += 1
        with self.database.write() as session:
            job = Job(
                **{
                    "kind": "tune",
                    "owner_id": owner,
                    "parameters": {"source": ".", "config": {}},
                    "created": T0 + timedelta(seconds=self._made),
                    "not_before": T0,
                    **values,
                }
            )
            session.add(job)
        return job.id

    def job(self, name: str) -> Job:
        with self.database.session() as session:
            return session.get_one(Job, name)

    def change(self, name: str, **values: Any) -> None:
        with self.database.write() as session:
            job = session.get_one(Job, name)
            for column, value in values.items():
                setattr(job, column, value)


def claim_all(queue: Queue, worker: str) -> list[Claim]:
    claims = []
    while (claim := queue.claim(worker)) is not None:
        claims.append(claim)
    return claims


def claim_in_process(url: str, worker: str, found: multiprocessing.Queue[list[str]]) -> None:
    with Database.open(url) as database:
        queue = Queue(database, JobOptions(max_running=2))
        found.put([one.job for one in claim_all(queue, worker)])
