"""The numbers of a run follow from options, data and model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from codetune.errors import TrainingError
from codetune.models.tokens import TokenStore, TokenWriter
from codetune.training.config import TrainingOptions
from codetune.training.plan import Plan, make_plan
from codetune.training.streams import losses_by_stream, names_of, validation_batches


def store(folder: Path, lengths: list[int]) -> TokenStore:
    with TokenWriter(folder, 100) as writer:
        for document, length in enumerate(lengths):
            writer.append([1] * length, stream="ntp", document=document)
    return TokenStore.open(folder)


@pytest.fixture
def plan(tmp_path: Path) -> Any:
    train, validation = store(tmp_path / "a", [100] * 1000), store(tmp_path / "b", [50] * 40)

    def make(parameters: int = 5_500_000, **options: Any) -> Plan:
        return make_plan(train, validation, TrainingOptions(**options), parameters=parameters)

    return make


def test_one_epoch_sees_every_row_once(plan: Any) -> None:
    made = plan(epochs=1, window=200, batch_tokens=2000, micro_batch_tokens=1000)
    assert (made.rows, made.rows_per_batch, made.accumulation) == (500, 5, 2)
    assert made.steps == 50
    assert made.fill == 1.0


def test_the_micro_batch_changes_passes_not_steps(plan: Any) -> None:
    sizes = [plan(window=200, batch_tokens=4000, micro_batch_tokens=n) for n in (400, 1000, 4000)]
    assert {made.steps for made in sizes} == {75}
    assert [made.accumulation for made in sizes] == [10, 4, 1]


@pytest.mark.parametrize("batch", [100, 1000, 4096, 5800, 32768])
def test_no_pass_is_so_small_or_large_that_steps_differ(plan: Any, batch: int) -> None:
    sizes = (64, 512, 3072, 5000, 8192)
    made = [plan(batch_tokens=batch, micro_batch_tokens=n) for n in sizes]
    assert (
        len({(one.window, one.steps, one.rows_per_batch * one.accumulation) for one in made}) == 1
    )
    for one, micro in zip(made, sizes, strict=True):
        assert one.rows_per_batch * one.window <= max(micro, one.window)
        assert 0.85 < one.rows_per_batch * one.accumulation * one.window / batch < 1.2


def test_max_steps_and_warm_up(plan: Any) -> None:
    made = plan(max_steps=20, warmup=0.1)
    assert (made.steps, made.warmup_steps) == (20, 2)


def test_larger_models_get_smaller_rates_and_lora_larger_ones(plan: Any) -> None:
    assert plan(method="lora").learning_rate > plan(method="full").learning_rate
    large = plan(parameters=1_500_000_000, method="lora").learning_rate
    assert 1e-4 < large < 4e-4
    assert 1e-5 < plan(parameters=1_500_000_000, method="full").learning_rate < 1e-4
    assert plan(learning_rate=0.5).learning_rate == 0.5
    scaled = plan(method="full", learning_rate_scale=0.3).learning_rate
    assert scaled == pytest.approx(0.3 * plan(method="full").learning_rate)
    assert plan(learning_rate=0.5, learning_rate_scale=0.3).learning_rate == 0.5


def test_replayed_code_weighs_more_in_longer_runs(plan: Any) -> None:
    room = {"window": 200, "batch_tokens": 4000, "micro_batch_tokens": 4000}
    weights = [plan(epochs=n, **room).distillation for n in (1, 10, 15, 30)]  # of 0.1 M tokens
    assert weights == [3.0, pytest.approx(4.0), pytest.approx(6.0), 10.0]
    assert plan(epochs=30, max_steps=250, **room).distillation == pytest.approx(4.0)
    assert plan(distillation=0).distillation == 0
    # A step has no more than there is.
    assert plan(epochs=1, **room | {"batch_tokens": 4_000_000}).distillation == 3.0


def test_validation_is_bounded(plan: Any) -> None:
    assert sum(map(len, plan(validation_tokens=500).validation_batches)) == 10
    assert plan(validation_tokens=0).validation_batches == ()


def test_window_smaller_than_an_example_is_refused(plan: Any) -> None:
    with pytest.raises(TrainingError, match=r"training\.window"):
        plan(window=64)


def test_every_stream_is_validated(tmp_path: Path) -> None:
    with TokenWriter(tmp_path, 100, ["chats"]) as writer:
        for number in range(40):
            stream = "chats" if number >= 30 else ("fim" if number % 2 else "ntp")
            writer.append([1] * 10, stream=stream, document=number)
    found = TokenStore.open(tmp_path)
    batches = validation_batches(found, 10_000, 60)
    assert sorted(n for batch in batches for n in batch) == list(range(40))
    assert all(len(batch) <= 6 for batch in batches)
    names = names_of(found, batches)
    for batch, name in zip(batches, names, strict=True):
        assert {found.stream_names[found.streams[n]] for n in batch} == {name}
    few = validation_batches(found, 80, 60)
    assert [len(batch) for batch in few] == [3, 3, 2]
    assert names_of(found, few) == ["ntp", "fim", "chats"]
    assert len(validation_batches(found, 1, 60)) == 3
    sums = [(6.0, 3), (2.0, 1), (1.0, 1)]
    assert losses_by_stream(["a", "b", "a"], sums) == {"a": 7 / 4, "b": 2.0}
