"""Which held-out passages and prompts are scored: a seeded random sample, the same every time.

The order is that of a hash of the seed and the row's id, so it does not depend on the order of
the rows in the file, and a larger sample contains the smaller one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codetune.errors import EvaluationError
from codetune.evaluation.likelihood import Passage

HELD_OUT_TEXT = "heldout.parquet"
HELD_OUT_FIM = "heldout_fim.parquet"
# A token is at most about this many characters; context further away is not even tokenised.
CHARACTERS_PER_TOKEN = 16


@dataclass(frozen=True)
class Gap:
    """A held-out fill-in-the-middle prompt, and the middle its author wrote."""

    id: str
    cluster: str
    repo: str
    path: str
    language: str
    split: str
    kind: str
    prefix: str
    suffix: str
    middle: str


def held_out_passages(
    file: Path, *, limit: int, per_region: int, window: int, seed: int
) -> list[Passage]:
    """A sample of the held-out regions with `limit` bytes of text at most.

    Of a longer region its first `per_region` bytes are scored. Contexts are cut at their start
    to what a window can hold.

    Raises:
        EvaluationError: nothing is held out, or the file cannot be read.
    """
    taken: dict[str, int] = {}
    left = limit
    for row in sorted(_rows(file, ["id", "bytes"]), key=lambda row: random_order(seed, row["id"])):
        if row["bytes"] <= 0:
            continue
        taken[row["id"]] = min(row["bytes"], per_region, left)
        left -= taken[row["id"]]
        if left <= 0:
            break
    if not taken:
        raise EvaluationError(
            "The dataset holds out no code, so there is nothing to compare the models on.",
            advice="Hold out a larger share, or tune on a repository with more than a few files.",
        )
    passages = [
        Passage(
            id=row["id"],
            cluster=f"{row['repo']}\n{row['path']}",
            repo=row["repo"],
            path=row["path"],
            context=row["context"][-window * CHARACTERS_PER_TOKEN :],
            text=first_bytes(row["text"], taken[row["id"]]),
            language=row["language"],
            split=row["split"],
        )
        for row in _rows(file)
        if row["id"] in taken
    ]
    return sorted((p for p in passages if p.text), key=lambda p: random_order(seed, p.id))


def held_out_gaps(file: Path, *, limit: int, seed: int) -> list[Gap]:
    """A sample of at most `limit` held-out fill-in-the-middle prompts.

    Raises:
        EvaluationError: the file cannot be read.
    """
    ids = sorted((row["id"] for row in _rows(file, ["id"])), key=lambda id: random_order(seed, id))
    taken = set(ids[:limit])
    gaps = [
        Gap(cluster=f"{row['repo']}\n{row['path']}", **row)
        for row in _rows(file, [name for name in Gap.__annotations__ if name != "cluster"])
        if row["id"] in taken
    ]
    return sorted(gaps, key=lambda gap: random_order(seed, gap.id))


def _rows(file: Path, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file, a small batch at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(batch_size=256, columns=columns):
                yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise EvaluationError(
            f"{file} cannot be read: {error}.",
            advice="Delete the dataset's folder and run again: it is built anew.",
        ) from error


def random_order(seed: int, id: str) -> bytes:
    return hashlib.sha256(f"{seed}\n{id}".encode()).digest()


def first_bytes(text: str, limit: int) -> str:
    """The longest beginning of `text` with at most `limit` UTF-8 bytes."""
    return text.encode()[:limit].decode(errors="ignore")
