"""Pairs from commits: message and file → diff, and diff → what the message tells."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from codetune.dataset.instruct.config import InstructionOptions
from codetune.dataset.instruct.diffs import excerpt, unified
from codetune.dataset.instruct.extraction import Extracted
from codetune.dataset.instruct.pairs import Pair
from codetune.dataset.instruct.phrasing import phrase

_MOST_LINES = 120  # changed lines: a larger change is more than its message tells
# Numbers of issues, with the words that lead to them, and thanks: nothing that the change tells.
_NUMBER = re.compile(
    r"(?i)[ \t,;-]*\(?(?:\b(?:closes?d?|refs?|fix(?:es|ed)?|see|resolves?d?|re|part of|related to|"
    r"issues?|pr|pull request)\b:?[ \t]*)*(?:(?:[\w.-]+/[\w.-]+)?#\d+|\bGH-\d+|"
    r"https?://\S+/(?:issues|pull)/\d+\S*)\)?[ \t.]*(?=$|\n)|\s*\((?:#|GH-|!)\d+\)|"
    r"^(?:thanks|thank you|many thanks)\b.*$",
    re.MULTILINE,
)
_SAYS_NOTHING = re.compile(
    r"(?i)^(?:[\w()/.,-]+!?: ?)?(?:wip\b|fix(?:e[sd]|up)?[!.]?$|typos?\b|fix (?:a |some )?"
    r"typos?\b|oops|updates?$|merge\b|bump\b|release\b|v?\d+\.\d+|"
    r"prepar\w+ (?:for )?(?:release|v?\d)|revert\b|fixup!|squash!|"
    r"version\b|changelog|lint\b|format(?:ting)?$|cleanup$|clean up$|minor\b|more\b|tests?$|"
    r"chore\(deps\)|chore: release|refactor$|review\b|address (?:review|comments|feedback)|"
    r"apply suggestions|update [\w./-]+$|initial commit|rename$|\W*$|.*^closes? #?\d+\W*$)"
)
_FEWEST_WORDS = 3  # of a message that says what to do
_TELLING_WORDS = 9  # of one that explains a change


class ChangePairs:
    """Makes the pairs of changes; every process has one."""

    def __init__(self, seed: int, options: InstructionOptions) -> None:
        self._seed, self._options = seed, options

    def __call__(self, rows: list[dict[str, Any]]) -> Extracted:
        made = Extracted()
        for row in rows:
            for pair in self._of(row, made):
                if pair.kind in self._options.kinds:
                    made.add(pair, self._options)
        return made

    def _of(self, row: Mapping[str, Any], made: Extracted) -> Iterator[Pair]:
        message = readable(row["message"])
        subject = message.partition("\n")[0]
        if _SAYS_NOTHING.match(subject) or _words(subject) < _FEWEST_WORDS:
            made.dropped["message_says_nothing"] += 1
            return
        old, new = row["before"].split("\n"), row["after"].split("\n")
        diff, first, last = unified(old, new, row["path"])
        if not diff or diff.count("\n+") + diff.count("\n-") > _MOST_LINES:
            made.dropped["too_long" if diff else "too_short"] += 1
            return
        given = excerpt(old, first, last, self._options.longest_input)
        if given is None:
            made.dropped["too_long"] += 1
        else:
            yield self._pair(row, "commit", given, diff, message=message)
        if row["files"] == 1 and _words(message) >= _TELLING_WORDS:
            yield self._pair(row, "explain commit", diff, message)

    def _pair(
        self, row: Mapping[str, Any], kind: str, given: str, answer: str, **names: str
    ) -> Pair:
        key, path = f"{row['commit']}{row['path']}", row["path"]
        return Pair(
            kind.partition(" ")[0],
            phrase(kind, self._seed, key, path=path, **names),
            given,
            answer,
            row["repo"],
            path,
            (0, len(row["before"])),
            row["licence"],
            row["language"],
            row["commit"],
            names=path,
        )


def readable(message: str) -> str:
    """A message without numbers of issues, which mean nothing outside their tracker."""
    return re.sub(r"\n{3,}", "\n\n", _NUMBER.sub("", message)).strip()


def _words(text: str) -> int:
    return len(re.findall(r"[^\W\d_]{2,}", text))
