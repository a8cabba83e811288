"""Replay: general code among the team's, so that tuning does not forget it (arXiv 2403.08763).

The texts are the replay set that ships with nano: permissively licensed files, disjoint from the
general set that measures forgetting. They go through the same split, leakage check and renderer
as the repository's own files.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from random import Random

from codetune import models
from codetune.models.nano.general import REPLAY_FILE, read_general
from codetune.records import Document

REPLAY_SET = Path(models.__file__).parent / "nano" / "general" / REPLAY_FILE
_LICENCE = "unknown"  # by package, in the NOTICE beside the set


def replay_digest() -> str:
    """SHA-256 (hexadecimal) of the replay set, for the dataset's inputs."""
    return hashlib.sha256(REPLAY_SET.read_bytes()).hexdigest()


def replay_documents(wanted: int, seed: int) -> list[Document]:
    """Documents of about `wanted` bytes, drawn by lot; all there are if that is less."""
    if wanted <= 0:
        return []
    rows = list(read_general(REPLAY_SET))
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
