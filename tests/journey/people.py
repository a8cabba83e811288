"""The people of a soak: each with an account and adapters, writing in every dialect, tuning,
leaving in the middle; and the books of what they asked for and what came of it."""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

USERS = ("ada", "bob", "cyd", "dan", "eve", "fay")
ADAPTERS = 2  # of each user; of all of them a few fit into memory
ENDED = ("succeeded", "failed", "cancelled")
# 429 and 503 are answers on purpose, and say when to come back.
EXPECTED = {200, 201, 202, 204, 400, 404, 409, 422, 429, 503}
AGAIN = {429, 503}
PATIENCE = 600.0  # seconds in which the last jobs have to end
TEXT = "from warehouse.core import Outcome\n\n\ndef settle(invoice, limit):\n    if "


@dataclass
class Books:
    """What was asked for and what came of it."""

    answers: Counter[tuple[str, str]] = field(default_factory=Counter)  # by kind and outcome
    problems: list[str] = field(default_factory=list)
    jobs: dict[str, tuple[str, str]] = field(default_factory=dict)  # id → user, model or ""
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
        self.url, self.headers = url, {"Authorization": f"Bearer {token}"}
        self.client = self.connect()
        self.chance = random.Random(name)
        self.made = 0

    @property
    def model(self) -> str:
        """One of their adapters, a model of a finished job, or the base."""
        own = [f"{self.name}/shop-{number}" for number in range(ADAPTERS)]
        return self.chance.choice([*own, "tiny"])

    def connect(self) -> httpx.AsyncClient:
        """A client of its own: one that gives up requests keeps their places in its pool."""
        return httpx.AsyncClient(base_url=self.url, headers=self.headers, timeout=120)

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

    async def post(
        self,
        kind: str,
        path: str,
        body: Mapping[str, Any],
        client: httpx.AsyncClient | None = None,
    ) -> httpx.Response:
        answer = await (client or self.client).post(path, json=body)
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
        async with self.connect() as editor:
            for character in "amount > limit:":
                text += character
                asked = {"prompt": text, "max_tokens": 24, "model": model}
                try:
                    # Not `wait_for`, in which the end of the load can get lost (Python 3.11).
                    async with asyncio.timeout(self.chance.uniform(0.005, 0.08)):
                        await self.post("keystroke", "/v1/completions", asked, editor)
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
        async with (
            self.connect() as editor,
            editor.stream("POST", "/v1/chat/completions", json=asked) as answer,
        ):
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

    async def find_jobs(self) -> None:
        """Note those, too, whose number this person did not wait for."""
        answer = await self.client.get("/api/v1/tuning", params={"limit": 500})
        self.books.note("look", answer)
        for job in answer.json()["items"]:
            self.books.jobs.setdefault(job["id"], (self.name, ""))

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
        elif state == "succeeded" and model:
            asked = {"prompt": TEXT, "max_tokens": 4, "model": model}
            answer = await self.post("tuned", "/v1/completions", asked)
            if answer.status_code != 200:
                self.books.problems.append(f"{model}: {answer.status_code} {answer.text[:300]}")
