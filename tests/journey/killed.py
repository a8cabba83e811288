"""A tuning job whose server and workers are killed at random moments, and what comes of it.

python -m tests.journey.killed --moments 10 --seed 0 --database postgres --layout beside FOLDER
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from codetune.jobs.config import JobOptions
from codetune.jobs.service import Jobs
from codetune.jobs.worker import Worker
from codetune.project import ProjectConfig
from codetune.registry.access import LOCAL
from codetune.store.database import Database
from codetune.store.jobs import Job
from tests.databases import new_database, postgres_server
from tests.journey.team import write_module
from tests.unit.serving.tiny_models import make_base

STEPS = 24
# Whose death it is. With the worker beside the server: the server's alone, its worker's, both at
# once, or that of the process that does the job. With the worker on another machine: the
# server's, the worker's, or the worker sleeps for longer than its lease, as a machine that is
# suspended does, and wakes up when another has its job.
VICTIMS = {
    "beside": ("server", "worker", "both", "job"),
    "elsewhere": ("server", "worker", "frozen"),
}
LEASE = 3  # seconds: so long does a worker on another machine count as alive
PATIENCE = 600.0  # seconds; only what fails waits for so long
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # sums depend on their number in the last bits
# What differs between two runs of the same work: times, memory, places.
_PASSING = {"seconds", "tokens_per_second", "peak_memory_bytes", "resumed_from", "report"}
# `codetune worker` as another machine's: another kernel's id, and so only a lease says that it
# lives. The home is the same, as on a shared disk.
_ELSEWHERE = """
import sys
from pathlib import Path
from codetune.jobs import presence
presence._BOOT_ID = Path(sys.argv.pop(1))
from codetune.cli.main import main
main()
"""


@dataclass(frozen=True)
class Moment:
    """Kill `victim` so many seconds after a stage has begun, or a step of the training."""

    order: int
    stage: str | None
    step: int
    delay: float
    victim: str

    def __str__(self) -> str:
        where = self.stage or f"step {self.step}"
        return f"{self.victim:<6} {self.delay:.2f} s after {where}"


def moments(count: int, seed: int, layout: str) -> list[Moment]:
    """Random moments of a journey, in their order: within each stage, between any two steps."""
    chance = random.Random(seed)
    places: list[tuple[str | None, int]] = [("collect", 0), ("clean", 0), ("build", 0)]
    places += [("train", 0), *[(None, step) for step in range(1, STEPS)], ("evaluate", 0)]
    chosen = sorted(chance.sample(range(len(places)), count))
    return [
        Moment(order, *places[order], chance.random() * 0.4, chance.choice(VICTIMS[layout]))
        for order in chosen
    ]


@dataclass
class Run:
    """One home with one job."""

    home: Path
    base: Path
    database: Database
    job: str = ""

    @property
    def jobs(self) -> Jobs:
        return Jobs(self.database, JobOptions(), self.home)

    @property
    def row(self) -> Job:
        return self.jobs.get(LOCAL, self.job)

    @property
    def log(self) -> Path:
        return self.home / "jobs" / self.job / "log"

    def submit(self, source: Path) -> None:
        config = ProjectConfig.model_validate(
            {
                "name": "tiny",
                "base": str(self.base),
                "dataset": {"replay_share": 0.0},
                "training": {
                    "max_steps": STEPS,
                    "batch_tokens": 512,
                    "checkpoint_seconds": 0,
                    "dropout": 0.1,  # so that the random states matter
                },
                "evaluation": {"fim_prompts": 2, "general_bytes": 512, "text_bytes": 1024},
            }
        )
        self.job = self.jobs.submit(LOCAL, "tune", str(source), config).id

    def result(self) -> dict[str, Any]:
        """The scorecard and all else that the job has told."""
        row = self.row
        assert row.state == "succeeded", (row.state, row.error, self.log.read_text())
        assert row.result is not None
        return without(row.result, _PASSING)

    def weights(self) -> dict[str, bytes]:
        found = self.home.glob("models/*/model/*.safetensors")
        return {path.name: path.read_bytes() for path in found}

    def steps(self) -> int:
        """The last step that the unfinished run has written down; all of them once it is done."""
        if any(self.home.glob("projects/*/runs/[!.]*/manifest.json")):
            return STEPS
        try:
            (metrics,) = self.home.glob("projects/*/runs/.*.partial/metrics.jsonl")
            lines = metrics.read_text().splitlines()
        except (ValueError, FileNotFoundError):
            return 0
        found = [json.loads(line).get("step", 0) for line in lines if line.endswith("}")]
        return max(found, default=0)


@dataclass
class Disturbed:
    """A run whose server and workers are killed."""

    run: Run
    layout: str
    killed: list[Moment] = field(default_factory=list)
    _server: subprocess.Popen[bytes] | None = None
    _workers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _begun: int = 0  # bytes of the log that attempts before this one have written

    def go_through(self, all_moments: list[Moment]) -> None:
        """Serve, and be killed at each moment; then serve until the job has ended."""
        options = f"lease: {LEASE}\nbackoff: 0.2\n"
        (self.run.home / "jobs.yaml").write_text(options)
        try:
            for moment in all_moments:
                self._start()
                if not self._wait_for(moment):
                    break
                time.sleep(moment.delay)
                self._strike(moment.victim)
                self.killed.append(moment)
            self._start()
            self._wait(lambda: self._state not in ("queued", "running"))
        finally:
            for process in (*self._workers, self._server):
                stop(process)

    @property
    def _state(self) -> str:
        return self.run.row.state

    def _start(self) -> None:
        """What has to run and does not: the server, and with it, or elsewhere, a worker."""
        if self._server is None or self._server.poll() is not None:
            beside = ["--jobs", "0"] if self.layout == "elsewhere" else []
            serve = ["serve", "--port", "0", "--base", str(self.run.base), *beside]
            self._server = self._spawn("-m", "codetune", *serve)
        self._workers = [one for one in self._workers if one.poll() is None]
        if self.layout == "elsewhere" and not self._workers:
            self._add_worker()

    def _add_worker(self) -> None:
        machine = self.run.home.parent / f"{self.run.home.name}.machine-{time.monotonic_ns()}"
        machine.write_text(machine.name)
        self._workers.append(self._spawn("-c", _ELSEWHERE, str(machine), "worker"))

    def _spawn(self, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.run.home.parent / f"{self.run.home.name}.said").open("ab") as out:
            environment = {
                "CODETUNE_HOME": str(self.run.home),
                "CODETUNE_DATABASE": self.run.database.secret_url,
            }
            return subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, **environment, **ONE_THREAD},
            )

    def _wait_for(self, moment: Moment) -> bool:
        """False when the job has ended before it."""

        def there() -> bool:
            if self.run.steps() < moment.step:
                return False
            log = self.run.log
            text = log.read_bytes()[self._begun :].decode() if log.exists() else ""
            return f"] {moment.stage or 'train'}\n" in text

        self._wait(lambda: self._state not in ("queued", "running") or there())
        return self._state in ("queued", "running")

    def _strike(self, victim: str) -> None:
        assert self._server is not None
        if victim == "frozen":
            self._freeze()
            return
        beside = below(self._server.pid, "worker")
        # None between two attempts: then the strike is at the worker that is about to begin one.
        doing = below(self._server.pid, "codetune.jobs.child")
        if victim in ("server", "both"):
            self._server.kill()
            self._server.wait()
        for worker in beside if victim in ("worker", "both") else ():
            kill(worker)
        for worker in self._workers if victim == "worker" else ():
            worker.kill()
            worker.wait()
        if victim == "job":
            for process in doing[-1:]:  # below its keeper
                kill(process)
        if victim != "server" or self.layout == "beside":
            time.sleep(0.5)  # a moment in which what is left has to end, too
            self._begun = self.run.log.stat().st_size if self.run.log.exists() else 0

    def _freeze(self) -> None:
        """The workers stand still until another has the job; then all go on."""
        asleep = list(self._workers)
        for worker in asleep:
            worker.send_signal(signal.SIGSTOP)
        before = self.run.row.claim
        self._add_worker()
        self._wait(lambda: self.run.row.claim > before or self._state not in ("queued", "running"))
        for worker in asleep:
            worker.send_signal(signal.SIGCONT)

    def _wait(self, holds: Callable[[], Any]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not holds():
            assert time.monotonic() < deadline, (self._state, self.run.log.read_text())
            time.sleep(0.05)


def below(pid: int, word: str) -> list[psutil.Process]:
    """The descendants of a process whose command names `word`, parents first."""
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        try:
            if word in child.cmdline():
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


def kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return


def stop(process: subprocess.Popen[bytes] | None) -> None:
    if process is not None and process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        process.wait(60)


def without(value: Any, names: set[str]) -> Any:
    if isinstance(value, Mapping):
        return {key: without(inner, names) for key, inner in value.items() if key not in names}
    return value


def make_source(folder: Path) -> Path:
    folder.mkdir()
    for entity in ("invoice", "parcel", "ledger", "depot"):
        for number in range(3):
            (folder / f"{entity}_{number}.py").write_text(write_module(entity, number))
    return folder


@dataclass(frozen=True)
class Expected:
    """What the job makes when nobody disturbs it."""

    source: Path
    base: Path
    result: dict[str, Any]
    weights: dict[str, bytes]


def undisturbed(folder: Path) -> Expected:
    """Do the job once in `folder`, in peace."""
    source, base = make_source(folder / "source"), make_base(folder / "tiny")
    home = folder / "whole"
    home.mkdir()
    with Database.open(f"sqlite:///{home / 'codetune.db'}") as database:
        run = Run(home, base, database)
        run.submit(source)
        environment = {**os.environ, **ONE_THREAD, "CODETUNE_HOME": str(home)}
        Worker(database, home, environment=environment).run(once=True)
        return Expected(source, base, run.result(), run.weights())


def disturbed(
    expected: Expected, home: Path, url: str | None, layout: str, all_moments: list[Moment]
) -> Disturbed:
    """Do the same job with kills: it must end with the same bytes and the same scorecard."""
    home.mkdir()
    with Database.open(url or f"sqlite:///{home / 'codetune.db'}") as database:
        one = Disturbed(Run(home, expected.base, database), layout)
        one.run.submit(expected.source)
        one.go_through(all_moments)
        assert one.run.result() == expected.result
        assert one.run.weights() == expected.weights and expected.weights
        row = one.run.row
        print(f"{len(one.killed)} strikes, {row.claim} claims, {row.attempts} attempts")
    return one


@contextmanager
def database_of(name: str) -> Iterator[str | None]:
    """An address for the home's own SQLite (None) or a new database of a new PostgreSQL."""
    if name == "sqlite":
        yield None
        return
    with postgres_server() as server, new_database(server) as url:
        yield url


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, help="a new one, for homes and logs")
    parser.add_argument("--moments", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--layout", choices=tuple(VICTIMS), default="beside")
    arguments = parser.parse_args()
    if arguments.folder.exists():
        parser.error(f"{arguments.folder} is there already: name a new folder")
    arguments.folder.mkdir(parents=True)
    expected = undisturbed(arguments.folder)
    chosen = moments(arguments.moments, arguments.seed, arguments.layout)
    with database_of(arguments.database) as url:
        one = disturbed(expected, arguments.folder / "broken", url, arguments.layout, chosen)
    for moment in one.killed:
        print(f"  {moment}")
    print("the same bytes and the same scorecard as undisturbed")


if __name__ == "__main__":
    main()
