"""Near duplicates: what counts as one, and how many are missed."""

from __future__ import annotations

import random

import numpy as np
import pytest

from codetune.similarity import NearDuplicates, exact_digest, fingerprint, shingles, similarity


def text(seed: int, tokens: int = 400) -> list[str]:
    chance = random.Random(seed)
    return [f"name{chance.randrange(10**6)}" for _ in range(tokens)]


def changed(tokens: list[str], share: float, seed: int = 0) -> list[str]:
    chance = random.Random(seed)
    return [f"new{chance.randrange(10**6)}" if chance.random() < share else t for t in tokens]


def jaccard(one: str, other: str) -> float:
    a, b = set(shingles(one).tolist()), set(shingles(other).tolist())
    return len(a & b) / len(a | b)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.05, 0.1, 0.3, 1.0])
def test_estimate_is_near_the_true_similarity(share):
    tokens = text(1, 2000)
    one, other = " ".join(tokens), " ".join(changed(tokens, share))
    estimate = similarity(fingerprint(one), fingerprint(other))
    assert abs(estimate - jaccard(one, other)) < 0.13  # three standard errors of 128 samples


def test_layout_does_not_matter_and_order_does():
    one = "def area(width, height):\n    return width * height + margin_of(width)\n" * 3
    assert (
        similarity(fingerprint(one), fingerprint(one.replace("    ", "\t").replace(" ", "  "))) == 1
    )
    tokens = text(2)
    assert similarity(fingerprint(" ".join(tokens)), fingerprint(" ".join(tokens[::-1]))) < 0.1


def test_find_gives_the_earliest_and_misses_few():
    index = NearDuplicates(0.8)
    found = 0
    for seed in range(200):
        tokens = text(seed)
        index.add(f"first {seed}", fingerprint(" ".join(tokens)))
        index.add(f"second {seed}", fingerprint(" ".join(tokens)))
        found += index.find(fingerprint(" ".join(changed(tokens, 0.02)))) == f"first {seed}"
    assert found >= 190
    assert index.find(fingerprint(" ".join(text(999)))) is None
    assert len(index) == 400


@pytest.mark.parametrize("threshold", [0.8, 0.75, 0.6, 0.5])
def test_few_are_missed_at_any_threshold(threshold: float) -> None:
    chance = np.random.default_rng(0)
    index, near, found = NearDuplicates(threshold), 0, 0
    for number in range(300):
        one, other = chance.integers(0, 2**32, (2, 128), np.uint32)
        other = np.where(chance.random(128) < threshold + 0.02, one, other)
        index.add(str(number), one)
        near += similarity(one, other) >= threshold
        found += index.find(other) == str(number)
    assert near > 150 and found >= 0.9 * near


def test_find_all_reports_every_similar_text_with_its_share():
    index = NearDuplicates(0.5)
    tokens = text(3)
    for share in (0.0, 0.03, 0.9):
        index.add(str(share), fingerprint(" ".join(changed(tokens, share))))
    answer = index.find_all(fingerprint(" ".join(tokens)))
    assert [key for key, _ in answer] == ["0.0", "0.03"]
    assert answer[0][1] == 1.0


def test_nothing_and_almost_nothing():
    assert len(shingles("")) == 0
    assert len(shingles(" \n\t ")) == 0
    assert fingerprint("").shape == fingerprint("a").shape == (128,)
    assert similarity(fingerprint("a"), fingerprint("b")) < 0.5
    assert NearDuplicates().find(fingerprint("a")) is None


def test_fingerprints_are_the_same_in_every_process():
    """Stored and compared across runs: a changed hash would silently stop finding anything."""
    known = fingerprint("def f(x):\n    return x + 1\n")
    assert known.dtype == np.uint32
    assert known[:4].tolist() == KNOWN


KNOWN = [3224523244, 3287428276, 1313408071, 3311779470]


def test_exact_digest_is_blind_to_blanks_at_ends_only():
    assert exact_digest("a = 1  \nb\n\n") == exact_digest("a = 1\nb")
    assert exact_digest("a = 1\nb") != exact_digest("a = 1\n\nb")
    assert exact_digest("  a") != exact_digest("a")
