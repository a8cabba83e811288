"""From token ids to text that may be shown: whole characters, and nothing behind its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from codetune.models.prompts import GapEdges, GapEnd

_REPLACEMENT = "\ufffd"
_UNSURE = 3  # replacement characters at the end that further bytes may still turn into one
_LONGEST_WINDOW = 64  # tokens; only noise has no whole character for so long


class TextStream:
    """Decodes ids one by one; half a character is held back until its other half comes.

    Each step decodes a short window that begins at a border between characters, so that
    tokenizers whose text depends on the neighbouring token (SentencePiece blanks) come out
    right, too.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []  # the window
        self._border = 0  # the last place in it with only whole characters before
        self._shown = 0  # characters of its text that were given away

    def push(self, token: int) -> str:
        """The text that `token` completes."""
        self._ids.append(token)
        text = self._decode(self._ids)
        if not text.endswith(_REPLACEMENT) or len(self._ids) > _LONGEST_WINDOW:
            new = text[self._shown :]
            self._ids = self._ids[self._border :]
            self._border = len(self._ids)
            self._shown = len(self._decode(self._ids))
            return new
        sure = len(text)
        while sure and len(text) - sure < _UNSURE and text[sure - 1] == _REPLACEMENT:
            sure -= 1
        new = text[self._shown : sure]
        self._shown = max(self._shown, sure)
        return new

    def end(self) -> str:
        """What was held back and stays half a character."""
        return self._decode(self._ids)[self._shown :]


class AnswerEnd:
    """Passes text on up to the gap's end or the first stop string, whichever comes first."""

    def __init__(self, stops: Sequence[str], gap: GapEdges | None) -> None:
        self._stops, self._gap = StopScanner(stops), GapEnd(gap or GapEdges())

    @property
    def stopped(self) -> bool:
        return self._stops.stopped or self._gap.ended

    @property
    def word(self) -> str:
        """The stop string that ended it; "" where none did."""
        return self._stops.word

    def push(self, text: str) -> str:
        """The text that is certain; after the end there is no more."""
        shown = self._stops.push(self._gap.push(text))
        return shown + self._stops.end() if self._gap.ended else shown

    def end(self, *, unfinished: bool) -> str:
        """What waited for an end that did not come; `unfinished` if the tokens were spent."""
        shown = self._stops.push(self._gap.end(unfinished=unfinished))
        return shown if self._stops.stopped else shown + self._stops.end()


class StopScanner:
    """Passes text on up to the first stop string; what may begin one waits."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""
        self.word = ""  # the one that came

    @property
    def stopped(self) -> bool:
        return bool(self.word)

    def push(self, text: str) -> str:
        """The text that is certain; after a stop string there is no more."""
        if not self._stops or not text:
            return text
        text = self._held + text
        places = [(place, stop) for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            first, self.word = min(places)
            self._held = ""
            return text[:first]
        cut = self._possible_start(text)
        self._held = text[cut:]
        return text[:cut]

    def end(self) -> str:
        """What waited for a stop string that did not come."""
        held, self._held = self._held, ""
        return held

    def _possible_start(self, text: str) -> int:
        """The first place from which the rest of `text` may be the beginning of a stop."""
        first = len(text)
        for stop in self._stops:
            place = text.find(stop[0], max(0, len(text) - len(stop) + 1), first)
            while place >= 0 and not stop.startswith(text[place:]):
                place = text.find(stop[0], place + 1, first)
            if place >= 0:
                first = place
        return first
