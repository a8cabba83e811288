"""The queue's transactions, on SQLite and on PostgreSQL."""

from __future__ import annotations

import multiprocessing
import threading
from collections import Counter
from datetime import timedelta

import pytest

from codetune.jobs.queue import Claim, Member, Outcome, Queue
from codetune.jobs.rows import clock
from codetune.store.database import Database
from codetune.store.jobs import JobEvent
from tests.unit.jobs.office import T0, Office, claim_all, claim_in_process

CRASH = Outcome("crashed", message="it fell")


def claim(queue: Queue, worker: str = "worker") -> Claim:
    taken = queue.claim(worker)
    assert taken is not None
    return taken


def is_dead(_: str, __: str) -> bool:
    return True


def lives(_: str, __: str) -> bool:
    return False


def test_many_threads_claim_every_job_once(office: Office) -> None:
    names = {office.put(owner) for owner in ("anna", "ben") for _ in range(30)}
    queue = office.queue(max_running=1000)
    claims: list[Claim] = []
    threads = [
        threading.Thread(target=lambda n=n: claims.extend(claim_all(queue, f"w{n}")))  # type: ignore[misc]
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(one.job for one in claims) == dict.fromkeys(names, 1)


def test_processes_together_keep_to_the_quota(office: Office, database: Database) -> None:
    """Two claims at the same moment must not both see the owner's last free place."""
    for owner in ("anna", "ben", "cleo"):
        for _ in range(6):
            office.put(owner)
    context = multiprocessing.get_context("spawn")
    found: multiprocessing.Queue[list[str]] = context.Queue()
    processes = [
        context.Process(target=claim_in_process, args=(database.secret_url, f"w{n}", found))
        for n in range(4)
    ]
    for process in processes:
        process.start()
    claimed = [name for _ in processes for name in found.get(timeout=60)]
    for process in processes:
        process.join(60)
    owners = Counter(office.job(name).owner_id for name in claimed)
    assert len(set(claimed)) == len(claimed)
    assert owners == {"anna": 2, "ben": 2, "cleo": 2}


def test_order_is_priority_then_fewest_running_then_least_recent_work_then_age(
    office: Office,
) -> None:
    queue = office.queue(max_running=10)
    old, older = office.put("anna"), office.put("anna")
    ben, cleo = office.put("ben"), office.put("cleo")
    urgent = office.put("anna", priority=5)
    with office.database.write() as session:
        recently = clock(session) - timedelta(minutes=5)
    # Ben's jobs have had ten minutes within the last hour; an hour of Cleo's was yesterday.
    office.put("ben", state="succeeded", started=recently, worked=600.0)
    office.put("cleo", state="succeeded", started=T0, worked=3600.0)
    order = [one.job for one in claim_all(queue, "w")]
    assert order == [urgent, cleo, ben, old, older]


def test_a_job_waits_until_its_time_and_for_its_owners_quota(office: Office) -> None:
    queue = office.queue(max_running=1)
    with office.database.write() as session:
        later = clock(session) + timedelta(hours=1)
    office.put("anna", not_before=later)
    first = office.put("anna")
    second = office.put("anna")
    taken = claim(queue)
    assert taken.job == first
    assert queue.claim("worker") is None
    queue.finish(taken, Outcome("succeeded", result={"model": "m:1"}))
    assert claim(queue).job == second
    assert office.job(first).result == {"model": "m:1"}


def test_who_has_lost_a_job_is_not_heard(office: Office) -> None:
    queue = office.queue()
    name = office.put()
    old = claim(queue, "old")
    office.change(name, leased_until=T0)
    assert queue.reap(lives) == [name]
    new = claim(queue, "new")
    assert queue.beat("old", [old]) == [old]
    assert not queue.report(old, progress={"done": 1}, events=[("say", {})], ground=(5, 5))
    assert queue.finish(old, Outcome("succeeded", result={})) is None
    row = office.job(name)
    assert (row.state, row.worker_id, row.progress, row.ground_stage) == ("running", "new", {}, 0)
    assert queue.beat("new", [new]) == []
    assert queue.finish(new, Outcome("succeeded", result={})) == "succeeded"


def test_a_dead_workers_jobs_are_queued_again_until_the_limit(
    office: Office, member: Member
) -> None:
    queue = office.queue(max_losses=3)
    name = office.put()
    for attempt in (1, 2, 3):
        queue.join(member)
        taken = claim(queue)
        assert taken.attempt == attempt
        assert queue.reap(lives) == []  # the lease holds and nobody knows of a death
        assert queue.reap(is_dead) == [name]
        assert queue.members() == {}
    row = office.job(name)
    assert (row.state, row.losses) == ("failed", 3)
    assert row.error is not None and row.error["reason"] == "lost"


def test_new_ground_forgives_what_went_wrong_before(office: Office) -> None:
    """A job that gets further each time is not given up, however often its worker dies."""
    queue = office.queue(max_losses=2, max_crashes=2)
    name = office.put()
    for ground in ((0, 0), (1, 0), (3, 0), (3, 7), (3, 20), (4, 0)):
        taken = claim(queue)
        queue.report(taken, ground=ground)
        office.change(name, leased_until=T0)
        queue.reap(lives)
        assert office.job(name).state == "queued"
    taken = claim(queue)
    queue.report(taken, ground=(3, 90))  # less than before: the stage was finished then
    assert queue.finish(taken, CRASH) == "queued"
    assert queue.finish(claim(queue), CRASH) == "failed"


def test_a_crash_waits_longer_each_time_and_then_has_failed(office: Office) -> None:
    queue = office.queue(max_crashes=3, backoff=100.0, max_backoff=150.0)
    name = office.put()
    waits = []
    for _ in range(2):
        taken = claim(queue)
        assert queue.finish(taken, CRASH) == "queued"
        row = office.job(name)
        waits.append((row.not_before - row.updated).total_seconds())
        assert queue.claim("worker") is None
        office.change(name, not_before=T0)
    assert 95 < waits[0] < 111 and 145 < waits[1] < 166
    assert queue.finish(claim(queue), CRASH) == "failed"
    error = office.job(name).error
    assert error is not None and "it fell" in error["message"]


def test_what_the_user_can_mend_is_not_tried_again(office: Office) -> None:
    queue = office.queue()
    name = office.put()
    failed = Outcome("failed", message="No such folder.", advice="Name another one.")
    assert queue.finish(claim(queue), failed) == "failed"
    assert office.job(name).error == {
        "reason": "failed",
        "message": "No such folder.",
        "advice": "Name another one.",
    }


def test_a_released_job_is_as_if_it_had_never_been_taken(office: Office) -> None:
    queue = office.queue(max_losses=1, max_crashes=1)
    name = office.put()
    for _ in range(3):
        assert queue.finish(claim(queue), Outcome("released")) == "queued"
    row = office.job(name)
    assert (row.attempts, row.losses, row.crashes, row.finished) == (0, 0, 0, None)


@pytest.mark.parametrize("kind", ["crashed", "failed", "lost", "released"])
def test_a_cancelled_job_is_not_tried_again_however_it_ended(office: Office, kind: str) -> None:
    queue = office.queue()
    name = office.put()
    taken = claim(queue)
    assert queue.cancelled([taken]) == set()
    office.change(name, cancel_requested=T0)
    assert queue.cancelled([taken]) == {name}
    assert queue.finish(taken, Outcome(kind)) == "cancelled"


def test_events_are_numbered_without_gaps(office: Office) -> None:
    queue = office.queue()
    name = office.put()
    taken = claim(queue)
    for number in range(3):
        queue.report(taken, events=[("say", {"message": number}), ("say", {})])
    queue.finish(taken, Outcome("succeeded", result={}))
    with office.database.session() as session:
        found = session.query(JobEvent).where(JobEvent.job_id == name).order_by(JobEvent.number)
        assert [row.number for row in found] == list(range(1, 9))
        assert [row.kind for row in found] == ["state", *["say"] * 6, "state"]


def test_every_attempt_is_given_the_source_as_the_first_saw_it(office: Office) -> None:
    queue = office.queue()
    office.put()
    first = claim(queue)
    assert first.work.collected is None
    queue.report(first, collected="/home/sources/1")
    queue.finish(first, Outcome("released"))
    assert claim(queue).work.collected == "/home/sources/1"
