"""Where the answer to a gap ends: before it writes what stands behind the gap once more.

A model that knows what belongs into `f(⎸)` often goes on with the bracket that is there already,
or with the line below: the answer was right, and the text in the editor would not be. Two signs
are sure enough to end an answer at them (of 3,000 real gaps of two repositories, one would have
been cut off):

- a bracket that closes none of the answer's own, where the same bracket stands behind the gap;
- after a gap that reaches to its line's end, the next line of the file, whole.
"""

from __future__ import annotations

from dataclasses import dataclass

_CLOSED_BY = {"(": ")", "[": "]", "{": "}"}
_CLOSING = frozenset(_CLOSED_BY.values())
_QUOTES = frozenset("\"'`")
_TELLING = 3  # characters of a line that make it more than a coincidence


@dataclass(frozen=True)
class GapEdges:
    """What both sides of a gap say about its end."""

    bracket: str = ""  # behind the gap, in its line; "": another character
    spare: int = 0  # brackets like it that the gap's line opens, and the text behind does not close
    line: str = ""  # below the gap, where that is a whole line; "": not telling

    def __bool__(self) -> bool:
        """Whether they say anything."""
        return bool(self.bracket or self.line)

    @classmethod
    def of(cls, prefix: str, suffix: str) -> GapEdges:
        """The edges of the gap between these texts."""
        rest, _, below = suffix.partition("\n")
        if rest.strip():
            bracket = rest.lstrip()[0]
            if bracket not in _CLOSING:
                return cls()
            opened, _ = _unmatched(prefix[prefix.rfind("\n") + 1 :])
            _, closed = _unmatched(rest)
            return cls(bracket, max(0, opened.count(bracket) - closed.count(bracket)))
        line = next((line.rstrip() for line in below.split("\n") if line.strip()), "")
        telling = len(line.strip()) >= _TELLING and any(map(str.isalnum, line))
        return cls(line=line if telling else "")


def _unmatched(text: str) -> tuple[list[str], list[str]]:
    """The closing brackets that `text` waits for, innermost last, and those it did not open."""
    waited: list[str] = []
    surplus: list[str] = []
    for letter in text:
        if letter in _CLOSED_BY:
            waited.append(_CLOSED_BY[letter])
        elif letter in _CLOSING:
            if waited and waited[-1] == letter:
                waited.pop()
            else:
                surplus.append(letter)
    return waited, surplus


class GapEnd:
    """Passes an answer's text on up to its gap's end; what may be that end waits."""

    def __init__(self, edges: GapEdges) -> None:
        self._edges, self._spare = edges, edges.spare
        self._waited: list[str] = []  # closing brackets of those that the answer opened
        self._quote = ""  # brackets in a string are letters; a string ends with its line
        self._held = ""  # a line break, and what may become the line below the gap
        self.ended = False

    def push(self, text: str) -> str:
        """The text that is certain; after the end there is no more."""
        if self._edges.bracket:
            return self._before_bracket(text)
        return self._before_line(text) if self._edges.line else text

    def end(self, *, unfinished: bool) -> str:
        """What waited when the model stopped, or when its tokens were spent (`unfinished`)."""
        held, self._held = self._held, ""
        last = held[held.rfind("\n") + 1 :].rstrip()
        if held and last == self._edges.line:
            self.ended = True
            return ""
        # A part of that very line, cut off by the limit: nobody would keep it.
        return "" if unfinished and len(last.strip()) >= _TELLING else held

    def _before_bracket(self, text: str) -> str:
        for place, letter in enumerate(text):
            if letter == "\n":
                self._quote = ""
            elif self._quote:
                self._quote = "" if letter == self._quote else self._quote
            elif letter in _QUOTES:
                self._quote = letter
            elif letter in _CLOSED_BY:
                self._waited.append(_CLOSED_BY[letter])
            elif self._waited and letter == self._waited[-1]:
                self._waited.pop()
            elif letter == self._edges.bracket and not self._waited:
                if not self._spare:
                    self.ended = True
                    return text[:place]
                self._spare -= 1
        return text

    def _before_line(self, text: str) -> str:
        text = self._held + text
        self._held = ""
        start = text.find("\n")
        while start >= 0:
            # Blank lines before the line below are no part of the answer either.
            first, end = start, text.find("\n", start + 1)
            while end >= 0 and not text[start + 1 : end].strip():
                start, end = end, text.find("\n", end + 1)
            line = text[start + 1 : end if end >= 0 else None]
            if end >= 0 and line.rstrip() == self._edges.line:
                self.ended = True
                return text[:first]
            if end < 0 and (not line.strip() or self._edges.line.startswith(line.rstrip())):
                self._held = text[first:]
                return text[:first]
            start = end
        return text


def until_gap_end(text: str, edges: GapEdges, *, unfinished: bool) -> str:
    """A whole answer up to its gap's end; `unfinished` if it was cut off by a limit."""
    gap = GapEnd(edges)
    shown = gap.push(text)
    return shown if gap.ended else shown + gap.end(unfinished=unfinished)
