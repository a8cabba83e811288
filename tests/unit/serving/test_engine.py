"""The engine: many answers at once are the answers one would get alone."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from codetune.errors import (
    BadRequestError,
    DeadlineError,
    OverloadedError,
    UnservableModelError,
)
from codetune.models.load import BaseModel, load_adapter, load_model
from codetune.models.prompts import GapEdges, until_gap_end
from codetune.serving.engine import Job, Servable
from codetune.serving.engines.local import LocalEngine
from codetune.serving.engines.runner import DecoderRunner
from codetune.serving.engines.sequence import Sequence
from tests.clock import AT_ONCE
from tests.unit.serving.conftest import PROMPTS, Asker
from tests.unit.serving.tiny_models import base_of, make_adapter, make_base, make_full

Engines = Callable[..., LocalEngine]


def generate(model: Any, job: Job) -> str:
    """What transformers writes, greedily."""
    ids = torch.tensor([job.prompt])
    config = model.generation_config
    config.eos_token_id = config.pad_token_id = None
    count = job.sampling.max_tokens
    output = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False
    )
    return job.decode(output[0, len(job.prompt) :].tolist())


def test_greedy_answers_are_those_of_transformers(asker: Asker, engines: Engines) -> None:
    engine = engines()
    jobs = [asker.job(prompt) for prompt in PROMPTS]
    model = load_model(asker.plain.folder, dtype=torch.float32)
    expected = [generate(model, job) for job in jobs]
    assert len({*expected}) > 2, "the test's model says always the same"
    assert [text for text, _ in asker.together(engine, jobs)] == expected


def test_a_mixed_batch_gives_each_adapter_its_own_answer(
    asker: Asker, adapters: list[Servable], base: BaseModel, engines: Engines
) -> None:
    """Base and two adapters of different rank in one batch, against PEFT one at a time."""
    engine = engines()
    models = [None, adapters[0], adapters[1], adapters[0]]
    jobs = [asker.job(prompt, model) for model, prompt in zip(models, PROMPTS, strict=False)]
    expected = []
    for job in jobs:
        model = load_model(base.path, dtype=torch.float32)
        if job.model.kind == "adapter":
            model = load_adapter(model, job.model.folder)
        expected.append(generate(model, job))
    together = asker.together(engine, jobs)
    assert [text for text, _ in together] == expected
    assert together == asker.apart(engine, jobs)


def test_what_one_model_has_read_is_not_lent_to_another(
    asker: Asker, adapters: list[Servable], engines: Engines
) -> None:
    """A common beginning is copied between answers, but only of one and the same model."""
    engine = engines()
    prompt = "def price(item, amount):\n    return item.cost * amount\n" * 2
    models = [None, adapters[0], adapters[1], None, adapters[0]]
    jobs = [asker.job(prompt, model) for model in models]
    together = asker.together(engine, jobs)
    assert together == asker.apart(engine, jobs)
    assert len({text for text, _ in together}) == 3


def test_sampled_answers_do_not_depend_on_the_batch(asker: Asker, engines: Engines) -> None:
    engine = engines()
    rules = {"temperature": 1.2, "top_p": 0.9}
    jobs = [asker.job(p, seed=n, **rules) for n, p in enumerate(PROMPTS)]
    apart = asker.apart(engine, jobs)
    assert asker.together(engine, jobs) == apart
    other = asker.apart(engine, [asker.job(PROMPTS[0], seed=99, **rules)])
    assert other[0] != apart[0]


def test_streamed_and_whole_answers_are_the_same_text(asker: Asker, engines: Engines) -> None:
    engine = engines()
    streamed = asker.together(engine, [asker.job(p, stream=True) for p in PROMPTS])
    whole = asker.together(engine, [asker.job(p, stream=False) for p in PROMPTS])
    assert streamed == whole


def test_answers_of_different_lengths_come_and_go(asker: Asker, engines: Engines) -> None:
    """Rows are freed and reused while others run: more requests than rows."""
    engine = engines(max_running=3)
    jobs = [asker.job(PROMPTS[n % 8] * (1 + n % 5), max_tokens=1 + (n * 7) % 23) for n in range(16)]
    together = asker.together(engine, jobs)
    assert together == asker.apart(engine, jobs)
    assert [finish.tokens for _, finish in together] == [job.sampling.max_tokens for job in jobs]


def test_a_long_prompt_is_read_in_stretches(asker: Asker, engines: Engines) -> None:
    engine = engines()
    jobs = [asker.job("def f(x): " * 90, max_tokens=8), asker.job("x", max_tokens=60)]
    assert len(jobs[0].prompt) > 512
    model = load_model(asker.plain.folder, dtype=torch.float32)
    assert [text for text, _ in asker.together(engine, jobs)] == [generate(model, j) for j in jobs]


def test_a_first_token_is_shown_before_the_next_prompt_is_read(
    asker: Asker, engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engines()
    engine.load(asker.plain)
    # Every token is a whole character.
    jobs = [replace(asker.job(p), decode=lambda ids: "x" * len(ids)) for p in PROMPTS[:2]]
    shown, order = threading.Event(), []
    read = DecoderRunner.prefill

    def prefill(runner: DecoderRunner, sequence: Sequence) -> torch.Tensor | None:
        if sequence.job is jobs[1]:
            order.append(shown.wait(10))
        return read(runner, sequence)

    monkeypatch.setattr(DecoderRunner, "prefill", prefill)

    async def ask() -> None:
        first, second = engine.submit(jobs)
        async for _ in first:
            shown.set()
        async for _ in second:
            pass

    asyncio.run(ask())
    assert order == [True]


def test_stops_end_an_answer_and_are_not_shown(asker: Asker, engines: Engines) -> None:
    engine = engines()
    (whole, _), *_ = asker.together(engine, [asker.job(PROMPTS[0])])
    stop = whole[5:9]
    (text, finish), *_ = asker.together(engine, [asker.job(PROMPTS[0], stops=("zzz", stop))])
    assert text == whole[: whole.index(stop)]
    assert finish.reason == "stop"
    assert finish.tokens < 24


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_ends_at_its_gaps_end(asker: Asker, engines: Engines, stream: bool) -> None:
    """The bracket behind the gap is not written again, and no token is spent on what follows."""
    engine = engines()
    (whole, _), *_ = asker.together(engine, [asker.job(PROMPTS[0])])
    edges = [GapEdges(bracket=letter) for letter in whole[4:]]
    edge = next(e for e in edges if until_gap_end(whole, e, unfinished=True) != whole)
    job = asker.job(PROMPTS[0], gap=edge, stream=stream)
    (text, finish), *_ = asker.together(engine, [job])
    assert text == until_gap_end(whole, edge, unfinished=True)
    assert finish.reason == "stop"
    assert finish.tokens < 24


def test_a_stop_token_ends_an_answer(asker: Asker, engines: Engines) -> None:
    engine = engines()
    ids: list[int] = []
    job = asker.job(PROMPTS[0])
    asker.together(engine, [replace(job, decode=lambda t: ids.extend(t) or "", stream=False)])
    stop = frozenset({ids[3]})
    first = ids.index(ids[3])
    (text, finish), *_ = asker.together(engine, [asker.job(PROMPTS[0], stop_ids=stop)])
    assert (text, finish.reason, finish.tokens) == (job.decode(ids[:first]), "stop", first + 1)


@torch.no_grad()
def test_log_probabilities_are_those_of_the_model(asker: Asker, engines: Engines) -> None:
    engine = engines()
    job = asker.job(PROMPTS[0], logprobs=2, max_tokens=3)

    async def scores() -> list[Any]:
        return [score async for piece in engine.submit([job])[0] for score in piece.scores]

    found = asyncio.run(scores())
    model: Any = load_model(asker.plain.folder, dtype=torch.float32)
    expected = torch.log_softmax(model(torch.tensor([job.prompt])).logits[0, -1], -1)
    values, _ = expected.topk(2)
    assert len(found) == 3
    assert found[0].logprob == pytest.approx(float(values[0]), abs=1e-3)
    assert [value for _, value in found[0].top] == pytest.approx(values.tolist(), abs=1e-3)


def test_a_cancelled_answer_frees_its_place(asker: Asker, engines: Engines) -> None:
    engine = engines(max_running=1)
    engine.load(asker.plain)

    async def ask() -> str:
        endless = engine.submit([asker.job("x", max_tokens=900)])[0]
        pieces = aiter(endless)
        await anext(pieces)
        next_one = asyncio.create_task(asker.one(engine, asker.job("y", max_tokens=2)))
        await asyncio.sleep(0.05)
        assert not next_one.done()
        endless.cancel()
        return (await asyncio.wait_for(next_one, 5))[0]

    asyncio.run(ask())
    assert engine.busy() == {"running": 0, "waiting": 0}


def test_leaving_the_loop_over_an_answer_cancels_it(asker: Asker, engines: Engines) -> None:
    engine = engines()

    async def ask() -> None:
        generation = aiter(engine.submit([asker.job("x", max_tokens=900)])[0])
        await anext(generation)
        await generation.aclose()  # type: ignore[attr-defined]
        for _ in range(200):
            if engine.busy()["running"] == 0:
                return
            await asyncio.sleep(0.01)
        raise AssertionError("it still runs")

    asyncio.run(ask())


def test_a_full_queue_refuses_one_more(asker: Asker, engines: Engines) -> None:
    engine = engines(max_running=1, max_waiting=2)
    engine.load(asker.plain)

    async def ask() -> None:
        first = engine.submit([asker.job("x", max_tokens=900)])[0]
        pieces = aiter(first)
        await anext(pieces)  # it has its place
        engine.submit([asker.job("x")] * 9)  # one request's answers are queued all or none
        with pytest.raises(OverloadedError) as caught:
            engine.submit([asker.job("x")])[0]
        assert caught.value.retry_after >= 1

    asyncio.run(ask())


def test_an_answer_that_takes_too_long_is_broken_off(asker: Asker, engines: Engines) -> None:
    engine = engines()
    engine.load(asker.plain)
    started = time.monotonic()
    with pytest.raises(DeadlineError):
        asker.together(engine, [asker.job("x", max_tokens=1000, deadline=0.05)])
    assert time.monotonic() - started < AT_ONCE
    assert engine.busy()["running"] == 0


def test_closing_breaks_off_what_runs(asker: Asker, engines: Engines) -> None:
    from codetune.errors import ServingError

    engine = engines()

    async def ask() -> None:
        generation = aiter(engine.submit([asker.job("x", max_tokens=900)])[0])
        await anext(generation)
        started = time.monotonic()
        await asyncio.to_thread(engine.close)
        assert time.monotonic() - started < AT_ONCE
        with pytest.raises(ServingError, match="shutting down"):
            async for _ in generation:
                pass

    asyncio.run(ask())


def test_a_request_beyond_the_cache_is_refused(asker: Asker, engines: Engines) -> None:
    engine = engines(cache_gb=0.0001)
    with pytest.raises(BadRequestError, match="does not fit"):
        asker.together(engine, [asker.job("x", max_tokens=900)])


def test_a_defect_breaks_off_what_runs_and_nothing_later(asker: Asker, engines: Engines) -> None:
    from codetune.errors import ServingError

    def defect(ids: Any) -> str:
        raise ZeroDivisionError

    engine = engines()
    broken = replace(asker.job("x"), decode=defect)
    with pytest.raises(ServingError, match="The engine failed: ZeroDivisionError"):
        asker.together(engine, [broken])
    assert engine.busy() == {"running": 0, "waiting": 0}
    ((_, finish),) = asker.together(engine, [asker.job("x")])
    assert finish.tokens == 24


def test_a_request_that_finds_no_memory_holds_no_model(
    asker: Asker, engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    from codetune.errors import ServingError
    from codetune.serving.engines.runner import DecoderRunner

    def scarce(*_: Any) -> bool:
        raise MemoryError

    engine = engines()
    with monkeypatch.context() as patch:
        patch.setattr(DecoderRunner, "admit", scarce)
        with pytest.raises(ServingError, match="The engine failed: MemoryError"):
            asker.together(engine, [asker.job("x")])
    assert not engine._pool._used
    asker.together(engine, [asker.job("x")])
    assert not engine._pool._used


# Models


def test_a_model_whose_numbers_are_none_is_told_apart(
    asker: Asker, base: BaseModel, engines: Engines, tmp_path: Path
) -> None:
    """A run that diverged: an error for its users, not text of token 0."""
    from safetensors.torch import load_file, save_file

    from codetune.errors import ServingError

    folder = make_full(base, tmp_path / "diverged")
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    save_file({k: t * float("nan") for k, t in tensors.items()}, weights, {"format": "pt"})
    engine = engines()
    diverged = Servable("diverged", "full", folder, base)
    with pytest.raises(
        ServingError, match="'diverged' cannot answer: it has weights that are not numbers"
    ):
        asker.together(engine, [asker.job("x", diverged)])
    ((_, finish),) = asker.together(engine, [asker.job("x")])
    assert finish.tokens == 24


def broken(adapter: Servable, folder: Path, how: str) -> Servable:
    """A copy of an adapter with something wrong."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(adapter.folder, folder)
    weights = folder / "adapter_model.safetensors"
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(weights)
    if how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-50])
    elif how == "no weights":
        weights.unlink()
    elif how == "other rank":
        (folder / "adapter_config.json").write_text(json.dumps(config | {"r": 9}))
    elif how == "too wide":
        key = next(key for key in tensors if "q_proj.lora_A" in key)
        save_file(tensors | {key: torch.zeros(4, 65)}, weights)
    elif how == "half a pair":
        key = next(key for key in tensors if "q_proj.lora_B" in key)
        save_file({k: v for k, v in tensors.items() if k != key}, weights)
    elif how == "too deep":
        moved = {k.replace("layers.1", "layers.7"): v for k, v in tensors.items()}
        save_file(moved, weights)
    elif how == "other base":
        (folder / "base.json").write_text(json.dumps({"name": "x", "digest": "0" * 64}))
    return replace(adapter, id=how, folder=folder)


@pytest.mark.parametrize(
    "how",
    ["truncated", "no weights", "other rank", "too wide", "half a pair", "too deep", "other base"],
)
def test_a_broken_adapter_is_refused_and_the_server_lives_on(
    how: str, asker: Asker, adapters: list[Servable], engines: Engines, tmp_path: Path
) -> None:
    engine = engines()
    bad = broken(adapters[0], tmp_path / "bad", how)
    with pytest.raises(UnservableModelError) as caught:
        asker.together(engine, [asker.job("x", bad), asker.job("x")])
    assert str(tmp_path) not in str(caught.value)
    good = asker.together(engine, [asker.job("x", adapters[0]), asker.job("x")])
    assert [finish.tokens for _, finish in good] == [24, 24]


def test_the_least_recently_used_weights_leave_and_come_back(
    asker: Asker, base: BaseModel, engines: Engines, tmp_path: Path
) -> None:
    """Room for one model only: two that were tuned in full take turns."""
    size = (base.path / "model.safetensors").stat().st_size
    models = [
        Servable(f"full{n}", "full", make_full(base, tmp_path / f"full{n}", seed=n), base)
        for n in (5, 6)
    ]
    engine = engines(weights_gb=1.5 * size / 1e9)
    jobs = [asker.job(PROMPTS[0], model) for model in [*models, *models]]
    answers = asker.apart(engine, jobs)
    assert answers[:2] == answers[2:]
    assert answers[0] != answers[1]
    assert len(engine._pool._runners) == 1


def test_weights_in_use_are_not_dropped(
    asker: Asker, base: BaseModel, engines: Engines, tmp_path: Path
) -> None:
    size = (base.path / "model.safetensors").stat().st_size
    other = Servable("full", "full", make_full(base, tmp_path / "full"), base)
    engine = engines(weights_gb=1.5 * size / 1e9)
    jobs = [asker.job(PROMPTS[0], max_tokens=300), asker.job(PROMPTS[0], other, max_tokens=300)]
    assert asker.together(engine, jobs) == asker.apart(engines(), jobs)


@pytest.mark.parametrize("kind", ["gpt2", "qwen3"])
def test_other_architectures_are_served_through_transformers(
    kind: str, asker: Asker, engines: Engines, tmp_path: Path
) -> None:
    changes = {"bos_token_id": 0, "eos_token_id": 0} if kind == "gpt2" else {}
    folder = make_base(tmp_path / "base", model_type=kind, **changes)
    base = base_of(folder)
    targets = ["c_attn"] if kind == "gpt2" else ["q_proj", "down_proj"]
    make_adapter(base, tmp_path / "adapter", target_modules=targets, fan_in_fan_out=kind == "gpt2")
    plain = Servable(kind, "base", folder, base)
    tuned = Servable("tuned", "adapter", tmp_path / "adapter", base)
    jobs = [asker.job(p, m, max_tokens=8) for p in PROMPTS[:2] for m in (plain, tuned)]
    engine = engines()
    expected = []
    for job in jobs:
        model = load_model(folder, dtype=torch.float32)
        if job.model.kind == "adapter":
            model = load_adapter(model, job.model.folder)
        expected.append(generate(model, job))
    assert [text for text, _ in asker.together(engine, jobs)] == expected


def test_an_adapter_that_is_more_than_lora_is_served_too(
    asker: Asker, base: BaseModel, engines: Engines, tmp_path: Path
) -> None:
    """DoRA cannot be stacked: PEFT computes it, beside the lean base."""
    make_adapter(base, tmp_path / "dora", use_dora=True)
    dora = Servable("dora", "adapter", tmp_path / "dora", base)
    jobs = [asker.job("x", dora, max_tokens=8), asker.job("x", max_tokens=8)]
    tuned = load_adapter(load_model(base.path, dtype=torch.float32), dora.folder)
    plain = load_model(base.path, dtype=torch.float32)
    expected = [generate(tuned, jobs[0]), generate(plain, jobs[1])]
    assert [text for text, _ in asker.together(engines(), jobs)] == expected
