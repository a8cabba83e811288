"""Finding literals by the hashes of what stands in a text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from codetune.corpus.literals import Literals

WORDS = ("SK", "sk-", "ghp_", "://", "password", "a b")


@given(st.lists(st.sampled_from([*WORDS, "s", "k", "-", "é", "\n", "gh", "pass", " "])))
def test_what_is_found_is_what_is_there(parts: list[str]) -> None:
    text = "".join(parts)
    assert Literals(WORDS).found_in(text) == {word for word in WORDS if word in text}


def test_lone_surrogates_hide_nothing() -> None:
    assert Literals(WORDS).found_in("\ud800 password") == {"password"}
