"""Small changes of the past, newest first: what a commit's message says, and what it did.

Merges, commits by programs, commits that touch many files, and files that are large, new or
deleted are passed over: a message tells about the whole commit, so it explains the change of one
file only where that file is most of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from codetune.sources.git import Git, RawChange
from codetune.sources.items import Change, Item, Selection

_MOST_READ = 20_000  # commits that are looked at
_AT_ONCE = 128  # commits for which git is asked in one go
_MOST_FILES = 3  # of a commit that is told about
_LARGEST = 48_000  # bytes of a file before or after
_LARGEST_GROWTH = 6_000  # bytes
_BOT = re.compile(
    rb"(?i)\[bot\]|\bbots?\b|-bot@|dependabot|renovate|github-actions|greenkeeper|weblate|transifex|"
    rb"jenkins|circleci|travis|copybara|autoroll"
)
_FILE_MODES = ("100644", "100755")


@dataclass(frozen=True)
class _Commit:
    author: bytes
    message: str


def read_changes(
    git: Git, newest: str, prefix: str, selection: Selection, limit: int
) -> Iterator[Change]:
    """Up to `limit` changes of commits that `newest` has behind it, itself included.

    Paths are relative to the repository's root, as those of the trees are.
    """
    listing = git.run("rev-list", "--no-merges", f"--max-count={_MOST_READ}", newest, "--")
    commits = listing.split()
    given = 0
    for first in range(0, len(commits), _AT_ONCE):
        group = commits[first : first + _AT_ONCE]
        for change in _of_group(git, group, prefix, selection):
            yield change
            given += 1
            if given == limit:
                return


def _of_group(git: Git, group: list[str], prefix: str, selection: Selection) -> Iterator[Change]:
    told = {
        oid: parsed
        for oid, content in zip(group, git.contents(group), strict=True)
        if content is not None and (parsed := _parse(content)) and not _BOT.search(parsed.author)
    }
    small: list[tuple[RawChange, int]] = []
    for oid, changes in groupby(git.modified(list(told), prefix), key=lambda raw: raw.commit):
        touched = list(changes)
        if oid in told and len(touched) <= _MOST_FILES:
            small += [(raw, len(touched)) for raw in touched if _is_wanted(raw, selection)]
    blobs = git.contents([oid for raw, _ in small for oid in (raw.old, raw.new)])
    for raw, files in small:
        before, after = next(blobs), next(blobs)
        if before is None or after is None or not _is_small(before, after):
            continue
        message = told[raw.commit].message
        yield Change(raw.commit, message, raw.path, before, after, files)


def _is_wanted(raw: RawChange, selection: Selection) -> bool:
    if raw.status != "M" or raw.mode not in _FILE_MODES:
        return False
    return not selection.judge(Item(raw.path, 0)).reason


def _is_small(before: bytes, after: bytes) -> bool:
    largest = max(len(before), len(after))
    return largest <= _LARGEST and abs(len(before) - len(after)) <= _LARGEST_GROWTH


def _parse(content: bytes) -> _Commit:
    """A commit object: header lines, an empty line, the message."""
    header, _, message = content.partition(b"\n\n")
    author, encoding = b"", "utf-8"
    for line in header.split(b"\n"):
        name, _, value = line.partition(b" ")
        if name == b"author":
            author = value.rpartition(b">")[0]
        elif name == b"encoding":
            encoding = value.decode("ascii", "replace")
    try:
        text = message.decode(encoding, "replace")
    except (LookupError, ValueError):  # an encoding that nobody knows, or that gives up
        text = message.decode("utf-8", "replace")
    # Some encodings, such as UTF-7, can write half a surrogate pair, which no file can hold.
    return _Commit(author, text.encode("utf-8", "replace").decode())
