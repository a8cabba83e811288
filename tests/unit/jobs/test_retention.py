"""Completions, usage and the audit log: what is old goes, in batches, and nothing else."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from codetune.accounts.audit import entries
from codetune.jobs.config import JobOptions
from codetune.jobs.retention import forget_old
from codetune.jobs.rows import clock
from codetune.jobs.worker import Worker
from codetune.store.audit import AuditEntry
from codetune.store.completions import Completion, CompletionEvent
from codetune.store.usage import Usage
from tests.unit.jobs.office import Office

DAYS = JobOptions(keep_completions=10, keep_usage=20, keep_audit=30)


def written(office: Office, days: float) -> None:
    """One completion with two events, a day's usage of two models, and an act, `days` ago."""
    anna = office.user("anna")
    with office.database.write() as session:
        at = clock(session) - timedelta(days=days)
        answer = Completion(id=f"cmpl-{days:g}", at=at, owner_id=anna, model="m:1", dialect="d")
        session.add(answer)
        session.flush()
        for kind in ("view", "select"):
            session.add(CompletionEvent(completion_id=answer.id, at=at, kind=kind))
        for model in ("m:1", "m:2"):
            session.add(Usage(day=at.date(), owner_id=anna, model=model, requests=1))
        session.add(AuditEntry(at=at, actor="anna", action="login", subject=f"{days:g}"))


def kept(office: Office) -> dict[str, Any]:
    with office.database.session() as session:
        today = clock(session).date()
        said = session.scalars(select(CompletionEvent.completion_id)).all()
        return {
            "completions": set(session.scalars(select(Completion.id))),
            "events": sorted(said),
            "usage": sorted((today - day).days for day in session.scalars(select(Usage.day))),
            "audit": {entry.subject for entry in entries(session)},
        }


def test_each_table_keeps_its_own_days(office: Office) -> None:
    for days in (9, 11, 19, 21, 29, 31):
        written(office, days)
    assert forget_old(office.database, DAYS) == 5 + 2 * 3 + 1
    assert kept(office) == {
        "completions": {"cmpl-9"},
        "events": ["cmpl-9", "cmpl-9"],
        "usage": [9, 9, 11, 11, 19, 19],
        "audit": {"9", "11", "19", "21", "29"},
    }
    assert forget_old(office.database, DAYS) == 0


def test_a_batch_takes_the_oldest(office: Office) -> None:
    for days in (40, 43, 41, 42):
        written(office, days)
    assert forget_old(office.database, DAYS, at_most=3) == 9
    left = kept(office)
    assert left["completions"] == {"cmpl-40"} and left["audit"] == {"40"}
    assert left["usage"] == [40, 40, 41, 41, 42]
    assert [forget_old(office.database, DAYS, at_most=3) for _ in range(3)] == [1 + 3 + 1, 2, 0]


def test_zero_is_for_ever(office: Office) -> None:
    written(office, 10_000)
    forever = JobOptions(keep_completions=0, keep_usage=0, keep_audit=0)
    assert forget_old(office.database, forever) == 0
    assert forget_old(office.database, JobOptions()) == 4  # the defaults are not
    assert JobOptions().keep_audit > JobOptions().keep_usage > JobOptions().keep_completions > 90


def test_a_held_row_is_left_for_the_next_time(office: Office) -> None:
    """On PostgreSQL; SQLite has one writer, who is waited for."""
    if office.database.is_sqlite:
        pytest.skip("one writer at a time")
    for days in (40, 41):
        written(office, days)
    with office.database.write() as session:
        held = select(Completion).where(Completion.id == "cmpl-41").with_for_update()
        session.scalars(held).one()
        sweep = threading.Thread(target=forget_old, args=(office.database, DAYS), daemon=True)
        sweep.start()
        sweep.join(60)
        assert not sweep.is_alive()
        assert kept(office)["completions"] == {"cmpl-41"}
    assert forget_old(office.database, DAYS) == 1


def test_a_worker_forgets_though_a_jobs_log_stays(
    office: Office, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for days in (40, 1):
        written(office, days)
    with office.database.session() as session:
        ended = clock(session) - timedelta(days=1000)
    job = office.put(state="succeeded", finished=ended)
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / job).write_text("no folder")
    Worker(office.database, tmp_path, DAYS).run(once=True)
    assert "Ended jobs are not forgotten" in caplog.text
    assert kept(office)["audit"] == {"1"}
