"""The word at the cursor is written again, and only by tokens that agree with it."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codetune.models.load import resolve_base
from codetune.models.prompts import Pending, Renderer
from codetune.models.prompts.healing import LONGEST
from tests.unit.models.tiny_families import renderer

NANO = Renderer.from_folder(resolve_base("nano").path)


def words_again(prefix: str) -> str:
    return prefix[NANO.cursor_word(prefix) :]


@pytest.mark.parametrize(
    ("prefix", "word"),
    [
        ("x = ", " "),
        ("    self.", "."),
        ("    self.pri", ".pri"),
        ("    ret", " ret"),
        ("a\n        ", "        "),
        ("a = größ", " größ"),
        ("a\n", ""),
        ("", ""),
        ("x" * (LONGEST + 1), ""),
        ("y = " + "-" * 500, ""),
    ],
)
def test_the_word_at_the_cursor(prefix: str, word: str) -> None:
    assert words_again(prefix) == word


def test_suffix_first_the_prompt_ends_before_the_word() -> None:
    assert NANO.order == "spm-marked"
    opening = NANO.fim_opening("total = self.pr", "\nprint()\n", repo="o/n", path="a.py")
    assert opening.beginning is not None
    assert opening.beginning.text == ".pr"
    expected = NANO.fim_prompt(
        "total = self", "\nprint()\n", repo="o/n", path="a.py", order=NANO.order
    )
    assert opening.ids == expected
    assert opening.healed == len(NANO.plain(".pr"))
    more = NANO.fim_opening("total = ", "\nprint()\n", begun="self.pr", repo="o/n", path="a.py")
    assert more == opening, "what is begun is a part of the prefix"


def test_a_base_that_reads_the_prefix_first_is_asked_as_ever() -> None:
    base = renderer("qwen")
    assert base.order == "psm"
    opening = base.fim_opening("total = ", "\n", begun="se")
    assert opening.ids == base.fim_prompt("total = ", "\n") + base.plain("se")
    assert opening.beginning is None


def test_training_and_asking_agree() -> None:
    """What is learned is the prompt that will be given, and then the word and the middle."""
    for prefix, middle in (("x = ", "1 + y"), ("self.", "total()"), ("a\n", "b"), ("pri", "nt(x)")):
        ids, start = NANO.fim_example(prefix, middle, "\nz\n", order=NANO.order)
        opening = NANO.fim_opening(prefix, "\nz\n")
        assert ids[:start] == opening.ids
        word = opening.beginning.text if opening.beginning else ""
        assert NANO.decode(ids[start:]) == word + middle


@settings(max_examples=200, deadline=None)
@given(prefix=st.text(max_size=40), seed=st.integers(0, 999))
def test_whatever_is_chosen_writes_the_word(prefix: str, seed: int) -> None:
    """Any choice among the allowed tokens, to the end, spells the word and perhaps goes on."""
    beginning = NANO.fim_opening(prefix, "").beginning
    if beginning is None:
        assert not words_again(prefix)
        return
    random, pending, ids, alone = Random(seed), Pending(beginning), [], 0
    while pending.rest:
        allowed = pending.allowed.tolist()
        assert allowed
        assert not set(allowed) & set(NANO.markup.values())
        ids.append(random.choice(allowed))
        alone += pending.push(ids[-1])
    written = NANO.decode_bytes(ids)
    assert written.startswith(beginning.bytes)
    assert NANO.decode_bytes(ids[:alone]) == beginning.bytes[: len(NANO.decode_bytes(ids[:alone]))]
    over = len(written) > len(beginning.bytes)
    assert len(ids) - alone == over, "one token at most reaches over the cursor"


def test_no_token_that_agrees_is_left_out() -> None:
    beginning = NANO.fim_opening("self.to", "").beginning
    assert beginning is not None
    allowed = set(Pending(beginning).allowed.tolist())
    for token in range(NANO.vocab_size):
        text = NANO.decode_bytes([token])
        agrees = bool(text) and (text.startswith(b".to") or b".to".startswith(text))
        assert (token in allowed) == agrees
