"""Which function a test tests, and which definition a section is about.

A test and its function are joined by what the test calls, what its file imports, where it stands,
and what it is called. Where that leaves more than one function, there is no pair: a wrong pair
teaches worse than none.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from codetune.dataset.instruct.extraction import Asking, Place
from codetune.dataset.instruct.prose import folder_of
from codetune.syntax.test_cases import stem_of

_GROUPS = {"typescript": "javascript", "tsx": "javascript", "c": "cpp"}
_SHORTEST_NAME = 3
_MOST_CALLERS = 30  # a function that so many tests name is a helper of theirs, or the entry point
_IS_SAID = 10  # the score of a place whose name stands in the test's title
_NOT_TESTED = frozenset({"interface", "type", "trait", "enum"})
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


class Links:
    """The repository's definitions by name."""

    def __init__(self, places: Iterable[Place]) -> None:
        self._by_name: dict[tuple[str, str], list[Place]] = defaultdict(list)
        for place in places:
            name = place.qualified.rpartition(".")[2]
            self._by_name[_group(place.language), name].append(place)

    def tests(self, asked: Sequence[Asking]) -> Iterator[tuple[Asking, Place]]:
        """Every test whose function is known, at most `_MOST_CALLERS` for one function."""
        uses: dict[tuple[str, str], int] = defaultdict(int)
        for test in asked:
            place = self._tested(test)
            if place is None:
                continue
            uses[place.path, place.qualified] += 1
            if uses[place.path, place.qualified] <= _MOST_CALLERS:
                yield test, place

    def sections(self, asked: Sequence[Asking]) -> Iterator[tuple[Asking, Place]]:
        """Every section whose name means one definition in the whole repository."""
        groups = {group for group, _ in self._by_name}
        for section in asked:
            found = [
                p for group in sorted(groups) for p in self._by_name.get((group, section.name), ())
            ]
            if len(found) == 1:
                yield section, found[0]

    def _tested(self, test: Asking) -> Place | None:
        """The function that a test is about, if one is clearly more likely than any other."""
        title = words_of(test.name.rpartition(".")[2])
        scored: dict[Place, int] = {}
        for name in test.calls:
            if len(name) < _SHORTEST_NAME:
                continue
            for place in self._by_name.get((_group(test.language), name), ()):
                near = 0 if place.what in _NOT_TESTED else _near(test, place)
                if near:
                    scored[place] = near + _said(title, place, test)
        if not scored:
            return None
        best = max(scored.values())
        winners = [place for place, score in scored.items() if score == best]
        # Without its name in the title, only a test of one single function is clear.
        clear = best >= _IS_SAID or (len(scored) == 1 and _is_named_by(test, winners[0]))
        return winners[0] if len(winners) == 1 and clear else None


def _near(test: Asking, place: Place) -> int:
    """How the test's file is tied to the place: 2 the same module, 1 imported, 0 not at all."""
    if test.path == place.path:
        return 2
    stem = stem_of(place.path)
    if stem_of(test.path) == stem and stem != "main":
        return 2
    if test.language in ("go", "java") and _package(test.path) == _package(place.path):
        return 2
    if test.language == "go":
        return int(folder_of(place.path).rpartition("/")[2] in test.imports)
    first = place.qualified.partition(".")[0]
    if first in test.imports or (stem in test.imports and _group(test.language) != "javascript"):
        return 1
    # Python's packages hand names on from their __init__, Rust's crates from lib.rs.
    last = place.qualified.rpartition(".")[2]
    return int(last in test.imports)


def _said(title: list[str], place: Place, test: Asking) -> int:
    """More the longer a part of the title the place's name is; 0 if it is none."""
    owner, _, name = place.qualified.rpartition(".")
    words = words_of(name)
    size = len(words)
    runs = (title[n : n + size] for n in range(len(title) - size + 1))
    if words not in runs or (size == 1 and len(name) < 4):
        return 0
    owner = owner.rpartition(".")[2]
    known = bool(owner) and (
        owner in test.calls or owner in test.imports or set(words_of(owner)) <= set(title)
    )
    return _IS_SAID + 2 * min(size, 6) + known


def _is_named_by(test: Asking, place: Place) -> bool:
    """Whether the test's file imports the function or its type by name, or stands beside it."""
    return _near(test, place) == 2 or place.qualified.partition(".")[0] in test.imports


def words_of(name: str) -> list[str]:
    """The words of an identifier or title in lower case: `parseURLPath_fast` has four."""
    return [word.lower() for word in _WORDS.findall(name)]


def _package(path: str) -> str:
    return folder_of(path).replace("src/test/", "src/main/")


def _group(language: str) -> str:
    return _GROUPS.get(language, language)
