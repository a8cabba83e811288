"""Where a model comes from: the digests, commits and licences that its card names."""

from __future__ import annotations

from typing import Any

from codetune.artifacts import Artifact, digest_of
from codetune.records import Repository


def config_digest(run: Artifact, dataset: Artifact, cleaned: Artifact) -> str:
    """One digest over the options of every stage that shaped the weights."""
    return digest_of({a.stage: dict(a.config) for a in (run, dataset, cleaned)})


def commits(repository: Repository) -> dict[str, str]:
    """Repository → the commit that was trained on, or "none" for a folder without history.

    With a split by time that is the cut-off: what was written later is only tested on.
    """
    return {repository.name: repository.cutoff or repository.commit or "none"}


def licences(cleaned: Artifact) -> dict[str, int]:
    """SPDX expression → number of files, most frequent first."""
    found: Any = cleaned.summary.get("licences") or {}
    return {
        str(name): int(count) for name, count in sorted(found.items(), key=lambda item: -item[1])
    }
