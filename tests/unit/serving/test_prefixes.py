"""What a tenant's earlier requests had read is not read again, and never lent to another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from codetune.serving.engine import Job, Servable
from codetune.serving.engines.cache import KeyValueCache
from codetune.serving.engines.local import LocalEngine
from codetune.serving.engines.prefixes import Owner, PrefixCache, common_length
from codetune.serving.engines.shape import Shape
from tests.unit.serving.conftest import Asker

Engines = Callable[..., LocalEngine]
FILE = "def price(item, amount):\n    return item.cost * amount\n\n\n" * 3


def keystrokes(asker: Asker, tenant: str, model: Servable | None = None, **rules: Any) -> list[Job]:
    """A file and five characters more, one by one."""
    prompts = [FILE + "print"[:n] for n in range(6)]
    return [
        replace(asker.job(prompt, model, **rules), tenant=tenant, stream=True) for prompt in prompts
    ]


def typed(engine: LocalEngine, jobs: list[Job]) -> list[str]:
    """Each answer but the last one is cancelled after its first piece, as an editor does."""

    async def ask() -> list[str]:
        texts = []
        for job in jobs[:-1]:
            generation = engine.submit([job])[0]
            texts.append((await anext(aiter(generation))).text)
            generation.cancel()
        async for piece in engine.submit([jobs[-1]])[0]:
            texts.append(piece.text)
        return texts

    return asyncio.run(ask())


@pytest.mark.parametrize("sampled", [False, True])
def test_reuse_changes_no_answer(
    sampled: bool, asker: Asker, adapters: list[Servable], engines: Engines
) -> None:
    rules: dict[str, Any] = {"temperature": 1.1, "seed": 5} if sampled else {}
    engine, plain = engines(), engines(reuse_prefixes=False)
    for model in (None, *adapters):
        jobs = keystrokes(asker, "ann", model, **rules)
        assert asker.apart(engine, jobs) == asker.apart(plain, jobs)
    assert engine.stats().prefix_hits == 15
    assert engine.stats().reused_tokens > 15 * (len(FILE) - 1)
    assert plain.stats().prefix_hits == plain.stats().prefix_bytes == 0


def test_a_cancelled_answer_leaves_what_it_had_read(asker: Asker, engines: Engines) -> None:
    engine = engines()
    jobs = keystrokes(asker, "ann")
    typed(engine, jobs)
    stats = engine.stats()
    assert stats.prefix_hits == 5
    assert stats.prompt_tokens - stats.reused_tokens < len(FILE) + 12
    ((text, _),) = asker.together(engines(), [jobs[-1]])
    ((again, _),) = asker.together(engine, [jobs[-1]])
    assert again == text


def test_nothing_is_shared_across_tenants_or_models(
    asker: Asker, adapters: list[Servable], engines: Engines
) -> None:
    """Neither what has ended nor what runs: an answer's time tells nobody what others asked."""
    engine = engines()
    first = keystrokes(asker, "ann")[0]
    asker.together(engine, [first])
    asker.together(engine, [replace(first, tenant="bob"), replace(first, tenant="carl")])
    asker.together(engine, [replace(first, model=adapters[0])])
    assert engine.stats().prefix_hits == 0
    asker.together(engine, [first])
    assert engine.stats().prefix_hits == 1


def test_running_work_takes_the_memory_of_what_has_ended(asker: Asker, engines: Engines) -> None:
    token = 2 * 2 * 2 * 16 * 4  # layers × (keys, values) × heads × size × float32
    limit = 8 * 512 * token
    engine = engines(cache_gb=limit / 1e9, max_running=8)
    asker.apart(engine, [asker.job(FILE + str(n), max_tokens=4) for n in range(12)])
    before = engine.stats()
    assert 0 < before.prefix_bytes <= limit - before.cache_bytes
    long = [asker.job(f"{n}{FILE}", max_tokens=250) for n in range(8)]
    answers = asker.together(engine, long)
    after = engine.stats()
    assert answers == asker.apart(engines(reuse_prefixes=False), long)
    assert after.cache_bytes + after.prefix_bytes <= limit
    assert after.batch.counts[3] > 100, "they did not run together"


def test_an_adapter_that_leaves_takes_its_prefixes_along(
    asker: Asker, adapters: list[Servable], engines: Engines
) -> None:
    both = engines()
    asker.apart(both, [asker.job("x", model) for model in adapters])
    size = both.stats().adapters_bytes  # of the two
    engine = engines(adapters_gb=0.75 * size / 1e9)
    for model in adapters:
        asker.together(engine, [asker.job(FILE, model)])
    before = engine.stats()
    assert before.adapter_evictions == 1
    asker.together(engine, [asker.job(FILE, adapters[0])])
    assert engine.stats().prefix_hits == 0


SHAPE = Shape(2, 8, 8, 2, 1, 4, 99, 512, 1e-6, 1e4)


def stored(ids: list[int], tenant: str = "") -> Any:
    """A sequence as the cache sees it, with row 0."""

    class Stub:
        row, cached, adapter = 0, len(ids), None
        job = type("J", (), {"tenant": tenant})

    Stub.ids = ids  # type: ignore[attr-defined]
    return Stub


def test_the_longest_beginning_is_found_and_the_oldest_leave() -> None:
    cache = KeyValueCache(SHAPE, torch.float32, torch.device("cpu"))
    cache.reserve(1, 512)
    one = 20 * cache.token_bytes()
    prefixes = PrefixCache()
    for start in range(12):
        prefixes.keep(stored([start, *range(100, 119)]), cache, 100 * one)
    owner = Owner("", None)
    assert prefixes.bytes == 8 * one  # no more of one tenant
    assert prefixes.find(owner, [3, *range(100, 140)], 30)[1] == 0
    assert prefixes.find(owner, [4, *range(100, 140)], 30)[1] == 20
    assert prefixes.find(owner, [4, *range(100, 140)], 18)[1] == 18
    assert prefixes.find(owner, [4, *range(100, 110)], 11)[1] == 0  # too short to be worth it
    assert prefixes.find(Owner("bob", None), [4, *range(100, 140)], 30)[1] == 0
    prefixes.keep(stored([4, *range(100, 140)]), cache, 100 * one)
    assert prefixes.find(owner, [4, *range(100, 150)], 50)[1] == 41
    assert prefixes.bytes == 7 * one + 41 * cache.token_bytes()  # the shorter one is part of it
    prefixes.keep(stored([7, *range(200, 230)], "bob"), cache, 4 * one)
    assert prefixes.bytes <= 4 * one
    assert prefixes.find(Owner("bob", None), [7, *range(200, 230)], 31)[1] == 31
    prefixes.shrink(0)
    assert prefixes.bytes == 0


@pytest.mark.parametrize("same", [0, 1, 5, 9, 10])
def test_common_length(same: int) -> None:
    other = [n if n < same else -1 for n in range(10)]
    assert common_length(list(range(10)), other, 10) == same
