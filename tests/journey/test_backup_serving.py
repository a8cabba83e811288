"""A backup taken while a server answers and people write, and what is served from it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from codetune.models.load import BaseModel
from codetune.registry.cards import Registry
from tests.databases import new_database
from tests.unit.serving.tiny_models import base_of, make_adapter, make_base, register

WRITTEN = 8  # of everything, before and during the backup
ASK = {"model": "shop", "prompt": "def sell(", "max_tokens": 24, "temperature": 0}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return base_of(make_base(tmp_path_factory.mktemp("bases") / "tiny"))


def environment(home: Path, url: str) -> dict[str, str]:
    return {**os.environ, "CODETUNE_HOME": str(home), "CODETUNE_DATABASE": url}


@contextmanager
def served(home: Path, url: str, base: BaseModel) -> Iterator[httpx.Client]:
    """`codetune serve` without a worker."""
    printed = home / "printed"
    with printed.open("w") as out:
        command = ["serve", "--port", "0", "--jobs", "0", "--base", str(base.path)]
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "codetune", *command],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment(home, url),
        )
    try:
        deadline = time.monotonic() + 120
        while not (found := re.search(r"http://[\d.:]+", printed.read_text())):
            assert process.poll() is None and time.monotonic() < deadline, printed.read_text()
            time.sleep(0.05)
        with httpx.Client(base_url=found[0], timeout=60) as client:
            yield client
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def repeated(*works: Callable[[int], None]) -> Iterator[Callable[[], list[int]]]:
    """Each work in a thread of its own, over and over; gives how often each was done so far."""
    stop, counts, errors = threading.Event(), [0] * len(works), list[BaseException]()

    def repeat(place: int) -> None:
        try:
            while not stop.is_set():
                works[place](counts[place])
                counts[place] += 1
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=repeat, args=(n,)) for n in range(len(works))]
    for thread in threads:
        thread.start()
    try:
        yield lambda: list(counts) if not errors else [-1]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        assert errors == []


def wait(holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def everything(client: httpx.Client, path: str) -> list[dict[str, Any]]:
    """All of a list, oldest first; what is made meanwhile moves the pages."""
    found, offset = dict[str, dict[str, Any]](), 0
    while True:
        window = {"limit": 500, "offset": offset}
        page = client.get(path, params=window).raise_for_status().json()["items"]
        found |= {one["id"]: one for one in page}
        if not page:
            return sorted(found.values(), key=lambda one: (one["created"], one["id"]))
        offset += len(page)


def text(client: httpx.Client) -> str:
    answer = client.post("/v1/completions", json=ASK).raise_for_status().json()
    return str(answer["choices"][0]["text"])


@pytest.fixture
def another(database_url: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A second database of the same kind."""
    if database_url.startswith("sqlite"):
        yield f"sqlite:///{tmp_path / 'another.db'}"
        return
    with new_database(request.getfixturevalue("postgres")) as url:
        yield url


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_home_that_was_backed_up_under_load_serves_the_same(
    base: BaseModel, database_url: str, another: str, tmp_path: Path
) -> None:
    home, restored, file = tmp_path / "home", tmp_path / "restored", tmp_path / "backup.tar"
    for folder in (home, restored):
        folder.mkdir()
        (folder / "jobs.yaml").write_text("max_queued: 100000\n")
    adapter = make_adapter(base, tmp_path / "adapter", seed=1)
    register(home, "shop", base, adapter)
    (tmp_path / "source").mkdir()

    with served(home, database_url, base) as client:

        def tune(number: int) -> None:  # a job, its first event and a claim of a model's name
            asked = {"source": str(tmp_path / "source"), "name": f"model-{number}"}
            assert client.post("/api/v1/tuning/", json=asked).status_code == 202
            time.sleep(0.05)

        def send(number: int) -> None:  # a row and a file
            line = json.dumps({"instruction": f"Add {number}", "output": "x" * 100}) + "\n"
            files = {"file": (f"{number}.jsonl", line.encode())}
            made = client.post("/api/v1/datasets/upload", files=files)
            assert made.status_code == 201
            if number % 2:  # and away again
                gone = client.delete(f"/api/v1/datasets/{made.json()['id']}")
                assert gone.status_code == 204

        def version(number: int) -> None:
            one = tmp_path / f"adapter-{number}"
            make_adapter(base, one, seed=10 + number)
            register(home, "other", base, one)
            time.sleep(0.3)

        before = text(client)
        with repeated(tune, send, version, lambda _: text(client)) as counts:
            wait(lambda: min(counts()) < 0 or (counts()[0] >= WRITTEN and min(counts()) > 0))
            first, least = everything(client, "/api/v1/tuning/"), counts()
            command = [sys.executable, "-m", "codetune", "backup", str(file)]
            subprocess.run(command, check=True, env=environment(home, database_url))
            most, last = counts(), everything(client, "/api/v1/tuning/")
        command = [sys.executable, "-m", "codetune", "restore", str(file), "--replace"]
        refused = subprocess.run(
            command, capture_output=True, text=True, env=environment(home, database_url)
        )
        assert refused.returncode == 2 and "A server or a worker uses" in refused.stderr
        assert text(client) == before

    command = [sys.executable, "-m", "codetune", "restore", str(file)]
    subprocess.run(command, check=True, env=environment(restored, another))
    with served(restored, another, base) as client:
        assert text(client) == before
        jobs = everything(client, "/api/v1/tuning/")
        assert len(first) <= len(jobs) <= len(last)
        assert jobs == last[: len(jobs)]  # the oldest, without a gap
        sets = everything(client, "/api/v1/datasets/")
        assert sets
        for one in sets:
            rows = client.get(f"/api/v1/datasets/{one['id']}/preview").raise_for_status()
            assert "Add" in rows.text
    assert not Registry(restored).problems()
    versions = [card for card in Registry(restored).list() if card.name == "other"]
    assert least[2] <= len(versions) <= most[2] + 1
    held = {path.name for path in (restored / "datasets").iterdir()}
    assert held == {one["id"] for one in sets}  # no file without its row
