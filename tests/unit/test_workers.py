"""The ordered map over processes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator

import pytest

from codetune.errors import ArtifactError
from codetune.workers import Workers, processes_for


class Square:
    def __init__(self, offset: int) -> None:
        self.offset = offset

    def __call__(self, item: int) -> tuple[int, int]:
        if item < 0:
            raise ValueError(f"no {item}")
        if item == 13:
            os.kill(os.getpid(), 9)
        print("a stray print")
        time.sleep(0.02 * (item % 3))
        return item * item + self.offset, os.getpid()


def ordered_map(items: Iterable[int], processes: int) -> list[tuple[int, int]]:
    with Workers(processes) as workers:
        return list(workers.map(Square, (5,), items))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("processes", [1, 2])
def test_results_come_in_order(processes: int) -> None:
    results = ordered_map(range(12), processes)
    assert [value for value, _ in results] == [n * n + 5 for n in range(12)]
    pids = {pid for _, pid in results}
    assert len(pids) == processes
    assert (os.getpid() in pids) == (processes == 1)
    assert not any(alive(pid) for pid in pids - {os.getpid()})


def test_items_are_read_little_ahead() -> None:
    read = 0

    def items() -> Iterator[int]:
        nonlocal read
        for n in range(100):
            read += 1
            yield n % 10

    with Workers(2) as workers:
        results = workers.map(Square, (0,), items())
        next(results)
        assert read <= 8
        results.close()  # type: ignore[attr-defined]


def test_the_same_processes_do_the_next_work() -> None:
    with Workers(2) as workers:
        first = list(workers.map(Square, (0,), range(9)))
        second = list(workers.map(Square, (7,), range(9)))
    assert [value for value, _ in second] == [value + 7 for value, _ in first]
    assert {pid for _, pid in first} == {pid for _, pid in second}


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_is_the_callers(processes: int) -> None:
    with pytest.raises(ValueError, match="no -3"):
        ordered_map([1, 2, -3, 4], processes)


class Refusing:
    def __init__(self) -> None:
        raise ValueError("not today")


@pytest.mark.parametrize("processes", [1, 2])
def test_what_fails_early_is_said_when_it_is_needed(processes: int) -> None:
    with Workers(processes) as workers:
        workers.prepare(Refusing, ())
        assert [value for value, _ in workers.map(Square, (0,), [3])] == [9]
        with pytest.raises(ValueError, match="not today"):
            list(workers.map(Refusing, (), [1, 2]))


def test_a_killed_process_is_said() -> None:
    with pytest.raises(ArtifactError, match="ended early"):
        ordered_map([1, 2, 13, 4], 2)


def test_small_work_starts_nothing() -> None:
    assert processes_for(1000) == 1
    assert processes_for(10**9) == min(len(os.sched_getaffinity(0)), 16)


def test_processes_come_with_the_work_and_end_with_the_outermost_block() -> None:
    workers = Workers(needed=("codetune.similarity",))
    workers.expect(10**9)  # nobody would end them
    assert {pid for _, pid in workers.map(Square, (0,), [1, 2])} == {os.getpid()}
    with workers:
        with workers:
            workers.expect(1000)
            assert {pid for _, pid in workers.map(Square, (0,), [1, 2])} == {os.getpid()}
            workers.expect(10**9)
            first = {pid for _, pid in workers.map(Square, (0,), range(12))}
        second = {pid for _, pid in workers.map(Square, (0,), range(12))}
        assert os.getpid() not in first | second or processes_for(10**9) == 1
        assert first & second
    assert not any(alive(pid) for pid in (first | second) - {os.getpid()})


def test_after_an_error_new_processes_do_the_next_work() -> None:
    with Workers(2) as workers:
        with pytest.raises(ValueError, match="no -3"):
            list(workers.map(Square, (0,), [1, -3, 4]))
        assert [value for value, _ in workers.map(Square, (0,), [1, 2, 3])] == [1, 4, 9]
