"""A pass shared out among threads computes what one pass computes, the same each time."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from codetune.models.load import BaseModel, load_model
from codetune.models.tokens import TokenStore, TokenWriter
from codetune.progress import Progress
from codetune.training import threads as module
from codetune.training.adapters import is_short, set_aside
from codetune.training.batches import Batch, make_batch
from codetune.training.config import TrainingOptions
from codetune.training.methods import prepare, trained
from codetune.training.objective import CausalObjective
from codetune.training.optimizer import make_optimizer
from codetune.training.passes import Passes
from codetune.training.recovery import OutOfMemory, Recovery
from codetune.training.threads import Threads

LENGTHS = (30, 25, 60, 12, 41, 50)
REPLAYED = (1, 4)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(module, "LEAST_TOKENS", 16)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def batch(tmp_path: Path) -> Batch:
    return batch_of(LENGTHS, REPLAYED, tmp_path / "store")


def batch_of(lengths: tuple[int, ...], replayed: tuple[int, ...], folder: Path) -> Batch:
    with TokenWriter(folder, 300) as writer:
        for document, length in enumerate(lengths):
            stream = "replay" if document in replayed else "ntp"
            writer.append(range(document, document + length), stream=stream, document=document)
    return make_batch(TokenStore.open(folder), range(len(lengths)), replay_weight=3.0)


def passes_of(base: BaseModel, folder: Path, method: str = "lora", **options: Any) -> Passes:
    torch.manual_seed(0)
    model = load_model(base.path, dtype=options.pop("dtype", torch.float32))
    model = prepare(model, TrainingOptions(method=method, rank=4, **options))
    for name, weight in trained(model):
        if "lora_B" in name:  # zero at the start: nothing would be seen
            torch.nn.init.normal_(weight, std=0.3)
    objective = CausalObjective(model, base_teaches=True)
    optimizer = make_optimizer("adamw", trained(model), lr=1e-3, weight_decay=0.0)
    recovery = Recovery(folder, logging.getLogger(__name__), Progress())
    return Passes(
        objective,
        optimizer,
        recovery,
        accumulation=1,
        recover=True,
        checkpointing=False,
        threads=Threads.of(model),
    )


def learned(passes: Passes, batch: Batch, times: int = 1) -> tuple[float, list[torch.Tensor]]:
    passes.optimizer.forget_gradients()
    passes.begin(1)
    losses = [float(passes.learn(batch, passes.objective.mass(batch))) for _ in range(times)]
    found = [master.grad for master in passes.optimizer.masters.values()]
    assert all(gradient is not None for gradient in found)
    return losses[-1], [gradient.clone() for gradient in found if gradient is not None]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_threads_learn_what_one_pass_learns(
    base: BaseModel, batch: Batch, tmp_path: Path, method: str
) -> None:
    passes = passes_of(base, tmp_path, method)
    assert passes.threads is not None
    assert passes.objective.base_teaches == (method == "lora")
    loss, gradients = learned(passes, batch, times=2)
    total, count = passes.summed(batch)
    passes.threads = None
    wanted, one_by_one = learned(passes, batch, times=2)
    assert loss == pytest.approx(wanted, rel=1e-5)
    for ours, theirs in zip(gradients, one_by_one, strict=True):
        assert float((ours - theirs).norm() / theirs.norm().clamp(min=1e-6)) < 1e-5
    whole, labels = passes.summed(batch)
    assert (total, count) == (pytest.approx(whole, rel=1e-5), labels)


def test_the_same_run_gives_the_same_bits(base: BaseModel, batch: Batch, tmp_path: Path) -> None:
    first, *others = [
        learned(passes_of(base, tmp_path, "full", dtype=torch.bfloat16), batch, times=3)
        for _ in range(4)
    ]
    for loss, gradients in others:
        assert loss == first[0]
        for one, other in zip(gradients, first[1], strict=True):
            assert torch.equal(one, other)


def test_each_document_is_somebodys_and_both_have_about_as_much(
    batch: Batch, tmp_path: Path
) -> None:
    shares = Threads(2).share(batch, base_teaches=False)
    assert shares is not None
    assert (np.sum(shares.documents, axis=0) == 1).all()
    sizes = [int(np.array(LENGTHS)[mine].sum()) for mine in shares.documents]
    assert sorted(sizes) == [103, 115]
    # What the base teaches is computed once more: nobody has both of it.
    even = batch_of((40, 40, 40, 40), (0, 2), tmp_path / "even")
    for teaches, each in ((False, 2), (True, 1)):
        shares = Threads(2).share(even, base_teaches=teaches)
        assert shares is not None and even.replayed is not None
        assert int((shares.documents[0] & even.replayed).sum()) == each


def test_who_has_too_little_to_share_does_not(
    base: BaseModel, batch: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = Threads(8)
    assert len(threads.share(batch, base_teaches=False).documents) == 4  # type: ignore[union-attr]
    monkeypatch.setattr(module, "LEAST_TOKENS", 110)
    assert threads.share(batch, base_teaches=False) is None
    # Dropout draws from one stream of random numbers: its layers keep PEFT's forward.
    noisy = passes_of(base, tmp_path, dropout=0.1)
    assert noisy.threads is None and not is_short(noisy.objective.model)
    monkeypatch.setattr(module, "MOST_PARAMETERS", 1000)
    assert passes_of(base, tmp_path).threads is None
    monkeypatch.undo()
    assert passes_of(base, tmp_path).threads is not None
    torch.set_num_threads(1)
    assert passes_of(base, tmp_path).threads is None


def test_what_one_thread_sets_aside_the_other_keeps(base: BaseModel, tmp_path: Path) -> None:
    objective: Any = passes_of(base, tmp_path).objective
    objective.use("sdpa")
    model = objective.model
    ids, other = torch.arange(1, 20)[None], []
    before = model(ids).logits
    with set_aside(model):
        thread = threading.Thread(target=lambda: other.append(model(ids).logits))
        thread.start()
        thread.join()
        aside = model(ids).logits
    torch.testing.assert_close(other[0], before)
    assert not torch.allclose(aside, before, atol=1e-2)


def test_a_thread_without_memory_makes_the_passes_smaller(
    base: BaseModel, batch: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = passes_of(base, tmp_path)
    wanted, gradients = learned(passes, batch)
    real, limit = passes.objective.loss, 70

    def short(part: Batch, divisor: float | None = None) -> torch.Tensor:
        if part.tokens > limit:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return real(part, divisor)

    monkeypatch.setattr(passes.objective, "loss", short)
    loss, found = learned(passes, batch)
    assert passes.recovery.now.pieces == 2
    assert loss == pytest.approx(wanted, rel=1e-5)
    for ours, theirs in zip(found, gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    limit = 20  # a document alone is longer
    with pytest.raises(OutOfMemory):
        learned(passes, batch)
    assert passes.recovery.now.checkpointing


def test_threads_that_come_later_have_all_of_torchs(
    base: BaseModel, batch: Batch, tmp_path: Path
) -> None:
    learned(passes_of(base, tmp_path), batch)
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert (found, torch.get_num_threads()) == ([2], 2)
