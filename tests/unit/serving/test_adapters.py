"""Adapters: sixteen in one batch, in memory as far as the options allow, swapped while they run."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from codetune.errors import UnservableModelError
from codetune.models.load import BaseModel, load_adapter, load_model
from codetune.serving.engine import Servable
from codetune.serving.engines.bank import AdapterBank
from codetune.serving.engines.local import LocalEngine
from codetune.serving.engines.matrices import Adapter, Layout
from codetune.serving.engines.pages import on_large_pages
from tests.unit.serving.conftest import PROMPTS, Asker
from tests.unit.serving.test_engine import generate
from tests.unit.serving.tiny_models import make_adapter

Engines = Callable[..., LocalEngine]
BANK_RANKS = [8, 8, 8, 16, 8, 16, 8]
RANKS = [1, 2, 4, 8, 9, 12, 16, 24, 3, 8, 5, 16, 7, 32, 4, 8]


@pytest.fixture(scope="module")
def sixteen(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> list[Servable]:
    folder = tmp_path_factory.mktemp("sixteen")
    for seed, rank in enumerate(RANKS):
        make_adapter(base, folder / str(seed), seed=seed, r=rank)
    return [Servable(f"a{n}", "adapter", folder / str(n), base) for n in range(len(RANKS))]


def test_sixteen_adapters_of_different_ranks_in_one_batch(
    asker: Asker, base: BaseModel, sixteen: list[Servable], engines: Engines
) -> None:
    """Each answer is the one its adapter gives alone; four of them against PEFT, too."""
    engine = engines(max_running=32)
    models: list[Servable | None] = [*sixteen, None, sixteen[3]]
    jobs = [asker.job(PROMPTS[n % 3], model) for n, model in enumerate(models)]
    together = asker.together(engine, jobs)
    assert together == asker.apart(engines(reuse_prefixes=False), jobs)
    assert len({text for text, _ in together}) > 12
    assert engine.stats().batch.counts[-4] > 5, "they did not run together"
    for n in (0, 4, 13, 16):
        model = load_model(base.path, dtype=torch.float32)
        tuned = jobs[n].model
        expected = load_adapter(model, tuned.folder) if tuned.kind == "adapter" else model
        assert together[n][0] == generate(expected, jobs[n])


GROUPS = (("qkv", 6, (4, 2, 2)), ("odd", 6, (4, 3, 3)), ("out", 5, (7,)), ("gate_up", 6, (4, 4)))


def random_adapter(seed: int, rank: int) -> Adapter:
    adapter = Adapter.zeros(Layout(rank, 2, GROUPS), torch.float32, torch.device("cpu"))
    generator = torch.Generator().manual_seed(seed)
    for piece in adapter.pieces:
        piece.copy_(torch.randn(piece.shape, generator=generator))
    return adapter


def added(adapter: Adapter, layer: int, group: str, x: torch.Tensor) -> torch.Tensor:
    """What an adapter adds for one row, projection by projection."""
    block = adapter.layers[layer][group]
    downs = torch.split(block.into[0], adapter.layout.rank, 1)
    return torch.cat([x @ down @ up for down, up in zip(downs, block.backs, strict=True)])


@pytest.fixture
def bank() -> AdapterBank:
    bank = AdapterBank()
    for n, rank in enumerate(BANK_RANKS):
        bank.put(f"a{n}", random_adapter(n, rank))
    return bank


def check(bank: AdapterBank, names: Sequence[str | None]) -> None:
    """A batch against one row at a time."""
    arrangement = bank.arrange(names)
    assert sorted(arrangement.order) == list(range(len(names)))
    rows = [names[i] for i in arrangement.order]
    for layer, (group, width, outs) in itertools.product(range(2), GROUPS):
        x, start = torch.randn(len(rows), width), torch.randn(len(rows), sum(outs))
        expected = start.clone()
        for i, name in enumerate(rows):
            if name is not None:
                number = int(name[1:])
                alone = random_adapter(number, BANK_RANKS[number])
                expected[i] += added(alone, layer, group, x[i])
        assert arrangement.mix is not None
        found = arrangement.mix.add(layer, group, x, start.clone())
        torch.testing.assert_close(found, expected)
        plain = [i for i, name in enumerate(rows) if name is None]
        assert torch.equal(found[plain], start[plain])


def test_rows_of_any_mixture_get_their_own_adapter(bank: AdapterBank) -> None:
    """While adapters come, go and change places."""
    batches: list[list[str | None]] = [
        ["a0", "a1"],
        ["a2", "a0", None, "a0", "a3"],
        ["a6", "a4", "a2", "a1", "a0"],
        ["a5", "a5"],
        [None, "a5", "a3", "a3", "a6", "a5"],
        ["a6"],
        ["a1", "a0", "a2", "a4", "a6", "a3", "a5", "a1"],
        ["a4", "a6", "a6", "a4"],
    ]
    for round_, names in enumerate(batches * 2):
        check(bank, names)
        check(bank, ["a3"])  # a prompt is read in between
        check(bank, names)
        if round_ % 3 == 1:
            bank.drop(f"a{round_ % 7}")
            bank.put(f"a{round_ % 7}", random_adapter(round_ % 7, BANK_RANKS[round_ % 7]))


def test_users_who_come_and_go_keep_the_order_of_their_rows(bank: AdapterBank) -> None:
    """As long as each has one row, nothing is gathered: the adapters move, not the rows."""
    same = [f"a{n}" for n, rank in enumerate(BANK_RANKS) if rank == 8]
    for names in (same, same[:-1], same[::-1], [same[-1], *same[1:-1]], same[2:4], same):
        check(bank, names)
        assert list(bank.arrange(names).order) == list(range(len(names)))


def test_memory_that_runs_out_while_adapters_move_moves_none(
    bank: AdapterBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether room is taken at once or piece by piece, of which the third finds none."""
    select, calls = torch.Tensor.index_select, itertools.count(1)

    def full(*_: object) -> torch.Tensor:
        raise MemoryError

    def third_is_full(tensor: torch.Tensor, dim: int, index: torch.Tensor) -> torch.Tensor:
        return full() if next(calls) > 2 else select(tensor, dim, index)

    same = [f"a{n}" for n, rank in enumerate(BANK_RANKS) if rank == 8]
    check(bank, same)
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "new_empty", full)
        patch.setattr(torch.Tensor, "index_select", third_is_full)
        with pytest.raises(MemoryError):
            bank.arrange(same[::-1])
    check(bank, same)
    check(bank, same[::-1])


def test_an_adapter_lies_in_memory_once(bank: AdapterBank) -> None:
    same = [f"a{n}" for n, rank in enumerate(BANK_RANKS) if rank == 8][:4]
    before = bank.bytes
    one = random_adapter(0, 8).bytes
    bank.arrange(same)
    bank.arrange(same[1:])
    assert bank.bytes == before
    for name in same[:2]:
        bank.drop(name)
    assert bank.bytes == before - 2 * one, "the arena keeps places that nobody needs"
    check(bank, [*same[2:], *same[2:]])
    for name in list(bank.names):
        bank.drop(name)
    assert bank.bytes == 0


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="a kernel without large pages"
)
def test_large_pages_are_asked_for_and_hold_the_numbers() -> None:
    """As the kernel tells: "hg" stands among the flags of the memory that holds the tensor."""
    for size in (8_000_000, 100, 0):
        numbers = on_large_pages(torch.empty(size))
        numbers.fill_(3.0)
        assert float(numbers.sum()) == 3.0 * size
        flags: dict[range, list[str]] = {}
        for line in Path("/proc/self/smaps").read_text().splitlines():
            if re.match(r"[0-9a-f]+-", line):
                begin, end = (int(part, 16) for part in line.split()[0].split("-"))
            elif line.startswith("VmFlags:"):
                flags[range(begin, end)] = line.split()[1:]
        middle = numbers.data_ptr() + numbers.nbytes // 2
        advised = any(middle in place and "hg" in found for place, found in flags.items())
        assert advised or size < 1000


def test_a_name_that_comes_back_with_other_weights_has_those(bank: AdapterBank) -> None:
    x = torch.randn(2, 5)
    bank.arrange(["a0", "a1"])
    bank.drop("a0")
    bank.put("a0", random_adapter(50, 8))
    mix = bank.arrange(["a0", "a1"]).mix
    assert mix is not None
    found = mix.add(1, "out", x, torch.zeros(2, 7))
    torch.testing.assert_close(found[0], added(random_adapter(50, 8), 1, "out", x[0]))


def test_what_another_thread_reads_with_an_adapter_stays_while_it_moves(bank: AdapterBank) -> None:
    x, start = torch.randn(1, 6), torch.zeros(1, 8)
    bank.arrange(["a1", "a2"])
    mix = bank.alone("a1")
    for names in (["a2", "a1"], ["a0", "a4"]):
        bank.arrange(names)
        expected = added(random_adapter(1, BANK_RANKS[1]), 0, "qkv", x[0])
        torch.testing.assert_close(mix.add(0, "qkv", x, start.clone())[0], expected)
    bank.drop("a1")
    torch.testing.assert_close(mix.add(0, "qkv", x, start.clone())[0], expected)


def size_of(asker: Asker, model: Servable, engine: LocalEngine) -> int:
    asker.together(engine, [asker.job("x", model, max_tokens=1)])
    return engine.stats().adapters_bytes


def test_the_least_recently_used_adapters_leave_and_come_back(
    asker: Asker, sixteen: list[Servable], engines: Engines
) -> None:
    """Room for three of rank 8: more users than memory, every answer as ever."""
    same = [sixteen[n] for n in (0, 1, 2, 3, 8, 10)]  # all padded to rank 8
    size = size_of(asker, same[0], engines())
    engine = engines(adapters_gb=3.5 * size / 1e9)
    jobs = [asker.job(PROMPTS[0], model) for model in [*same, *same]]
    answers = asker.apart(engine, jobs)
    assert answers[: len(same)] == answers[len(same) :]
    stats = engine.stats()
    assert stats.adapters == 3
    assert stats.adapter_loads == len(jobs)
    assert stats.adapter_evictions == len(jobs) - 3
    asker.apart(engine, [asker.job("x", same[-1])])  # the last one used is still there
    assert engine.stats().adapter_loads == len(jobs)


def test_who_finds_no_room_waits_for_those_in_use(
    asker: Asker, sixteen: list[Servable], engines: Engines
) -> None:
    same = [sixteen[n] for n in (0, 1, 2, 3)]
    size = size_of(asker, same[0], engines())
    engine = engines(adapters_gb=1.5 * size / 1e9)
    jobs = [asker.job(PROMPTS[0], model, max_tokens=80) for model in same]
    assert asker.together(engine, jobs) == asker.apart(engines(), jobs)
    assert engine.stats().adapters == 1


def test_an_adapter_beyond_all_memory_is_refused(
    asker: Asker, sixteen: list[Servable], engines: Engines
) -> None:
    engine = engines(adapters_gb=1e-6)
    with pytest.raises(UnservableModelError, match="adapters together may have"):
        asker.together(engine, [asker.job("x", sixteen[0])])


def test_idle_adapters_leave_memory_and_come_back(
    asker: Asker, sixteen: list[Servable], engines: Engines
) -> None:
    engine = engines(idle_minutes=0.005)
    job = asker.job(PROMPTS[0], sixteen[0])
    before = asker.together(engine, [job])

    async def until_gone() -> None:
        generation = engine.submit([asker.job("x", max_tokens=900)])[0]  # keeps it awake
        async for _ in generation:
            if not engine.stats().adapters:
                return
            await asyncio.sleep(0.02)

    for _ in range(20):
        asyncio.run(until_gone())
        if not engine.stats().adapters:
            break
    assert engine.stats().adapters == engine.stats().adapters_bytes == 0
    assert engine.stats().models == 1
    assert asker.together(engine, [job]) == before


def test_a_promotion_swaps_weights_without_dropping_an_answer(
    asker: Asker, adapters: Sequence[Servable], engines: Engines
) -> None:
    """A name's next request gets the new version; what runs ends on the old one."""
    engine = engines()
    old, new = (replace(model, id="shop") for model in adapters)
    jobs = [asker.job(PROMPTS[0], model, max_tokens=200) for model in (old, new)]
    expected = asker.apart(engines(), jobs)
    assert expected[0] != expected[1]

    async def ask() -> list[object]:
        first = asyncio.create_task(asker.one(engine, jobs[0]))
        while not engine.busy()["running"]:
            await asyncio.sleep(0.001)
        second = asyncio.create_task(asker.one(engine, jobs[1]))
        return [await first, await second]

    assert asyncio.run(ask()) == expected


def test_weights_that_were_overwritten_are_others(
    asker: Asker, adapters: Sequence[Servable], engines: Engines, tmp_path: Path
) -> None:
    engine, folder = engines(), tmp_path / "mine"
    answers = []
    for number, made in enumerate(adapters[:2]):
        shutil.copytree(made.folder, folder, dirs_exist_ok=True)
        mine = replace(made, folder=folder, edition=str(number))
        jobs = [asker.job(PROMPTS[0], model) for model in (mine, made)]
        answers += asker.apart(engine, jobs)
    assert answers[0] == answers[1] != answers[2] == answers[3]
    assert str(folder) in engine.loaded()


def test_a_mismatch_is_refused_before_the_weights_are_read(
    asker: Asker,
    sixteen: list[Servable],
    engines: Engines,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import safetensors.torch

    folder = tmp_path / "bad"
    shutil.copytree(sixteen[2].folder, folder)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"r": 6}))
    engine = engines()
    asker.together(engine, [asker.job("x")])
    monkeypatch.delattr(safetensors.torch, "load_file")
    with pytest.raises(UnservableModelError, match="says rank 6"):
        asker.together(engine, [asker.job("x", replace(sixteen[2], folder=folder))])


def test_a_config_that_makes_no_sense_harms_nobody_else(
    asker: Asker, sixteen: list[Servable], engines: Engines, tmp_path: Path
) -> None:
    for n, change in enumerate([{"lora_alpha": "lots"}, {"rank_pattern": {"(": 4}}]):
        folder = tmp_path / str(n)
        shutil.copytree(sixteen[2].folder, folder)
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
        engine = engines()

        async def ask(engine: LocalEngine = engine, folder: Path = folder) -> int:
            running = asyncio.create_task(asker.one(engine, asker.job("x", max_tokens=100)))
            with pytest.raises(UnservableModelError):
                await asker.one(engine, asker.job("x", replace(sixteen[2], folder=folder)))
            return (await running)[1].tokens

        assert asyncio.run(ask()) == 100


@pytest.mark.parametrize("use_dora", [False, True])
@pytest.mark.parametrize("what", ["weights", "NaN", "1e308"])
def test_an_adapter_of_numbers_that_are_none_is_not_loaded(
    base: BaseModel, engines: Engines, tmp_path: Path, what: str, use_dora: bool
) -> None:
    """Neither stacked nor through PEFT: it would be listed, and never answer."""
    from safetensors.torch import load_file, save_file

    folder = make_adapter(base, tmp_path / "nan", use_dora=use_dora)
    if what == "weights":
        file = folder / "adapter_model.safetensors"
        tensors = load_file(file)
        name = next(name for name in tensors if "lora_B" in name)
        save_file(tensors | {name: tensors[name] * float("nan")}, file, {"format": "pt"})
    else:
        config = folder / "adapter_config.json"
        config.write_text(config.read_text().replace('"lora_alpha": 16', f'"lora_alpha": {what}'))
    with pytest.raises(UnservableModelError, match="weights that are not numbers"):
        engines().load(Servable("nan", "adapter", folder, base))
