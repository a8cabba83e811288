"""Mixed load for as long as is wanted: people write in every dialect, leave in the middle of
answers, tune and cancel, while workers and jobs are killed. Then the books have to balance.

python -m tests.journey.soak --minutes 30 --database postgres FOLDER
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import httpx
import psutil

from codetune.accounts import tokens, users
from codetune.registry.access import SCOPES, Actor
from codetune.registry.ownership import claim
from codetune.store.database import Database
from tests.journey.killed import ONE_THREAD, below, database_of, kill, make_source
from tests.journey.people import ADAPTERS, USERS, Books, Person
from tests.unit.serving.tiny_models import base_of, make_adapter, make_base, register

# Bytes that the server may grow by from the second quarter of the time to the last: oneDNN keeps
# up to 1,024 compiled products, one for each length of a prompt, which takes the first minutes.
GROWTH, FILLING, FILLED = 24e6, 120e6, 10.0  # after so many minutes, and before
SETTLED = 20.0  # seconds in which everything has to come to rest
# Who is killed again and again has not crashed for a reason of its own: it is never given up.
JOBS = """\
roots: ['{}']
backoff: 0.2
max_crashes: 1000
max_losses: 1000
"""
CONFIG = """\
serving:
  max_running: 8
  max_waiting: 24
  adapters_gb: 0.002
  cache_gb: 0.02
"""


class Soak:
    """One server with its people, for some minutes."""

    def __init__(self, folder: Path, url: str, minutes: float) -> None:
        self.seconds, self.books = minutes * 60, Books()
        self.home, self.url = folder / "home", url
        self.home.mkdir(exist_ok=True)
        self.base = make_base(folder / "tiny")
        self.source = make_source(folder / "source")
        (self.home / "jobs.yaml").write_text(JOBS.format(self.source))
        (folder / "codetune.yaml").write_text(CONFIG)
        self.config = folder / "codetune.yaml"
        base = base_of(self.base)
        self.tokens: dict[str, str] = {}
        with Database.open(url) as database, database.write() as session:
            root = users.add_user(session, "root1", None, "admin")
            self.root = tokens.make_token(session, root, "soak", SCOPES)[1]
            for order, name in enumerate(USERS):
                user = users.add_user(session, name, None, "member")
                self.tokens[name] = tokens.make_token(session, user, "soak", SCOPES)[1]
                for number in range(ADAPTERS):
                    made = folder / f"{name}-{number}"
                    make_adapter(base, made, seed=10 * order + number)
                    register(self.home, f"{name}/shop-{number}", base, made)
                    claim(session, Actor(user.id, name, "member"), f"{name}/shop-{number}")

    def run(self) -> Books:
        """Serve, load, and come to rest; what is wrong is among the books' problems."""
        said = self.home / "said"
        command = ["serve", "--port", "0", "--base", str(self.base), "--config", str(self.config)]
        with said.open("w") as out:
            server = psutil.Popen(
                [sys.executable, "-u", "-m", "codetune", *command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={
                    **os.environ,
                    **ONE_THREAD,
                    "CODETUNE_HOME": str(self.home),
                    "CODETUNE_DATABASE": self.url,
                },
            )
        try:
            asyncio.run(self._load(server, _address(said, server)))
            if server.poll() is not None:
                self.books.problems.append(f"the server ended with {server.returncode}")
        finally:
            server.terminate()
            if server.wait(60) != 128 + signal.SIGTERM:
                self.books.problems.append(f"the stopped server ended with {server.returncode}")
        tracebacks = said.read_text().count("Traceback (most recent call last)")
        if tracebacks:
            self.books.problems.append(f"{tracebacks} tracebacks in {said}")
        return self.books

    async def _load(self, server: psutil.Popen, address: str) -> None:
        people = {
            name: Person(name, token, address, self.books, self.source)
            for name, token in self.tokens.items()
        }
        tasks = [asyncio.create_task(one.work()) for one in people.values()]
        tasks += [asyncio.create_task(people[name].tune()) for name in USERS[:3]]
        tasks += [asyncio.create_task(self._kill(server)), asyncio.create_task(self._watch(server))]
        done, _ = await asyncio.wait(tasks, timeout=self.seconds)
        for task in done:  # none of them ends by itself
            self.books.problems.append(f"the load broke off: {task.exception()!r}")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            for one in people.values():
                await one.find_jobs()
            for job, (name, model) in self.books.jobs.items():
                await people[name].check(job, model)
            async with Person("root1", self.root, address, self.books, self.source).client as root:
                await self._come_to_rest(root)
        except httpx.HTTPError as error:
            self.books.problems.append(f"afterwards: {type(error).__name__}: {error}")
        for one in people.values():
            await one.client.aclose()

    async def _kill(self, server: psutil.Popen) -> None:
        """Kill a worker, or the process that does a job, every few seconds."""
        chance = random.Random(0)
        while True:
            await asyncio.sleep(chance.uniform(6, 20))
            victim, word = chance.choice([("worker", "worker"), ("job", "codetune.jobs.child")])
            for process in below(server.pid, word)[-1:]:
                kill(process)
                self.books.kills[victim] += 1

    async def _watch(self, server: psutil.Popen) -> None:
        while True:
            self.books.memory.append(server.memory_info().rss)
            await asyncio.sleep(2)

    async def _come_to_rest(self, client: httpx.AsyncClient) -> None:
        """No place is held any more, and every answer that was asked for has ended somehow."""
        deadline = time.monotonic() + SETTLED
        while True:
            page = metrics((await client.get("/metrics")).raise_for_status().text)
            running = page["codetune_answers_running"] + page["codetune_answers_waiting"]
            if not running and page["codetune_http_requests_running"] <= 1:
                break
            if time.monotonic() > deadline:
                self.books.problems.append(f"{running:g} answers still hold a place")
                break
            await asyncio.sleep(0.2)
        ended = page["codetune_answers_total"]
        if not ended:
            self.books.problems.append("the metrics page counts no answers")
        if ended != page["codetune_answers_submitted_total"]:
            asked = page["codetune_answers_submitted_total"]
            self.books.problems.append(f"of {asked:g} answers {ended:g} have ended")
        if self.books.grown() > (GROWTH if self.seconds >= FILLED * 60 else FILLING):
            self.books.problems.append(f"the server grew by {self.books.grown() / 1e6:.0f} MB")


def metrics(page: str) -> Counter[str]:
    """The sums of a metrics page over all labels, by name."""
    found: Counter[str] = Counter()
    for name, value in re.findall(r"^(\w+)(?:\{.*\})? (\S+)$", page, re.MULTILINE):
        found[name] += float(value)  # type: ignore[assignment]
    return found


def _address(said: Path, server: psutil.Popen) -> str:
    deadline = time.monotonic() + 120
    while not (found := re.search(r"http://[\d.:]+", said.read_text())):
        assert server.poll() is None and time.monotonic() < deadline, said.read_text()
        time.sleep(0.05)
    return found[0]


def report(books: Books) -> str:
    """What happened, to be read."""
    lines = [f"{sum(books.answers.values())} answers:"]
    kinds = sorted({kind for kind, _ in books.answers})
    for kind in kinds:
        ends = {end: count for (one, end), count in books.answers.items() if one == kind}
        lines.append(
            f"  {kind:<12} " + ", ".join(f"{n} × {end}" for end, n in sorted(ends.items()))
        )
    kills = ", ".join(f"{count} × {victim}" for victim, count in sorted(books.kills.items()))
    lines.append(f"killed: {kills}")
    lines.append(f"jobs: {len(books.jobs)}, of them {len(books.cancelled)} cancelled")
    if books.memory:
        sizes = [round(size / 1e6) for size in books.memory]
        step = max(1, len(sizes) // 12)
        lines.append(f"server's memory, MB: {' '.join(map(str, sizes[::step]))}")
        lines.append(f"grown from the second quarter to the last: {books.grown() / 1e6:+.1f} MB")
    lines += [f"PROBLEM {problem}" for problem in books.problems[:40]]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a new one, for homes and logs")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    arguments = parser.parse_args()
    if arguments.folder.exists():
        parser.error(f"{arguments.folder} is there already: name a new folder")
    arguments.folder.mkdir(parents=True)
    with database_of(arguments.database) as url:
        file = arguments.folder / "home" / "codetune.db"
        books = Soak(arguments.folder, url or f"sqlite:///{file}", arguments.minutes).run()
    print(report(books))
    return 1 if books.problems else 0


if __name__ == "__main__":
    sys.exit(main())
