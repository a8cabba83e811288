"""examples.parquet: the canonical examples as a table, a column for each of their fields."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Self

from codetune.records import Example, Fim, Provenance
from codetune.tables import batch_of, parquet_writer, read_rows, schema_of

COLUMNS = {
    "id": "string",
    "stream": "string",
    "text": "string",
    "prefix": "string",
    "middle": "string",
    "suffix": "string",
    "messages": "string",  # as JSON: [{"role": …, "content": …}, …]
    "repo": "string",
    "commit": "string",
    "path": "string",
    "start": "int64",  # the span in characters of the document
    "end": "int64",
    "licence": "string",
    "weight": "double",
    "language": "string",
    "kind": "string",
    "ends_file": "bool",
    "order": "string",  # fim: "psm" or "spm"
    "header": "bool",
    "tokens": "int64",
}
_ROW_GROUP = 8_000_000  # bytes


def read_examples(path: Path) -> Iterator[Example]:
    """The examples of a dataset in order; one row group is in memory at a time."""
    for row in read_rows(path):
        place = (row["start"], row["end"])
        source = Provenance(row["repo"], row["commit"], row["path"], place, row["licence"])
        gap = row["middle"] is not None
        yield Example(
            id=row["id"],
            stream=row["stream"],
            source=source,
            text=row["text"],
            fim=Fim(row["prefix"], row["middle"], row["suffix"]) if gap else None,
            messages=tuple(json.loads(row["messages"])) if row["messages"] else None,
            weight=row["weight"],
            language=row["language"],
            kind=row["kind"],
            ends_file=row["ends_file"],
        )


class ExamplesFile:
    """Writes examples.parquet in row groups of about 8 MB of text."""

    def __init__(self, path: Path) -> None:
        self._writer = parquet_writer(path, _schema())
        self._batches: list[Any] = []
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def add(self, packed: bytes) -> None:
        """Append rows that `pack_rows` made."""
        import pyarrow as pa

        self._batches.append(pa.ipc.read_record_batch(pa.py_buffer(packed), _schema()))
        self._size += len(packed)
        if self._size >= _ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._batches:
            table = pa.Table.from_batches(self._batches).combine_chunks()
            self._writer.write_table(table, row_group_size=len(table) or 1)
        self._batches, self._size = [], 0

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._flush()
        self._writer.close()


def columns_of(examples: Sequence[Example], tokens: Sequence[int]) -> dict[str, list[Any]]:
    """The columns of examples with messages, or of texts, and how many tokens each has."""
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    for example, count in zip(examples, tokens, strict=True):
        source = example.source
        messages = None
        if example.messages is not None:
            messages = json.dumps(example.messages, ensure_ascii=False)
        row = {
            "id": example.id,
            "stream": example.stream,
            "text": example.text,
            "messages": messages,
            "repo": source.repo,
            "commit": source.commit,
            "path": source.path,
            "start": source.span[0],
            "end": source.span[1],
            "licence": source.licence,
            "weight": example.weight,
            "language": example.language,
            "kind": example.kind,
            "ends_file": example.ends_file,
            "tokens": count,
        }
        for name, values in columns.items():
            values.append(row.get(name))
    return columns


def pack_rows(columns: Mapping[str, Sequence[Any]]) -> bytes:
    """Rows, given as columns, in Arrow's own form: what passes between processes as it is."""
    return bytes(batch_of(columns, _schema()).serialize())


@cache
def _schema() -> Any:
    return schema_of(COLUMNS)
