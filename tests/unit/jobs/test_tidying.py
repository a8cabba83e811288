"""What is forgotten, and what never is; the log that stays small."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from codetune.errors import StoreError
from codetune.jobs.config import JobOptions
from codetune.jobs.queue import Outcome
from codetune.jobs.rows import clock
from codetune.jobs.tidying import forget_ended
from codetune.jobs.worker import Worker
from codetune.registry.cards import Registry
from codetune.store.evaluations import Evaluation
from codetune.store.jobs import Job, JobEvent
from codetune.store.models import Model
from tests.unit.jobs.office import Office
from tests.unit.registry.finished_stages import stages


def ended(office: Office, home: Path, days: float, **values: Any) -> str:
    """A job that ended so many days ago, with its log."""
    with office.database.write() as session:
        finished = clock(session) - timedelta(days=days)
    name = office.put(**{"state": "succeeded", "finished": finished, **values})
    (home / "jobs" / name).mkdir(parents=True)
    (home / "jobs" / name / "log").write_text("[1/6] collect\n")
    return name


def kept(office: Office) -> set[str]:
    with office.database.session() as session:
        return set(session.scalars(select(Job.id)))


def test_what_ended_long_ago_is_forgotten_and_nothing_else(office: Office, tmp_path: Path) -> None:
    Registry(tmp_path).register("anna/shop", **stages(tmp_path / "stages"))
    old = [ended(office, tmp_path, 31, state=state) for state in ("succeeded", "failed")]
    old.append(ended(office, tmp_path, 31, state="cancelled"))
    old.append(ended(office, tmp_path, 31, result={"model": "anna/gone:1"}))
    stay = {
        ended(office, tmp_path, 29),
        ended(office, tmp_path, 31, result={"model": "anna/shop:1"}),
        ended(office, tmp_path, 31, state="queued", finished=None),
        # However it came to have an end: it runs.
        ended(office, tmp_path, 31, state="running", claim=1),
    }
    never_ran = ended(office, tmp_path, 31, state="cancelled")
    (tmp_path / "jobs" / never_ran / "log").unlink()
    (tmp_path / "jobs" / never_ran).rmdir()
    with office.database.write() as session:
        session.add(JobEvent(job_id=old[0], number=1, kind="say"))
        session.add(Evaluation(id="evl_1", owner_id="anna", model="m:1", job_id=old[0]))
    counts = [forget_ended(office.database, tmp_path, 30, at_most=2) for _ in range(4)]
    assert counts == [2, 2, 1, 0]
    assert kept(office) == stay
    assert {folder.name for folder in (tmp_path / "jobs").iterdir()} == stay
    with office.database.session() as session:
        assert session.scalars(select(JobEvent)).all() == []
        assert session.get_one(Evaluation, "evl_1").job_id is None  # the scores stay


def test_the_job_whose_model_was_saved_under_another_name_stays(
    office: Office, tmp_path: Path
) -> None:
    name = ended(office, tmp_path, 31, result={"model": "anna/gone:1"})
    with office.database.write() as session:
        session.add(Model(name="anna/best", owner_id="anna", details={"tuning": name}))
    assert forget_ended(office.database, tmp_path, 30) == 0


def test_a_log_that_cannot_be_deleted_keeps_its_job(office: Office, tmp_path: Path) -> None:
    name = ended(office, tmp_path, 31)
    folder = tmp_path / "jobs" / name
    (folder / "log").unlink()
    folder.rmdir()
    folder.write_text("no folder")
    with pytest.raises(StoreError, match="cannot be deleted"):
        forget_ended(office.database, tmp_path, 30)
    assert kept(office) == {name}


@pytest.mark.parametrize(("days", "left"), [(30.0, 0), (0.0, 1)])
def test_a_worker_forgets_by_itself(office: Office, tmp_path: Path, days: float, left: int) -> None:
    ended(office, tmp_path, 1000)
    Worker(office.database, tmp_path, JobOptions(keep_days=days)).run(once=True)
    assert len(kept(office)) == left


def test_a_worker_that_cannot_forget_still_works(
    office: Office, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = ended(office, tmp_path, 1000)
    (tmp_path / "jobs" / name / "log").unlink()
    (tmp_path / "jobs" / name).rmdir()
    (tmp_path / "jobs" / name).write_text("no folder")
    lost = office.put()
    queue = office.queue()
    taken = queue.claim("worker")
    assert taken is not None and taken.job == lost
    queue.finish(taken, Outcome("succeeded", result={}))
    Worker(office.database, tmp_path, JobOptions()).run(once=True)
    assert "are not forgotten" in caplog.text


SAYS = """
import logging, os, sys
from pathlib import Path
from codetune.jobs.logfile import WorkerLog
logging.basicConfig(handlers=[WorkerLog(Path(sys.argv[1]), 500)], format="%(message)s")
for number in range(200):
    logging.warning("line %d of the log", number)
print("printed", flush=True)
os.write(2, b"last words\\n")
"""


def test_a_workers_log_begins_anew_and_has_a_crashs_last_words(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    log.write_text("of the one before\n")
    with log.open("ab") as out:  # as the server starts it
        subprocess.run([sys.executable, "-c", SAYS, str(log)], stdout=out, stderr=out, check=True)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["worker.log", "worker.log.1", "worker.log.2", "worker.log.3"]
    assert all(path.stat().st_size <= 600 for path in tmp_path.iterdir())
    lines = log.read_text().splitlines()
    assert lines[-3:] == ["line 199 of the log", "printed", "last words"]
