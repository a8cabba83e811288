"""An answer ends before it writes what stands behind its gap once more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codetune.models.prompts import GapEdges, GapEnd, until_gap_end


def filled(prefix: str, suffix: str, answer: str, *, unfinished: bool = False) -> str:
    return until_gap_end(answer, GapEdges.of(prefix, suffix), unfinished=unfinished)


@pytest.mark.parametrize(
    ("prefix", "suffix", "answer", "wanted"),
    [
        ("    f(", ")\n    return x", "a, b)\n    return", "a, b"),
        ("    f(", ")", "g(a), [b(c)]", "g(a), [b(c)]"),  # its own brackets are its own
        ("f(", "  )", "a)", "a"),
        ("def f(", ") -> None:\n", "a: str) -> None:", "a: str"),
        ("xs = [", "]}\n", "a[0], b[1]]", "a[0], b[1]"),
        # What the line before the gap opens, and nothing behind it closes, the answer may close.
        ("f(g(", ")", "a)", "a)"),
        ("f(g(", ")", "a))", "a)"),
        ("f(g(", "))", "a)", "a"),
        ("f(a)(", ")", "b)", "b"),
        # Brackets in a string are letters, as far as its line's end.
        ("f(", ")", '"smile :)", b)', '"smile :)", b'),
        ("f(", ")", "it's a\n)", "it's a\n"),
        # Another bracket, or another character, says nothing.
        ("f(", "]", "a)", "a)"),
        ("f(", ", b)", "a)", "a)"),
        ("f(", "", "a)\nb", "a)\nb"),
    ],
)
def test_a_bracket_that_is_there_already(
    prefix: str, suffix: str, answer: str, wanted: str
) -> None:
    assert filled(prefix, suffix, answer) == wanted


BELOW = "\n    return total\n"


@pytest.mark.parametrize(
    ("suffix", "answer", "wanted"),
    [
        (BELOW, "x = 1\n    return total\n    more", "x = 1"),
        (BELOW, "x = 1\n    return total", "x = 1"),
        (BELOW, "x = 1\n\n  \n    return total  \n", "x = 1"),
        ("\n" + BELOW, "x = 1\n    return total\n", "x = 1"),
        ("  \r\n    return total\r\n", "x = 1\n    return total\n", "x = 1"),
        (BELOW, "x = 1\n    return totals\n", "x = 1\n    return totals\n"),
        (BELOW, "x = 1\n    return total + 1", "x = 1\n    return total + 1"),
        (BELOW, "x = 1\n  return total\n", "x = 1\n  return total\n"),  # another depth
        (BELOW, "    return total\n", "    return total\n"),  # the gap's own line
        (BELOW, "x = 1\n    ret", "x = 1\n    ret"),
        (BELOW, "x = 1\n\n", "x = 1\n\n"),
        ("\n    }\n", "x = 1\n    }\n", "x = 1\n    }\n"),  # closes something else, perhaps
    ],
)
def test_the_line_below(suffix: str, answer: str, wanted: str) -> None:
    assert filled("", suffix, answer) == wanted


def test_a_part_of_the_line_below_that_the_limit_cut_off() -> None:
    assert filled("", BELOW, "x = 1\n    ret", unfinished=True) == "x = 1"
    assert filled("", BELOW, "x = 1\n    r", unfinished=True) == "x = 1\n    r"
    assert filled("", BELOW, "x = 1\n    y", unfinished=True) == "x = 1\n    y"


pieces = st.lists(st.sampled_from([*"()[]{}'\"\nax, ", "\n  ab", "  ab"]), max_size=12)


@given(
    st.sampled_from(["", "f(", "f(g(", "x = [{"]),
    st.sampled_from([")", "]\n", "}", "\n  ab\n", "\n\n  ab", ""]),
    pieces,
    st.booleans(),
)
def test_what_streams_is_what_stands_there_in_the_end(
    prefix: str, suffix: str, parts: list[str], unfinished: bool
) -> None:
    """However the answer is cut into pieces; and nothing shown is taken back."""
    edges = GapEdges.of(prefix, suffix)
    whole = until_gap_end("".join(parts), edges, unfinished=unfinished)
    assert "".join(parts).startswith(whole)
    gap, shown = GapEnd(edges), ""
    for part in parts:
        if gap.ended:
            break
        shown += gap.push(part)
    if not gap.ended:
        shown += gap.end(unfinished=unfinished)
    assert shown == whole
