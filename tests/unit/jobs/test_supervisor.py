"""The server's worker: there while the server is, never longer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from codetune.jobs.service import Jobs
from codetune.jobs.supervisor import WorkerProcess
from codetune.store.database import Database

SERVER = """
import sys, time
from codetune.artifacts import home
from codetune.jobs.supervisor import WorkerProcess
from codetune.store.database import Database
with Database.open() as database, WorkerProcess(database, home(), 3):
    time.sleep(600)
"""


def until(holds: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 60
    while not (value := holds()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return value


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    monkeypatch.setenv("CODETUNE_HOME", str(tmp_path))
    return Jobs(Database.open(), home=tmp_path)


def test_a_worker_that_dies_is_started_again_and_ends_with_the_block(service: Jobs) -> None:
    with WorkerProcess(service._database, service.home, 2) as worker:
        (first,) = until(service.workers)
        assert (first.pid, first.slots) == (worker.pid, 2)
        os.kill(first.pid, signal.SIGKILL)
        second = until(lambda: next((w for w in service.workers() if w.pid != first.pid), None))
        assert second.pid == worker.pid
    until(lambda: gone(second.pid))
    assert second.id not in {worker.id for worker in service.workers()}


def test_none_is_started_beside_a_server_that_drains(
    service: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service manager sends SIGTERM to the worker, too, and the server has answers to end."""
    monkeypatch.setattr("codetune.jobs.supervisor._MOST", 0.0)
    draining = threading.Event()
    with WorkerProcess(service._database, service.home, ending=draining.is_set) as worker:
        (first,) = until(service.workers)
        draining.set()
        os.kill(first.pid, signal.SIGTERM)
        until(lambda: not worker._thread.is_alive())
        assert worker.pid == first.pid
    assert service.workers() == []


def test_the_worker_of_a_killed_server_ends(service: Jobs) -> None:
    server = subprocess.Popen([sys.executable, "-c", SERVER])
    (worker,) = until(service.workers)
    server.kill()
    server.wait()
    until(lambda: gone(worker.pid))
    assert service.workers() == []
