"""What became of completions in the editor: counted by the kind of model, and what stayed of them.

Editors say that a completion was shown, accepted or dismissed, but not what its reader made of
it afterwards. That shows in the next requests from the same file: they bring the text around the
cursor, and in it stands what the accepted text has become.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from codetune.distance import distance_to_beginning
from codetune.serving.stats import Histogram

RATIOS = (0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
STAYED = "stayed"  # the event that is kept of what stayed
_SETTLED = 30.0  # seconds after which an accepted text is looked at again
_FORGOTTEN = 1800.0  # seconds for which a completion is remembered
_MOST = 4096  # completions that are remembered
_ANCHOR = 160  # characters before a completion by which its place is found again
_SHORTEST_ANCHOR = 8  # fewer may stand anywhere
_ROOM = 400  # characters that may have come into a text and are still seen as such


@dataclass
class Fates:
    """What became of the completions of one kind of model, since the start."""

    events: Counter[str] = field(default_factory=Counter)
    edits: Histogram = field(default_factory=lambda: Histogram(RATIOS))


class Tally:
    """Counts fates; any thread may."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fates: dict[str, Fates] = {}

    def event(self, kind: str, event: str) -> None:
        """A completion of a model of this kind was shown, accepted or dismissed."""
        with self._lock:
            self._fates.setdefault(kind, Fates()).events[event] += 1

    def edited(self, kind: str, ratio: float) -> None:
        """This share of an accepted completion was changed."""
        with self._lock:
            self._fates.setdefault(kind, Fates()).edits.add(ratio)

    def read(self) -> Mapping[str, Fates]:
        """The counts as they are now."""
        with self._lock:
            return {
                kind: Fates(
                    fates.events.copy(),
                    Histogram(RATIOS, list(fates.edits.counts), fates.edits.total),
                )
                for kind, fates in self._fates.items()
            }


@dataclass(frozen=True)
class Stayed:
    """An accepted completion, looked at again."""

    completion: str
    kind: str  # of model
    ratio: float  # of its characters that were changed: 0, it stands as it was; 1, nothing does
    seconds: float  # since it was accepted


@dataclass
class _Shown:
    owner: str
    path: str
    kind: str
    anchor: str
    text: str
    at: float  # seconds, on the clock
    accepted: float | None = None


class Remains:
    """Remembers the latest completions, in memory alone, until it is known what stayed of them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds."""
        self._clock = clock
        self._lock = threading.Lock()
        self._shown: OrderedDict[str, _Shown] = OrderedDict()

    def show(
        self, completion: str, owner: str, path: str | None, kind: str, prefix: str, text: str
    ) -> None:
        """Remember a completion by what stands before it in the file `path` of its owner."""
        anchor = prefix[-_ANCHOR:]
        if not path or not text.strip() or len(anchor.strip()) < _SHORTEST_ANCHOR:
            return
        with self._lock:
            now = self._clock()
            self._shown[completion] = _Shown(owner, path, kind, anchor, text.rstrip(), now)
            self._forget(now)

    def accept(self, completion: str, *, line: bool) -> None:
        """Its reader took it; with `line`, its first line alone."""
        with self._lock:
            shown = self._shown.get(completion)
            if shown is None or shown.accepted is not None:
                return
            shown.accepted = self._clock()
            if line:
                shown.text = shown.text.split("\n", 1)[0].rstrip() or shown.text

    def look(self, owner: str, path: str | None, text: str) -> list[Stayed]:
        """What stayed of the accepted completions whose place is seen in `text`.

        `text` is what stands around the cursor in the owner's file. Each is told once, at the
        first look that comes half a minute or later after it was accepted.
        """
        if not path:
            return []
        with self._lock:
            now = self._clock()
            self._forget(now)
            found = []
            for completion, shown in self._shown.items():
                if shown.accepted is None or (shown.owner, shown.path) != (owner, path):
                    continue
                age = now - shown.accepted
                if age >= _SETTLED and (ratio := _changed(shown, text)) is not None:
                    found.append(Stayed(completion, shown.kind, ratio, age))
            for one in found:
                del self._shown[one.completion]
        return found

    def _forget(self, now: float) -> None:
        """Let go of what is too old or too much; the oldest stand first."""
        while self._shown:
            oldest = next(iter(self._shown.values()))
            if len(self._shown) <= _MOST and now - oldest.at <= _FORGOTTEN:
                return
            self._shown.popitem(last=False)


def _changed(shown: _Shown, text: str) -> float | None:
    """The share of a completion that was changed; None where its place is not to be seen."""
    at = text.rfind(shown.anchor)
    if at < 0:
        return None
    start = at + len(shown.anchor)
    now = text[start : start + len(shown.text) + _ROOM]
    return min(1.0, distance_to_beginning(shown.text, now) / len(shown.text))
