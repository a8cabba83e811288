"""What the corpus holds, without its text: one small record a document."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from codetune.records import Document
from codetune.tables import lengths_of, take

_LEFT_OUT = ("text", "redactions", "licence", "signature")
_TEXTLESS = [f.name for f in fields(Document) if f.name not in _LEFT_OUT]
_COLUMNS = [f.name for f in fields(Document)]


@dataclass(frozen=True, slots=True)
class Entry:
    """A document's place in `documents.parquet` (`row`), its size in bytes, and what it is."""

    row: int
    size: int
    id: str
    repo: str
    path: str
    language: str
    in_past: bool
    in_present: bool
    previous_path: str | None


def read_catalogue(documents: Path) -> list[Entry]:
    """Every document in file order."""
    import pyarrow.parquet as pq

    entries: list[Entry] = []
    with pq.ParquetFile(documents) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=[*_TEXTLESS, "text"])
            sizes = lengths_of(table["text"])
            rows = table.drop_columns(["text"]).to_pylist()
            entries += [
                Entry(row=len(entries) + i, size=size, **row)
                for i, (row, size) in enumerate(zip(rows, sizes, strict=True))
            ]
    return entries


def read_documents(documents: Path, rows: Sequence[int] | None = None) -> Iterator[Document]:
    """The documents at `rows` (all, if None) in file order, one row group in memory at a time."""
    import pyarrow.parquet as pq

    wanted = None if rows is None else sorted(rows)
    first = taken = 0
    with pq.ParquetFile(documents) as file:
        for group in range(file.num_row_groups):
            end = first + file.metadata.row_group(group).num_rows
            inside: list[int] = []
            while wanted is not None and taken < len(wanted) and wanted[taken] < end:
                inside.append(wanted[taken] - first)
                taken += 1
            if wanted is None or inside:
                table = file.read_row_group(group, columns=_COLUMNS)
                table = table if wanted is None else take(table, inside)
                for row in table.to_pylist():
                    yield Document(**row)
            first = end


def batches(documents: Iterator[Document], size: int) -> Iterator[list[Document]]:
    """The documents in runs of about `size` characters, at least one document each."""
    run: list[Document] = []
    length = 0
    for document in documents:
        run.append(document)
        length += len(document.text)
        if length >= size:
            yield run
            run, length = [], 0
    if run:
        yield run


def shuffled(entries: Sequence[Entry], seed: int, purpose: str) -> list[Entry]:
    """The entries in the order of a hash of seed, purpose and path: stable when others come."""

    def place(entry: Entry) -> tuple[bytes, str]:
        name = f"{seed}\n{purpose}\n{entry.repo}\n{entry.path}"
        return hashlib.sha256(name.encode()).digest(), entry.id

    return sorted(entries, key=place)


def seeded(seed: int, *names: Any) -> Any:
    """A random generator that depends on nothing but its arguments."""
    import random

    return random.Random("\n".join(map(str, (seed, *names))))
