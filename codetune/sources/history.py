"""Past and present: which commits they are, and which files each of them holds."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass

from codetune.errors import SourceError
from codetune.sources.git import Git, TreeEntry

_SHORTEST_HISTORY = 8  # first-parent commits; a tenth of fewer is no future worth the name
_DATE = re.compile(r"\d{4}-\d\d-\d\d")


@dataclass(frozen=True)
class Version:
    """One version of one file, before its content is read."""

    entry: TreeEntry
    in_past: bool
    in_present: bool
    previous_path: str | None

    @property
    def path(self) -> str:
        return self.entry.path


def choose_cutoff(git: Git, present: str, cutoff: float | str | None) -> str | None:
    """The last commit of the past, or None where there is no split by time.

    Raises:
        SourceError: the date or commit leaves nothing on one side.
    """
    if cutoff is None or cutoff == 0:
        return None
    if isinstance(cutoff, float):
        count = int(git.run("rev-list", "--count", "--first-parent", present, "--"))
        if count < _SHORTEST_HISTORY:
            return None
        skip = max(1, round(count * cutoff))
        return _first(git, present, f"--skip={skip}")
    if _DATE.match(cutoff):
        return _by_date(git, present, cutoff)
    commit = git.commit(cutoff)
    if commit is None:
        raise SourceError(
            f"The cut-off commit '{cutoff}' does not exist.",
            advice="Pass a commit, tag or branch of the repository, an ISO date, or a share.",
        )
    if commit == present:
        raise SourceError(
            "The cut-off is the newest commit: nothing would be left to test on.",
            advice="Choose an older commit.",
        )
    if git.run("merge-base", "--all", commit, present).split() != [commit]:
        raise SourceError(
            f"The cut-off commit '{cutoff}' is not an ancestor of {present[:12]}.",
            advice="Choose a commit of the same branch, or set sources.ref.",
        )
    return commit


def _by_date(git: Git, present: str, cutoff: str) -> str:
    try:
        moment = datetime.datetime.fromisoformat(cutoff)
    except ValueError as error:
        raise SourceError(
            f"The cut-off '{cutoff}' is not an ISO date.", advice="For example: 2026-01-31."
        ) from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    commit = _first(git, present, f"--before={int(moment.timestamp())}")
    if commit is None:
        raise SourceError(
            f"No commit is older than {cutoff}.", advice="Choose a later date or a share (0.1)."
        )
    if commit == present:
        raise SourceError(
            f"No commit is newer than {cutoff}: nothing would be left to test on.",
            advice="Choose an earlier date or a share (0.1).",
        )
    return commit


def _first(git: Git, present: str, which: str) -> str | None:
    found = git.run("rev-list", "--first-parent", "--max-count=1", which, present, "--").strip()
    return found or None


def versions(git: Git, present: str, cutoff: str | None, prefix: str) -> list[Version]:
    """Every file version of the two trees, those of the past first, each part sorted by path."""
    new = {entry.path: entry for entry in git.tree(present, prefix)}
    if cutoff is None:
        return [Version(entry, True, True, path) for path, entry in sorted(new.items())]
    old = {entry.path: entry for entry in git.tree(cutoff, prefix)}
    renames = git.renames(cutoff, present, prefix)
    past, future = [], []
    for path, entry in sorted(old.items()):
        same = path in new and new[path].oid == entry.oid
        past.append(Version(entry, True, same, path if same else None))
    for path, entry in sorted(new.items()):
        before = old.get(path)
        if before is None or before.oid != entry.oid:
            previous = path if before else renames.get(path)
            future.append(Version(entry, False, True, previous))
    return past + future
