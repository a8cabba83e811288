"""A file of training data as its reader sees it, and one row of it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from codetune.dataset.formats.problems import Problems
from codetune.errors import DatasetError

# Text is packed to a tenth, repeated text to a hundredth. Beyond this, a file of a few hundred
# bytes stands for gigabytes.
_MOST_PACKED, _ALWAYS_READ = 1000, 100_000_000


class Row(NamedTuple):
    """One row's values; `number` as in Problem."""

    number: int
    values: dict[str, Any]


@dataclass(frozen=True)
class File:
    """A file to be read, and where what is wrong with it goes.

    `wanted` are the columns that a layout can use: what is wrong with others is no matter.
    """

    path: Path
    name: str  # in problems
    encoding: str | None
    wanted: Collection[str]
    problems: Problems

    def bad(self, row: int, field: str, message: str) -> None:
        """Note a problem; raises as `Problems.add` does."""
        self.problems.add(self.name, row, field, message)

    def refuses(self, names: list[str], row: int) -> bool:
        """Whether a wanted column is there twice, which is noted: which is meant is not known."""
        twice = [name for name in self.wanted if names.count(name) > 1]
        for name in sorted(twice):
            self.bad(row, name, "names more than one column")
        return bool(twice)


def check_proportion(path: Path, unpacked: int) -> None:
    """Refuse a file that holds `unpacked` bytes or characters, out of all proportion to its own.

    Raises:
        DatasetError: it does.
    """
    if unpacked > max(_ALWAYS_READ, _MOST_PACKED * path.stat().st_size):
        raise DatasetError(
            f"{path} unpacks to more than {_MOST_PACKED} times its size.",
            advice="Write each example once, and weigh it where it is trained on.",
        )
