"""The queue: bounded, fair among tenants, and empty before the server ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from codetune.errors import OverloadedError, ServingError
from codetune.serving.engine import Job
from codetune.serving.engines.local import LocalEngine
from codetune.serving.engines.sequence import Sequence
from codetune.serving.engines.waiting import WaitingQueue
from tests.unit.serving.conftest import Asker

Engines = Callable[..., LocalEngine]


def of(asker: Asker, tenant: str, **rules: int) -> Job:
    return replace(asker.job("x", **rules), tenant=tenant)


def test_the_fullest_tenant_makes_room(asker: Asker) -> None:
    async def check() -> None:
        queue = WaitingQueue(4)
        flood = [Sequence(of(asker, "ann")) for _ in range(4)]
        for sequence in flood:
            assert queue.add([sequence]) == []
        with pytest.raises(OverloadedError, match="4 of them yours") as caught:
            queue.add([Sequence(of(asker, "ann"))])
        assert 1 <= caught.value.retry_after <= 60
        for left in (3, 2):
            ((out, error),) = queue.add([Sequence(of(asker, "bob"))])
            assert out is flood[left]  # the newest one
            assert error.retry_after >= 1
        with pytest.raises(OverloadedError):  # two and two: nobody has more than bob
            queue.add([Sequence(of(asker, "bob"))])
        assert len(queue) == 4

    asyncio.run(check())


def test_tenants_take_turns_and_places_count(asker: Asker) -> None:
    async def check() -> None:
        queue = WaitingQueue(99)
        for tenant in "aaaabbc":
            queue.add([Sequence(of(asker, tenant))])
        order = "".join(sequence.job.tenant for sequence in queue.order({}))
        assert order == "abcabaa"
        order = "".join(sequence.job.tenant for sequence in queue.order({"b": 1, "c": 3}))
        assert order == "aababac"

    asyncio.run(check())


def test_a_flood_does_not_starve_another_tenant(asker: Asker, engines: Engines) -> None:
    engine = engines(max_running=2, max_waiting=8)
    engine.load(asker.plain)

    async def check() -> list[str]:
        ended: list[str] = []

        async def one(name: str, tenant: str) -> None:
            try:
                await asker.one(engine, of(asker, tenant, max_tokens=60))
                ended.append(name)
            except OverloadedError:
                ended.append(f"{name} refused")

        flood = [asyncio.create_task(one(f"ann{n}", "ann")) for n in range(8)]
        await asyncio.sleep(0)
        other = asyncio.create_task(one("bob", "bob"))
        await asyncio.gather(*flood, other)
        return ended

    ended = asyncio.run(check())
    assert ended.index("bob") < 5, ended
    assert len(ended) == 9


def test_a_full_queue_displaces_with_429_and_answers_the_rest(
    asker: Asker, engines: Engines
) -> None:
    engine = engines(max_running=1, max_waiting=2)
    engine.load(asker.plain)

    async def check() -> None:
        running = engine.submit([of(asker, "ann", max_tokens=200)])[0]
        await anext(aiter(running))
        waiting = [engine.submit([of(asker, "ann", max_tokens=2)])[0] for _ in range(2)]
        other = engine.submit([of(asker, "bob", max_tokens=2)])[0]
        with pytest.raises(OverloadedError, match="yours"):
            async for _ in waiting[1]:
                pass
        for generation in (other, waiting[0]):
            assert [piece.finish async for piece in generation][-1]

    asyncio.run(check())
    stats = engine.stats()
    assert (stats.refused, stats.submitted) == (1, 4)


def test_closing_lets_answers_end_and_takes_no_more(asker: Asker, engines: Engines) -> None:
    engine = engines()
    engine.load(asker.plain)

    async def check() -> None:
        running = asyncio.create_task(asker.one(engine, asker.job("x", max_tokens=300)))
        while not engine.busy()["running"]:
            await asyncio.sleep(0.001)
        closing = asyncio.create_task(asyncio.to_thread(engine.close, 60.0))
        while not engine._closing:
            await asyncio.sleep(0.001)
        with pytest.raises(ServingError, match="shutting down"):
            engine.submit([asker.job("x")])
        assert (await running)[1].tokens == 300
        await closing

    asyncio.run(check())


def test_closing_breaks_off_what_takes_longer(asker: Asker, engines: Engines) -> None:
    engine = engines()
    engine.load(asker.plain)

    async def check() -> None:
        generation = aiter(engine.submit([asker.job("x", max_tokens=1000)])[0])
        await anext(generation)
        started = time.monotonic()
        await asyncio.to_thread(engine.close, 0.05)
        assert time.monotonic() - started < 10
        with pytest.raises(ServingError, match="shutting down"):
            async for _ in generation:
                pass

    asyncio.run(check())


def test_the_counters_count(asker: Asker, engines: Engines) -> None:
    engine = engines()
    asker.together(engine, [asker.job("x", max_tokens=5), asker.job("yy", max_tokens=7)])

    async def cancelled() -> None:
        generation = engine.submit([asker.job("x", max_tokens=900)])[0]
        await anext(aiter(generation))
        generation.cancel()
        while any(engine.busy().values()):
            await asyncio.sleep(0.005)

    asyncio.run(cancelled())
    stats = engine.stats()
    assert (stats.submitted, stats.finished, stats.cancelled, stats.failed) == (3, 2, 1, 0)
    assert stats.prompt_tokens == 4
    assert stats.answer_tokens > 12
    assert stats.queue_wait.count == stats.first_token.count == 3
    assert stats.answer_time.count == 2
    assert stats.steps == stats.batch.count
    assert stats.weights_bytes > 100_000
    assert (stats.running, stats.waiting, stats.models) == (0, 0, 1)
