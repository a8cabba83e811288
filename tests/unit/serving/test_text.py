"""Text as it grows: whole characters, and nothing of a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from codetune.models.prompts import GapEdges, Renderer
from codetune.serving.text import AnswerEnd, StopScanner, TextStream


def test_a_character_is_never_shown_in_halves(renderer: Renderer) -> None:
    text = "é = '你好 🦊' # ok"
    stream = TextStream(renderer.decode)
    shown = [stream.push(token) for token in renderer.plain(text)]
    assert "".join(shown) + stream.end() == text
    assert not any("\ufffd" in piece for piece in shown)
    assert sum(piece == "" for piece in shown) == len(text.encode()) - len(text)


@given(st.binary(max_size=40))
def test_any_bytes_give_the_text_that_they_give_at_once(raw: bytes) -> None:
    """Noise, too: a model that is not trained yet writes little else."""
    stream = TextStream(lambda ids: bytes(ids).decode(errors="replace"))
    shown = "".join(map(stream.push, raw))
    assert shown + stream.end() == raw.decode(errors="replace")
    # Nothing is held back but what may still become a character.
    assert len(raw.decode(errors="replace")) - len(shown) <= 3


def test_endless_noise_stays_cheap() -> None:
    windows = []

    def decode(ids: Sequence[int]) -> str:
        windows.append(len(ids))
        return bytes(ids).decode(errors="replace")

    stream = TextStream(decode)
    shown = "".join(map(stream.push, b"\xff" * 500))
    assert len(shown) > 490
    assert max(windows) < 150


@given(st.text(alphabet="ab\n", max_size=30), st.lists(st.text(alphabet="ab\n", min_size=1)))
def test_stops_cut_where_the_first_one_is_completed(text: str, stops: list[str]) -> None:
    """Against the plain definition, character by character."""
    scanner = StopScanner(stops)
    shown = ""
    for end, character in enumerate(text, 1):
        shown += scanner.push(character)
        done = [text.find(stop) for stop in stops if 0 <= text.find(stop) <= end - len(stop)]
        if done:
            assert scanner.stopped
            assert shown == text[: min(done)]
            return
        assert text[:end].startswith(shown)
        # Whatever is held back could still become a stop.
        held = text[len(shown) : end]
        assert not held or any(stop.startswith(held) for stop in stops)
    assert shown + scanner.end() == text
    assert not scanner.stopped


def test_of_two_stops_in_one_piece_the_first_counts() -> None:
    """A token may complete both at once; nothing from the first one on may be shown."""
    for stops in (["<end>", "\n\n"], ["\n\n", "<end>"]):
        scanner = StopScanner(stops)
        assert scanner.push("one\n\ntwo<end>three") == "one"
        assert scanner.stopped


def test_a_stop_across_many_pieces_is_not_shown() -> None:
    scanner = StopScanner(["\n\n", "<end>"])
    pieces = ["a", "<e", "n", "x<", "end", "> never"]
    assert "".join(map(scanner.push, pieces)) == "a<enx"
    assert scanner.stopped


def test_the_end_of_a_gap_and_a_stop_end_an_answer_whichever_comes_first() -> None:
    in_call, above_line = GapEdges.of("f(", ")"), GapEdges.of("", "\n  below\n")
    for gap, stops, pieces, shown in (
        (in_call, ["b"], ["a, ", "b) + 1"], "a, "),
        (in_call, ["b))"], ["a, ", "b", ") + 1"], "a, b"),
        (None, ["b))"], ["a, ", "b", ") + 1"], "a, b) + 1"),
        (above_line, ["x"], ["a\n", "  bel", "ow\n x"], "a"),
        (above_line, ["\n  bely"], ["a\n", "  bel", "y"], "a"),
    ):
        end = AnswerEnd(stops, gap)
        found = ""
        for piece in pieces:
            found += "" if end.stopped else end.push(piece)
        assert (found if end.stopped else found + end.end(unfinished=False)) == shown


def test_what_waits_for_both_is_shown_when_neither_comes() -> None:
    end = AnswerEnd(["\n  bely"], GapEdges.of("", "\n  below\n"))
    assert end.push("a\n  be") == "a"
    assert end.end(unfinished=False) == "\n  be"
    end = AnswerEnd([], GapEdges.of("", "\n  below\n"))
    assert end.push("a\n  belo") + end.end(unfinished=True) == "a"
