"""What a model still knows of code in general: bits per byte on a fixed set beside nano.

The set is the same for every base and every project, so that models can be compared, too.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from codetune.errors import EvaluationError
from codetune.evaluation.likelihood import Passage
from codetune.evaluation.samples import first_bytes, random_order
from codetune.models.nano.general import EVALUATION_FILE, read_general

GENERAL = Path(__file__).parents[1] / "models" / "nano" / "general" / EVALUATION_FILE
PER_FILE = 4 * 1024  # bytes scored of one file, at most


def general_digest() -> str:
    """SHA-256 of the general set: a model's score on another set is another score."""
    return hashlib.sha256(_general_bytes()).hexdigest()


def general_passages(limit: int) -> list[Passage]:
    """The first `limit` bytes of the general set, in its fixed random order, file by file.

    Raises:
        EvaluationError: the set is missing or damaged.
    """
    if limit == 0:
        return []
    try:
        rows = list(read_general(GENERAL))
        rows.sort(key=lambda row: random_order(0, f"{row['repo']}\n{row['path']}"))
        passages = []
        for row in rows:
            text = first_bytes(row["text"], min(PER_FILE, limit))
            limit -= len(text.encode())
            if text:
                cluster = f"{row['repo']}\n{row['path']}"
                passages.append(
                    Passage(
                        id=cluster,
                        cluster=cluster,
                        repo=row["repo"],
                        path=row["path"],
                        context="",
                        text=text,
                        language=row.get("language", "text"),
                    )
                )
    except (OSError, EOFError, ValueError, KeyError) as error:
        raise _damaged(error) from error
    return passages


def _general_bytes() -> bytes:
    try:
        return GENERAL.read_bytes()
    except OSError as error:
        raise _damaged(error) from error


def _damaged(error: Exception) -> EvaluationError:
    return EvaluationError(
        f"The general set that comes with codetune cannot be read: {error}.",
        advice="Install codetune again, or set evaluation.general_bytes to 0.",
    )
