"""Added regions, against what git says of the same two versions."""

from __future__ import annotations

import time
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from codetune.dataset.added import added_regions


def added(old: str, new: str, minimum: int = 2) -> list[str]:
    return [new[a:b] for a, b in added_regions(old, new, minimum_lines=minimum)]


def test_added_regions() -> None:
    old = "".join(f"line {n}\n" for n in range(9))
    assert added(old, old) == []
    assert added(old, "new 1\nnew 2\n" + old) == ["new 1\nnew 2\n"]
    assert added(old, old + "new 1\n\n") == []
    assert added(old, old + "new 1\n\nnew 2") == ["new 1\n\nnew 2"]
    assert added("a\nb\n", "a\nb") == []
    edited = old.replace("line 4\nline 5\n", "line 4 is now much longer\nand line 5 is other\n")
    assert added(old, edited) == ["line 4 is now much longer\nand line 5 is other\n"]
    words = "the quick brown fox jumps over the lazy dog and runs\n"
    touched = words.replace("quick", "slow") + words.replace("dog", "cat")
    assert added(old + words * 2, old + touched) == []
    assert added("", "x\ny\n") == ["x\ny\n"]
    assert added("x\ny\n", "") == []


@settings(max_examples=200, deadline=None)
@given(
    old=st.lists(st.sampled_from(["a\n", "b\n", "}\n", "\n", "c\n", "d\n", "e\n"]), max_size=30),
    block=st.lists(st.sampled_from(["new 1\n", "new 2\n", "new 3\n"]), min_size=3, max_size=6),
    at=st.integers(0, 30),
)
def test_an_inserted_block_is_found_whole(old: list[str], block: list[str], at: int) -> None:
    new = [*old[:at], *block, *old[at:]]
    (found,) = added("".join(old), "".join(new), 3)
    # Where the same lines stand on both sides, more than one diff tells the truth.
    assert "".join(block) in found
    assert found.count("\n") <= len(block) + 3


def test_large_files_take_no_time() -> None:
    random = Random(0)
    old = [f"row_{random.randrange(90)} = 0\n" for _ in range(6000)]
    new = list(old)
    for n in range(40):
        at = random.randrange(len(new))
        new[at:at] = [f"fresh_{n}_{k}\n" for k in range(3)]
    start = time.process_time()
    added("".join(old), "".join(new))
    assert time.process_time() - start < 5
