"""Replay: general code among the team's, so that tuning does not forget it (arXiv 2403.08763).

The texts are the replay set that ships with nano: permissively licensed files, disjoint from the
general set that measures forgetting. They go through the same split, leakage check and renderer
as the repository's own files.
"""

from __future__ import annotations

import hashlib
from random import Random

from codetune.models.nano.general import replay_rows
from codetune.records import Document

_LICENCE = "unknown"  # by package, in the NOTICE beside the set


def replay_documents(wanted: int, seed: int) -> list[Document]:
    """Documents of about `wanted` bytes, drawn by lot; all there are if that is less."""
    if wanted <= 0:
        return []
    rows = replay_rows()
    Random(f"{seed} replay").shuffle(rows)
    chosen: list[Document] = []
    for row in rows:
        if wanted <= 0:
            break
        name = "\n".join((row["repo"], row["path"], row["text"]))
        chosen.append(
            Document(
                id=hashlib.sha256(name.encode()).hexdigest()[:32],
                repo=row["repo"],
                path=row["path"],
                language=row["language"],
                licence=_LICENCE,
                text=row["text"],
                in_past=True,
                in_present=False,
            )
        )
        wanted -= len(row["text"].encode())
    return chosen
