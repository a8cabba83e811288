"""A tuning job whose server is killed at random moments, and what it has made in the end.

python -m tests.journey.killed --moments 10 --seed 0 [--database postgresql://…] FOLDER
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
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
from tests.journey.team import write_module
from tests.unit.serving.tiny_models import make_base

STEPS = 24
# Whose death it is: the server's alone, its worker's alone, or everything's but the job's own
# process, which ends with its worker.
VICTIMS = ("server", "worker", "both")
PATIENCE = 240.0
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # sums depend on their number in the last bits
# What differs between two runs of the same work: times, memory, places.
_PASSING = {"seconds", "tokens_per_second", "peak_memory_bytes", "resumed_from", "report"}


@dataclass(frozen=True)
class Moment:
    """Kill `victim` so many seconds after a line of the log, or a step of the training."""

    order: int
    stage: str | None
    step: int
    delay: float
    victim: str


def moments(count: int, seed: int) -> list[Moment]:
    """Random moments of a journey, in their order: within each stage, between any two steps."""
    chance = random.Random(seed)
    places: list[tuple[str | None, int]] = [("collect", 0), ("clean", 0), ("build", 0)]
    places += [("train", 0), *[(None, step) for step in range(1, STEPS)], ("evaluate", 0)]
    chosen = sorted(chance.sample(range(len(places)), count))
    return [
        Moment(order, *places[order], chance.random() * 0.4, chance.choice(VICTIMS))
        for order in chosen
    ]


@dataclass
class Disturbed:
    """One home with one job, and the server that dies."""

    home: Path
    base: Path
    database: Database
    job: str = ""
    killed: list[Moment] = field(default_factory=list)

    @property
    def jobs(self) -> Jobs:
        return Jobs(self.database, JobOptions(), self.home)

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

    def serve(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "codetune", "serve", "--port", "0"]
        with (self.home.parent / f"{self.home.name}.served").open("ab") as out:
            return subprocess.Popen(
                [*command, "--base", str(self.base)],
                stdout=out,
                stderr=out,
                env={
                    **os.environ,
                    "CODETUNE_HOME": str(self.home),
                    "CODETUNE_DATABASE": self.database.secret_url,
                    **ONE_THREAD,
                },
            )

    def go_through(self, all_moments: list[Moment]) -> None:
        """Serve, and be killed at each moment; then serve until the job has ended."""
        for moment in all_moments:
            server = self.serve()
            try:
                if self._wait_for(moment):
                    time.sleep(moment.delay)
                    self._kill(server, moment.victim)
                    self.killed.append(moment)
            finally:
                stop(server)
        server = self.serve()
        try:
            self._wait(lambda: self.state not in ("queued", "running"))
        finally:
            stop(server)

    @property
    def state(self) -> str:
        return self.jobs.get(LOCAL, self.job).state

    def result(self) -> dict[str, Any]:
        job = self.jobs.get(LOCAL, self.job)
        assert job.state == "succeeded", (job.state, job.error, self.jobs.log(LOCAL, self.job))
        assert job.result is not None
        return without(job.result, _PASSING)

    def weights(self) -> dict[str, bytes]:
        return {
            path.name: path.read_bytes() for path in self.home.glob("models/*/model/*.safetensors")
        }

    def _wait_for(self, moment: Moment) -> bool:
        """False when the job has gone past it, or ended."""
        log = self.home / "jobs" / self.job / "log"
        begun = log.stat().st_size if log.exists() else 0

        def there() -> bool:
            if moment.stage is None:
                return self._steps() >= moment.step
            text = log.read_bytes()[begun:].decode() if log.exists() else ""
            return re.search(rf"\] {moment.stage}\n", text) is not None

        self._wait(lambda: self.state not in ("queued", "running") or there())
        return self.state == "running"

    def _steps(self) -> int:
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

    def _kill(self, server: subprocess.Popen[bytes], victim: str) -> None:
        # None while the server loads its base: then it is the last one's worker that is ending.
        workers = [
            child for child in psutil.Process(server.pid).children() if "worker" in child.cmdline()
        ]
        if victim != "worker":
            server.send_signal(signal.SIGKILL)
        if victim != "server":
            for worker in workers:
                worker.kill()
            time.sleep(0.5)  # a moment in which the job's process has to end, too
        server.kill()
        server.wait()

    def _wait(self, holds: Any) -> None:
        deadline = time.monotonic() + PATIENCE
        while not holds():
            assert time.monotonic() < deadline, (self.state, self.jobs.log(LOCAL, self.job))
            time.sleep(0.02)


def stop(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is None:
        server.terminate()
    server.wait(60)


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


def compare(folder: Path, count: int, seed: int, url: str | None = None) -> Disturbed:
    """Do one job undisturbed and the same with kills: they must end with the same bytes."""
    source, base = make_source(folder / "source"), make_base(folder / "tiny")
    runs = []
    for name, address in (("whole", None), ("broken", url)):
        home = folder / name
        home.mkdir()
        with Database.open(address or f"sqlite:///{home / 'codetune.db'}") as database:
            run = Disturbed(home, base, database)
            run.submit(source)
            if name == "whole":
                Worker(database, home, environment={**os.environ, **ONE_THREAD}).run(once=True)
            else:
                run.go_through(moments(count, seed))
            runs.append((run, run.result(), run.weights()))
    (_, result, weights), (broken, broken_result, broken_weights) = runs
    assert broken_result == result
    assert broken_weights == weights and weights
    return broken


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--moments", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--database")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True)
    os.environ["CODETUNE_HOME"] = str(arguments.folder / "whole")
    run = compare(arguments.folder, arguments.moments, arguments.seed, arguments.database)
    for moment in run.killed:
        where = moment.stage or f"step {moment.step}"
        print(f"killed {moment.victim:<6} {moment.delay:.2f} s after {where}")
    print(f"{len(run.killed)} kills; the same bytes and the same scorecard as undisturbed")


if __name__ == "__main__":
    main()
