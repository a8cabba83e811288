"""Mixed load for as long as is wanted: people write in every dialect, leave in the middle of
answers, tune and cancel, while workers and jobs are killed. Then the books have to balance.

python -m tests.journey.soak --minutes 30 --database postgres FOLDER
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from codetune.accounts import tokens, users
from codetune.registry.access import SCOPES, Actor
from codetune.registry.ownership import claim
from codetune.store.database import Database
from tests.journey.killed import ONE_THREAD, below, database_of, kill, make_source
from tests.unit.serving.tiny_models import base_of, make_adapter, make_base, register

USERS = ("ada", "bob", "cyd", "dan", "eve", "fay")
ADAPTERS = 2  # of each user; of all of them a few fit into memory
ENDED = ("succeeded", "failed", "cancelled")
# 429 and 503 are answers on purpose, and say when to come back.
EXPECTED = {200, 201, 202, 204, 400, 404, 409, 422, 429, 503}
AGAIN = {429, 503}
# Bytes that the server may grow by from the second quarter of the time to the last: oneDNN keeps
# up to 1,024 compiled products, one for each length of a prompt, which takes the first minutes.
GROWTH, FILLING, FILLED = 24e6, 120e6, 10.0  # after so many minutes, and before
SETTLED = 20.0  # seconds in which everything has to come to rest
PATIENCE = 600.0  # seconds in which the last jobs have to end
TEXT = "from warehouse.core import Outcome\n\n\ndef settle(invoice, limit):\n    if "
CONFIG = """\
serving:
  max_running: 8
  max_waiting: 24
  adapters_gb: 0.002
  cache_gb: 0.02
"""


@dataclass
class Books:
    """What was asked for and what came of it."""

    answers: Counter[tuple[str, str]] = field(default_factory=Counter)  # by kind and outcome
    problems: list[str] = field(default_factory=list)
    jobs: dict[str, tuple[str, str]] = field(default_factory=dict)  # id → user, model
    cancelled: set[str] = field(default_factory=set)
    kills: Counter[str] = field(default_factory=Counter)
    memory: list[int] = field(default_factory=list)  # bytes of the server, every few seconds

    def note(self, kind: str, answer: httpx.Response) -> None:
        """An answer's status; what must not be is a problem."""
        status = answer.status_code
        self.answers[kind, str(status)] += 1
        if status not in EXPECTED:
            self.problems.append(f"{kind}: {status} {answer.text[:300]}")
        if status in AGAIN and "Retry-After" not in answer.headers:
            self.problems.append(f"{kind}: {status} without Retry-After")

    def grown(self) -> float:
        """Bytes, from the second quarter of the time to the last."""
        quarter = max(1, len(self.memory) // 4)
        before, after = self.memory[quarter : 2 * quarter], self.memory[-quarter:]
        return statistics.median(after) - statistics.median(before) if before else 0.0


class Person:
    """Somebody at an editor, with an account and adapters of their own."""

    def __init__(self, name: str, token: str, url: str, books: Books, source: Path) -> None:
        self.name, self.books, self.source = name, books, source
        headers = {"Authorization": f"Bearer {token}"}
        self.client = httpx.AsyncClient(base_url=url, headers=headers, timeout=120)
        self.chance = random.Random(name)
        self.made = 0

    @property
    def model(self) -> str:
        """One of their adapters, a model of a finished job, or the base."""
        own = [f"{self.name}/shop-{number}" for number in range(ADAPTERS)]
        return self.chance.choice([*own, "tiny"])

    async def work(self) -> None:
        """Ask for this and that until cancelled."""
        ways: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self.complete, 6),
            (self.type_on, 6),
            (self.stream, 4),
            (self.leave, 4),
            (self.other_dialects, 6),
            (self.look_around, 2),
            (self.ask_wrongly, 2),
            (self.send_a_set, 1),
        ]
        doing, weights = zip(*ways, strict=True)
        while True:
            try:
                await self.chance.choices(doing, weights)[0]()
            except (httpx.HTTPError, OSError) as error:
                self.books.problems.append(f"{self.name}: {type(error).__name__}: {error}")
            await asyncio.sleep(self.chance.expovariate(10))

    async def post(self, kind: str, path: str, body: Mapping[str, Any]) -> httpx.Response:
        answer = await self.client.post(path, json=body)
        self.books.note(kind, answer)
        return answer

    async def complete(self) -> None:
        asked = {"prompt": self.text(), "suffix": "\n", "max_tokens": 16, "model": self.model}
        await self.post("completion", "/v1/completions", asked)

    def text(self) -> str:
        return TEXT + self.chance.choice(["invoice.", "limit ", "not "]) * self.chance.randint(1, 9)

    async def type_on(self) -> None:
        """A request a keystroke; each earlier one is given up."""
        text, model = self.text(), self.model
        for character in "amount > limit:":
            text += character
            asked = {"prompt": text, "max_tokens": 24, "model": model}
            patience = self.chance.uniform(0.005, 0.08)
            try:
                await asyncio.wait_for(self.post("keystroke", "/v1/completions", asked), patience)
            except TimeoutError:
                self.books.answers["keystroke", "given up"] += 1

    async def stream(self) -> None:
        await self._stream("stream", None)

    async def leave(self) -> None:
        await self._stream("left", self.chance.randint(0, 4))

    async def _stream(self, kind: str, most: int | None) -> None:
        """Read a stream to its end, or leave after `most` lines."""
        asked = {"messages": [{"role": "user", "content": self.text()}], "stream": True}
        asked |= {"max_tokens": 48, "model": self.model}
        async with self.client.stream("POST", "/v1/chat/completions", json=asked) as answer:
            if answer.status_code != 200:
                await answer.aread()
                self.books.note(kind, answer)
                return
            lines = 0
            async for line in answer.aiter_lines():
                if most is not None and lines >= most:
                    self.books.answers[kind, "left"] += 1
                    return
                lines += 1
                if '"error"' in line:
                    self.books.problems.append(f"{kind}: {line[:300]}")
                if line == "data: [DONE]":
                    self.books.answers[kind, "200"] += 1
                    return
        self.books.problems.append(f"{kind}: a stream without its end")

    async def other_dialects(self) -> None:
        text, model = self.text(), self.model
        kind, path, body = self.chance.choice(
            [
                ("fim", "/v1/fim/completions", {"prompt": text, "suffix": "\n", "max_tokens": 12}),
                ("infill", "/infill", {"input_prefix": text, "input_suffix": "", "n_predict": 12}),
                ("generate", "/api/generate", {"prompt": text, "options": {"num_predict": 12}}),
                ("embed", "/api/embed", {"input": [text, "limit"]}),
                ("tabby", "/v1/completions", {"segments": {"prefix": text, "suffix": "\n"}}),
            ]
        )
        answer = await self.post(kind, path, {"model": model, **body})
        if kind == "tabby" and answer.status_code == 200:
            seen = {"type": self.chance.choice(["view", "select", "dismiss"])}
            seen |= {"completion_id": answer.json()["id"]}
            await self.post("event", "/v1/events", seen)

    async def look_around(self) -> None:
        for path in ("/v1/models", "/api/v1/tuning", "/api/v1/analytics", "/health", "/api/tags"):
            self.books.note("look", await self.client.get(path))

    async def ask_wrongly(self) -> None:
        """Somebody else's model is not there; nor does nonsense do harm."""
        other = self.chance.choice([name for name in USERS if name != self.name])
        asked = {"prompt": "x", "model": f"{other}/shop-0"}
        answer = await self.post("not theirs", "/v1/completions", asked)
        if answer.status_code != 404:
            self.books.problems.append(f"{self.name} got {asked['model']}: {answer.status_code}")
        await self.post("wrong", "/v1/completions", {"prompt": 7, "max_tokens": "many"})

    async def send_a_set(self) -> None:
        line = json.dumps({"instruction": "Add", "output": f"{self.name} {self.made}"}) + "\n"
        self.made += 1
        files = {"file": ("set.jsonl", line.encode())}
        answer = await self.client.post("/api/v1/datasets/upload", files=files)
        self.books.note("upload", answer)
        if answer.status_code == 201:
            path = f"/api/v1/datasets/{answer.json()['id']}"
            self.books.note("delete", await self.client.delete(path))

    async def tune(self) -> None:
        """One tuning after the other, now and then cancelled; the model that comes is asked."""
        while True:
            number = len(self.books.jobs)
            job = await self._submit(number)
            if job is not None and number % 5 == 4:
                await asyncio.sleep(self.chance.uniform(0, 8))
                self.books.note(
                    "cancel", await self.client.post(f"/api/v1/tuning/{job}/cancel", json={})
                )
                self.books.cancelled.add(job)
            while job is not None and await self.state(job) not in ENDED:
                await asyncio.sleep(1)
            await asyncio.sleep(1)

    async def _submit(self, number: int) -> str | None:
        config = {
            "dataset": {"replay_share": 0.0},
            "training": {
                "max_steps": 8,
                "batch_tokens": 512,
                "rank": 4,
                "seed": number,
                "checkpoint_seconds": 0,
                "forgetting_limit": None,
            },
            "evaluation": {"fim_prompts": 2, "general_bytes": 512, "text_bytes": 1024},
        }
        asked = {"source": str(self.source), "name": f"{self.name}-{number % 4}", "config": config}
        answer = await self.post("tune", "/api/v1/tuning", asked)
        if answer.status_code != 202:
            self.books.problems.append(f"tune: {answer.status_code} {answer.text[:300]}")
            return None
        job = str(answer.json()["id"])
        self.books.jobs[job] = (self.name, asked["name"])
        return job

    async def state(self, job: str) -> str:
        answer = await self.client.get(f"/api/v1/tuning/{job}")
        self.books.note("job", answer)
        return str(answer.json().get("state"))

    async def check(self, job: str, model: str) -> None:
        """A job that nobody cancelled has succeeded, and its model answers."""
        deadline = time.monotonic() + PATIENCE
        while (state := await self.state(job)) not in ENDED and time.monotonic() < deadline:
            await asyncio.sleep(1)
        good = {"succeeded", "cancelled"} if job in self.books.cancelled else {"succeeded"}
        self.books.answers["ended", state] += 1
        if state not in good:
            answer = await self.client.get(f"/api/v1/tuning/{job}")
            self.books.problems.append(f"job {job} is {state}: {answer.json().get('error')}")
        elif state == "succeeded":
            asked = {"prompt": TEXT, "max_tokens": 4, "model": model}
            answer = await self.post("tuned", "/v1/completions", asked)
            if answer.status_code != 200:
                self.books.problems.append(f"{model}: {answer.status_code} {answer.text[:300]}")


class Soak:
    """One server with its people, for some minutes."""

    def __init__(self, folder: Path, url: str, minutes: float) -> None:
        self.seconds, self.books = minutes * 60, Books()
        self.home, self.url = folder / "home", url
        self.home.mkdir(exist_ok=True)
        self.base = make_base(folder / "tiny")
        self.source = make_source(folder / "source")
        (self.home / "jobs.yaml").write_text(f"roots: ['{self.source}']\nbackoff: 0.2\n")
        (folder / "codetune.yaml").write_text(CONFIG)
        self.config = folder / "codetune.yaml"
        base = base_of(self.base)
        self.tokens: dict[str, str] = {}
        with Database.open(url) as database, database.write() as session:
            users.add_user(session, "root1", None, "admin")
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
        for job, (name, model) in list(self.books.jobs.items()):
            await people[name].check(job, model)
        await self._come_to_rest(people[USERS[0]].client, server)
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

    async def _come_to_rest(self, client: httpx.AsyncClient, server: psutil.Popen) -> None:
        """No place is held any more, and every answer that was asked for has ended somehow."""
        deadline = time.monotonic() + SETTLED
        while True:
            page = metrics((await client.get("/metrics")).text)
            running = page["codetune_answers_running"] + page["codetune_answers_waiting"]
            if not running and page["codetune_http_requests_running"] <= 1:
                break
            if time.monotonic() > deadline:
                self.books.problems.append(f"{running:g} answers still hold a place")
                break
            await asyncio.sleep(0.2)
        ended = page["codetune_answers_total"]
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
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True)
    with database_of(arguments.database) as url:
        file = arguments.folder / "home" / "codetune.db"
        books = Soak(arguments.folder, url or f"sqlite:///{file}", arguments.minutes).run()
    print(report(books))
    return 1 if books.problems else 0


if __name__ == "__main__":
    sys.exit(main())
