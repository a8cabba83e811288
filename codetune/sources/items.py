"""What a source consists of before it is written: file versions, each to be read or skipped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from codetune.errors import ConfigError
from codetune.records import Repository
from codetune.sources.ignore import is_pattern

if TYPE_CHECKING:
    from codetune.sources.config import SourceOptions


@dataclass(frozen=True)
class Item:
    """A file version on its way into the table; with a `reason` it is skipped, unread."""

    path: str
    size: int
    reason: str = ""
    detail: str = ""
    in_past: bool = True
    in_present: bool = True
    previous_path: str | None = None

    def skip(self, reason: str, detail: str = "") -> Item:
        """The same item, not to be read."""
        return replace(self, reason=reason, detail=detail)


@dataclass(frozen=True)
class Change:
    """What one commit did to one file."""

    commit: str
    message: str
    path: str
    before: bytes
    after: bytes
    files: int  # that the commit touched


@dataclass(frozen=True)
class Source:
    """A source that was found and identified; `read` gives its items with their contents.

    Items of the past come first. `version` changes exactly when what `read` gives may change.
    `changes` gives up to a number of small changes of the past, newest first, where there is
    history.
    """

    repository: Repository
    version: str
    total: int  # number of items
    read: Callable[[], Iterator[tuple[Item, bytes]]]
    changes: Callable[[int], Iterator[Change]] | None = None


class Selection:
    """The user's choice of paths and sizes.

    Raises:
        ConfigError: an option holds what is no pattern.
    """

    def __init__(self, options: SourceOptions) -> None:
        self._largest = options.largest_file
        self._include = _patterns("include", options.include)
        self._exclude = _patterns("exclude", options.exclude)

    def judge(self, item: Item) -> Item:
        """`item`, marked as skipped if the options say so; an earlier reason stands."""
        if item.reason:
            return item
        if self._include is not None and not self._include.match_file(item.path):
            return item.skip("excluded", "matches no pattern of sources.include")
        if self._exclude is not None and self._exclude.match_file(item.path):
            return item.skip("excluded", "matches a pattern of sources.exclude")
        if item.size > self._largest:
            return item.skip("too_large", f"more than {self._largest} bytes")
        return item


def _patterns(option: str, lines: tuple[str, ...]) -> Any:
    from pathspec import GitIgnoreSpec

    for line in lines:
        if not is_pattern(line):
            raise ConfigError(
                f"sources.{option}: '{line}' is no pattern.",
                advice="Patterns are written as in .gitignore, for example src/**/*.py.",
            )
    return GitIgnoreSpec.from_lines(lines) if lines else None
