"""Workers with real child processes: cancelled, crashed, killed, stopped, cut off."""

from __future__ import annotations

import io
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from codetune.errors import ConfigError, StoreError
from codetune.jobs.config import JobOptions
from codetune.jobs.process import Child, scrubbed
from codetune.jobs.queue import Claim, Member, Queue
from codetune.jobs.reports import Reporter, lenient
from codetune.jobs.service import Jobs
from codetune.jobs.supervisor import WorkerProcess
from codetune.jobs.worker import Worker, devices
from codetune.project import ProjectConfig
from codetune.registry.access import LOCAL
from codetune.store.database import Database
from codetune.store.jobs import Job
from tests import databases

PATIENCE = 60.0  # seconds; only a test that fails waits for so long


# The queue's own tests run on both; of these, which start processes, only those that ask.
both = databases.database


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with Database.open(f"sqlite:///{tmp_path / 'codetune.db'}") as opened:
        yield opened


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home, and an `ssh` that never answers and ignores SIGTERM: sources that hang."""
    folder = tmp_path / "home"
    monkeypatch.setenv("CODETUNE_HOME", str(folder))
    programs = tmp_path / "programs"
    programs.mkdir()
    ssh = programs / "ssh"
    ssh.write_text(f"#!/bin/sh\ntrap '' TERM\necho $$ >> {tmp_path}/hanging\nsleep 1000 & wait\n")
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return folder


_NUMBERS = itertools.count()


@pytest.fixture
def service(database: Database, home: Path) -> Jobs:
    return Jobs(database, JobOptions(), home)


def submit(service: Jobs, source: str | None = None) -> str:
    """Put a job into the queue; without a source one that hangs when it is fetched."""
    hangs = f"ssh://git@127.0.0.1/team/repository-{next(_NUMBERS)}"
    return service.submit(LOCAL, "ingest", source or hangs, ProjectConfig()).id


def until(holds: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (value := holds()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return value


def hanging(home: Path) -> list[psutil.Process]:
    """The hanging `ssh` programs that still run: grandchildren of the worker."""
    try:
        pids = (home.parent / "hanging").read_text().split()
    except FileNotFoundError:
        return []
    found = []
    for pid in pids:
        try:
            process = psutil.Process(int(pid))
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def child_of(grandchild: psutil.Process) -> psutil.Process:
    return next(p for p in grandchild.parents() if "codetune.jobs.child" in p.cmdline())


@contextmanager
def working(database: Database, home: Path, **options: Any) -> Iterator[Worker]:
    """A worker in a thread of the test."""
    worker = Worker(database, home, JobOptions(**options), slots=2)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield worker
    finally:
        worker.stop()
        thread.join(PATIENCE)
        assert not thread.is_alive()


def state(service: Jobs, name: str) -> str:
    return service.get(LOCAL, name).state


def ended(service: Jobs, name: str) -> Job:
    return until(lambda: (job := service.get(LOCAL, name)).finished and job)


def test_cancel_ends_a_running_job_and_all_that_it_has_started(
    service: Jobs, database: Database, home: Path
) -> None:
    with working(database, home):
        name, waits = submit(service), submit(service)
        other = submit(service)
        until(lambda: len(hanging(home)) == 2)
        assert service.cancel(LOCAL, other).state == "cancelled"  # it waited: at once
        assert service.cancel(LOCAL, name).state == "running"
        job = ended(service, name)
        assert (job.state, job.error) == ("cancelled", None)
        assert job.finished is not None and job.cancel_requested is not None
        assert (job.finished - job.cancel_requested).total_seconds() < 20  # 5 on an idle machine
        assert len(hanging(home)) == 1  # though it ignores SIGTERM
        assert state(service, waits) == "running"
    assert hanging(home) == []


def test_a_worker_that_is_told_to_end_gives_its_jobs_back_uncounted(
    service: Jobs, database: Database, home: Path
) -> None:
    name = submit(service)
    for _ in range(2):
        with working(database, home):
            until(lambda: hanging(home))
        job = service.get(LOCAL, name)
        assert (job.state, job.attempts, job.worker_id) == ("queued", 0, None)
        assert hanging(home) == []
    assert service.workers() == []


def test_a_crash_is_tried_again_and_a_users_error_is_not(
    service: Jobs, database: Database, home: Path, tmp_path: Path
) -> None:
    wrong = submit(service, str(tmp_path / "nothing"))
    with working(database, home, backoff=0.0, max_crashes=2):
        name = submit(service)
        for _ in range(2):
            (ssh,) = until(lambda: hanging(home))
            child_of(ssh).kill()
            until(lambda ssh=ssh: ssh not in hanging(home))  # type: ignore[misc]
        crashed, failed = ended(service, name), ended(service, wrong)
    assert (crashed.state, crashed.attempts) == ("failed", 2)
    assert crashed.error is not None and "SIGKILL" in crashed.error["message"]
    assert (failed.state, failed.attempts) == ("failed", 1)
    assert failed.error is not None and "does not exist" in failed.error["message"]
    kinds = [event.kind for event in service.follow(LOCAL, wrong)]
    assert kinds.count("state") == 3 and "log" in kinds
    assert "does not exist" in service.log(LOCAL, wrong)


def start_worker(database: Database, home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "codetune", "worker"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "CODETUNE_DATABASE": database.secret_url},
    )


def test_after_kill_nothing_runs_on_and_another_worker_takes_over_at_once(
    both: Database, home: Path
) -> None:
    """An hour's lease: it is the kernel that says that the worker is gone."""
    service, database = Jobs(both, JobOptions(), home), both
    home.mkdir()
    (home / "jobs.yaml").write_text("lease: 3600\n")
    name = submit(service)
    for attempt in (1, 2):
        process = start_worker(database, home)
        try:
            until(lambda: hanging(home))
            assert service.get(LOCAL, name).attempts == attempt
        finally:
            process.kill()
            process.communicate()
        until(lambda: not hanging(home))
    job = service.get(LOCAL, name)
    assert (job.state, job.losses) == ("running", 1)  # nobody is there to see the second death


def test_sigterm_is_the_graceful_way(service: Jobs, database: Database, home: Path) -> None:
    name = submit(service)
    process = start_worker(database, home)
    try:
        until(lambda: hanging(home))
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.communicate()
    assert hanging(home) == []
    job = service.get(LOCAL, name)
    assert (job.state, job.attempts) == ("queued", 0)


def test_when_the_server_ends_its_worker_gives_its_jobs_back(
    service: Jobs, database: Database, home: Path
) -> None:
    name = submit(service)
    with WorkerProcess(database, home, 1):
        until(lambda: hanging(home))
    until(lambda: state(service, name) == "queued")
    job = service.get(LOCAL, name)
    assert (job.attempts, job.worker_id) == (0, None)
    assert hanging(home) == []


def test_a_service_manager_that_ends_worker_and_jobs_together_costs_no_attempt(
    service: Jobs, database: Database, home: Path
) -> None:
    """The job has ended before the worker looks at it: its turn was under way."""
    name = submit(service)
    worker = Worker(database, home)
    worker._turn()
    (ssh,) = until(lambda: hanging(home))
    child = child_of(ssh)
    keeper = psutil.Process(child.ppid())
    child.terminate()
    until(lambda: keeper.status() == psutil.STATUS_ZOMBIE)
    worker.stop()
    worker._settle_ended()
    job = service.get(LOCAL, name)
    assert (job.state, job.attempts, job.crashes) == ("queued", 0, 0)


def test_who_was_cut_off_from_the_queue_drops_the_job(
    service: Jobs, database: Database, home: Path
) -> None:
    """Another worker has it by now: two must not do the same."""
    with working(database, home, lease=1.0):
        name = submit(service)
        until(lambda: hanging(home))
        with database.write() as session:
            job = session.get_one(Job, name)
            job.claim += 1
            job.worker_id = "another"
        until(lambda: not hanging(home))
        assert service.get(LOCAL, name).worker_id == "another"
    with database.write() as session:
        session.get_one(Job, name).state = "cancelled"


def test_that_the_database_is_away_is_said_once(
    database: Database,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def away(*_: object) -> None:
        raise StoreError("The database is away.")

    caplog.set_level("INFO", "codetune.jobs.worker")
    worker = Worker(database, home)
    for _ in range(2):
        with monkeypatch.context() as patched:
            patched.setattr(worker._queue, "cancelled", away)
            for _ in range(3):
                assert not worker._turn()
        for _ in range(2):
            worker._turn()
    assert caplog.messages == ["The database is away.", "The database answers again."] * 2


def test_a_child_can_tell_of_names_that_are_no_text() -> None:
    written = io.BytesIO()
    with io.TextIOWrapper(written, encoding="utf-8") as stream:
        reporter = Reporter(lenient(stream))
        reporter.tell("failed", message="caf\udce9.py is no folder", advice="")
        assert json.loads(written.getvalue())["message"] == "caf?.py is no folder"


def test_what_no_database_takes_is_left_out_of_what_is_heard() -> None:
    reports, told = os.pipe()
    with os.fdopen(told, "w", encoding="utf-8") as stream:
        Reporter(stream).tell(
            "progress", label="a\0b", done=float("nan"), more=[float("inf"), {"\0": 1.5}]
        )
    child = Child.__new__(Child)
    child.reports, child._rest = reports, b""
    os.set_blocking(reports, False)
    (report,), _ = child.heard()
    os.close(reports)
    assert report == {"report": "progress", "label": "ab", "done": None, "more": [None, {"": 1.5}]}


def test_a_job_whose_news_cannot_be_kept_fails_and_the_worker_goes_on(
    service: Jobs, database: Database, home: Path
) -> None:
    class Attempt:
        child = SimpleNamespace(reports=1000, kill=lambda: None, close=lambda: None)

        def __init__(self, claim: Claim) -> None:
            self.claim = claim

        def write_down(self, queue: Queue) -> bool:
            raise ConfigError("A value has null characters.")

    name = submit(service)
    worker = Worker(database, home)
    worker._queue.join(Member(worker.id, "machine", "host", 1, 1))
    taken = worker._queue.claim(worker.id)
    assert taken is not None
    worker._running[0] = Attempt(taken)  # type: ignore[assignment]
    worker._turn()
    job = service.get(LOCAL, name)
    assert job.state == "failed" and worker._running == {}
    assert job.error is not None and "null characters" in job.error["message"]


def test_a_job_sees_nothing_of_the_servers_secrets() -> None:
    seen = scrubbed(
        {
            "PATH": "/bin",
            "HOME": "/root",
            "CODETUNE_HOME": "/h",
            "CODETUNE_DATABASE": "postgresql://user:secret@host/db",
            "CODETUNE_SECRET": "s",
            "HF_TOKEN": "s",
            "AWS_SECRET_ACCESS_KEY": "s",
            "OPENAI_API_KEY": "s",
            "PGPASSWORD": "s",
            "XPATH": "s",
        },
        also=("OPENAI_API_KEY",),
    )
    assert set(seen) == {"PATH", "HOME", "CODETUNE_HOME", "OPENAI_API_KEY"}


def test_slots_share_gpus_and_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    gpus = {"CUDA_VISIBLE_DEVICES": "2,5"}
    assert [devices(slot, 2, gpus)["CUDA_VISIBLE_DEVICES"] for slot in range(2)] == ["2", "5"]
    shared = {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "1000"}
    assert devices(0, 4, {"CUDA_VISIBLE_DEVICES": ""}) == shared
    assert "GOMP_SPINCOUNT" not in devices(0, 4, {"OMP_WAIT_POLICY": "passive"})
    assert "OMP_NUM_THREADS" not in devices(0, 4, {"OMP_NUM_THREADS": "3"})


def test_the_real_child_has_the_scrubbed_environment_and_a_session_of_its_own(
    service: Jobs, database: Database, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODETUNE_SECRET_OF_THE_SERVER", "s")
    with working(database, home):
        submit(service)
        (ssh,) = until(lambda: hanging(home))
        child = child_of(ssh)
        assert os.getpgid(child.pid) == os.getsid(child.pid) == child.ppid()  # the keeper
        assert child.nice() == min(19, os.nice(0) + JobOptions().nice)
        assert not [name for name in child.environ() if "SECRET" in name or "DATABASE" in name]
