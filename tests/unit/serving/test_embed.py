"""Vectors of texts: what transformers computes, whoever else is in the batch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from codetune.errors import DeadlineError, OverloadedError, ServingError
from codetune.models.load import BaseModel, load_adapter, load_model
from codetune.serving.engine import Passage, Servable
from codetune.serving.engines.local import LocalEngine
from tests.unit.serving.conftest import Asker
from tests.unit.serving.tiny_models import base_of, make_adapter, make_base, make_full

Engines = Callable[..., LocalEngine]
TEXTS = ["def add(a, b):\n    return a + b\n", "x", "class Shop:\n    pass\n", "import os\n" * 70]


def passages(asker: Asker, texts: list[str], start: int = 0) -> list[Passage]:
    return [Passage(asker.renderer.plain(text), start) for text in texts]


def vectors(engine: LocalEngine, model: Servable, texts: list[Passage]) -> np.ndarray:
    return asyncio.run(engine.embed(model, texts))


@torch.no_grad()
def expected(model: Any, texts: list[Passage]) -> np.ndarray:
    """By transformers, one text at a time."""
    rows = []
    for passage in texts:
        output = model(torch.tensor([list(passage.ids)]), output_hidden_states=True)
        mean = output.hidden_states[-1][0, passage.start :].float().mean(0)
        rows.append(mean / mean.norm())
    return torch.stack(rows).numpy()


@pytest.mark.parametrize("kind", ["base", "adapter", "full"])
def test_a_vector_is_the_mean_of_the_last_states(
    kind: str,
    asker: Asker,
    base: BaseModel,
    adapters: list[Servable],
    engines: Engines,
    tmp_path: Path,
) -> None:
    model = {
        "base": lambda: asker.plain,
        "adapter": lambda: adapters[0],
        "full": lambda: Servable("full", "full", make_full(base, tmp_path / "full"), base),
    }[kind]()
    theirs: Any = load_model(base.path if kind == "adapter" else model.folder, dtype=torch.float32)
    if kind == "adapter":
        theirs = load_adapter(theirs, model.folder)
    texts = passages(asker, TEXTS)
    assert len(texts[-1].ids) > 512, "read in stretches"
    found = vectors(engines(), model, texts)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected(theirs, texts), atol=2e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_neighbours_in_a_batch_change_nothing(asker: Asker, engines: Engines) -> None:
    engine, texts = engines(), passages(asker, [t * n for n in (1, 2, 3) for t in TEXTS[:3]])
    together = vectors(engine, asker.plain, texts)
    alone = np.concatenate([vectors(engine, asker.plain, [text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    half = engines(dtype="bfloat16")
    alone = np.concatenate([vectors(half, asker.plain, [text]) for text in texts])
    assert np.array_equal(vectors(half, asker.plain, texts), alone)


def test_what_stands_before_a_text_is_read_and_not_averaged(asker: Asker, engines: Engines) -> None:
    theirs: Any = load_model(asker.plain.folder, dtype=torch.float32)
    for text in (TEXTS[0], TEXTS[3]):
        (whole,) = passages(asker, [text], start=3)
        found = vectors(engines(), asker.plain, [whole])
        np.testing.assert_allclose(found, expected(theirs, [whole]), atol=2e-5)


@pytest.mark.parametrize("kind", ["gpt2", "qwen3"])
def test_other_architectures_go_through_transformers(
    kind: str, asker: Asker, engines: Engines, tmp_path: Path
) -> None:
    changes = {"bos_token_id": 0, "eos_token_id": 0} if kind == "gpt2" else {}
    base = base_of(make_base(tmp_path / "base", model_type=kind, **changes))
    targets = ["c_attn"] if kind == "gpt2" else ["q_proj", "down_proj"]
    make_adapter(base, tmp_path / "a", target_modules=targets, fan_in_fan_out=kind == "gpt2")
    texts, engine = passages(asker, [TEXTS[0], TEXTS[3]]), engines()
    theirs: Any = load_model(base.path, dtype=torch.float32)
    plain = Servable(kind, "base", base.path, base)
    tuned = Servable("tuned", "adapter", tmp_path / "a", base)
    for model in (plain, tuned):
        theirs = load_adapter(theirs, model.folder) if model is tuned else theirs  # in place
        found = vectors(engine, model, texts)
        np.testing.assert_allclose(found, expected(theirs, texts), atol=2e-5)


def test_adapters_that_move_in_their_arena_change_no_vector(
    asker: Asker, adapters: list[Servable], engines: Engines
) -> None:
    """Answers of both adapters come and go while vectors of one of them are computed."""
    engine, texts = engines(), passages(asker, TEXTS[:3])
    alone = vectors(engine, adapters[0], texts)

    async def both() -> list[np.ndarray]:
        jobs = [asker.job(text, adapter) for text in TEXTS[:3] for adapter in adapters]
        answers = asyncio.gather(*(asker.one(engine, job) for job in jobs * 3))
        found = [await engine.embed(adapters[0], texts) for _ in range(10)]
        await answers
        return found

    for found in asyncio.run(both()):
        np.testing.assert_allclose(found, alone, atol=1e-5)


def test_an_adapter_that_is_read_alone_is_not_moved(adapters: list[Servable], asker: Asker) -> None:
    """Its place in the arena is given to another one meanwhile."""
    from codetune.models.load import read_json
    from codetune.serving.engines.bank import AdapterBank
    from codetune.serving.engines.lora import read_adapter
    from codetune.serving.engines.shape import read_shape

    shape = read_shape(read_json(asker.plain.folder / "config.json"))
    assert shape is not None
    bank = AdapterBank()
    for name, number in (("a", 0), ("b", 1), ("c", 1), ("d", 1)):
        folder = adapters[number].folder
        bank.put(name, read_adapter(folder, shape, torch.float32, torch.device("cpu")))
    bank.arrange(["a", "b"])
    alone, x = bank.alone("a"), torch.randn(2, shape.middle)

    def added() -> torch.Tensor:
        return alone.add(0, "down", x, torch.zeros(2, shape.hidden))

    before = added()
    bank.arrange(["c", "d"])
    assert before.abs().max() > 0 and torch.equal(before, added())


def test_answers_do_not_wait_for_vectors(asker: Asker, engines: Engines) -> None:
    """Many batches are wanted; what runs beside them ends before they do."""
    engine = engines()
    long = passages(asker, ["x = 1\n" * 80] * 200)

    async def race() -> list[str]:
        ended: list[str] = []
        task = asyncio.create_task(engine.embed(asker.plain, long))
        task.add_done_callback(lambda _: ended.append("vectors"))
        await asyncio.sleep(0.05)
        other = asyncio.create_task(engine.embed(asker.plain, long[:1]))
        other.add_done_callback(lambda _: ended.append("one vector"))
        await asker.one(engine, asker.job("x", max_tokens=4))
        ended.append("answer")
        await asyncio.gather(task, other)
        return ended

    ended = asyncio.run(race())
    assert ended[-1] == "vectors" and {"answer", "one vector"} == set(ended[:2])


def test_limits(asker: Asker, engines: Engines) -> None:
    long = passages(asker, ["x = 1\n" * 80] * 400)
    late, full = engines(deadline=0.02), engines(max_waiting=1)
    late.load(asker.plain)
    started = time.process_time()
    with pytest.raises(DeadlineError):
        vectors(late, asker.plain, long)
    late.close()
    assert time.process_time() - started < 5

    async def two() -> None:
        task = asyncio.create_task(full.embed(asker.plain, long))
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError):
            await full.embed(asker.plain, long[:1])
        task.cancel()

    asyncio.run(two())
    assert len(vectors(full, asker.plain, long[:1])) == 1
    full.close()
    with pytest.raises(ServingError, match="shutting down"):
        vectors(full, asker.plain, long[:1])


def test_numbers_that_are_none_are_no_vector(
    asker: Asker, base: BaseModel, engines: Engines, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    weights = make_full(base, tmp_path / "diverged") / "model.safetensors"
    tensors = load_file(weights)
    save_file({k: t * float("nan") for k, t in tensors.items()}, weights, {"format": "pt"})
    diverged = replace(asker.plain, id="diverged", kind="full", folder=tmp_path / "diverged")
    with pytest.raises(
        ServingError, match="'diverged' cannot answer: it has weights that are not numbers"
    ):
        vectors(engines(), diverged, passages(asker, TEXTS[:1]))
