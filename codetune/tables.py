"""Parquet tables that are written and read as a stream: memory holds one row group at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

ROW_GROUP_BYTES = 8_000_000
_ROW_GROUP_ROWS = 4096
_LONG = frozenset({"content", "text", "prefix", "middle", "suffix", "messages"})  # columns


class TableWriter:
    """Writes rows to a Parquet file in row groups of about `ROW_GROUP_BYTES`.

    `columns` maps a column's name to its pyarrow type's name ("string", "binary", "bool",
    "int64", "double"). The file is complete only when the `with` block ends without an error.
    """

    def __init__(self, path: Path, columns: Mapping[str, str]) -> None:
        self._columns = columns
        self._schema = schema_of(columns)
        self._writer = parquet_writer(path, self._schema)
        self._rows: list[Mapping[str, Any]] = []
        self._bytes = 0
        self.count = 0

    def write(self, row: Mapping[str, Any], size: int = 200) -> None:
        """Add a row whose large values take about `size` bytes."""
        self._rows.append(row)
        self._bytes += size
        self.count += 1
        if self._bytes >= ROW_GROUP_BYTES or len(self._rows) >= _ROW_GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            columns = {name: [row.get(name) for row in self._rows] for name in self._columns}
            self._writer.write_batch(batch_of(columns, self._schema))
        self._rows, self._bytes = [], 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._flush()
        self._writer.close()


def parquet_writer(path: Path, schema: Any) -> Any:
    """A Parquet writer that spends nothing on looking for repetition among long texts."""
    import pyarrow.parquet as pq

    short = [field.name for field in schema if field.name not in _LONG]
    return pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        compression_level=1,
        use_dictionary=short,
        write_statistics=short,
    )


def schema_of(columns: Mapping[str, str]) -> Any:
    """The Arrow schema of `columns`, which are given as for `TableWriter`."""
    import pyarrow as pa

    make = {"string": pa.string, "binary": pa.binary, "bool": pa.bool_}
    make |= {"int64": pa.int64, "double": pa.float64}
    return pa.schema([(name, make[kind]()) for name, kind in columns.items()])


def batch_of(columns: Mapping[str, Sequence[Any]], schema: Any) -> Any:
    """A record batch of columns of Python values, None for a missing one."""
    import pyarrow as pa

    arrays = [array_of(columns[field.name], field.type) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def array_of(values: Sequence[Any], kind: Any) -> Any:
    """An Arrow array. pyarrow's own conversion does the same, but imports pandas (0.3 s) for it."""
    import pyarrow as pa

    present = np.array([value is not None for value in values], np.bool_)
    valid = None if present.all() else pa.py_buffer(np.packbits(present, bitorder="little"))
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        data = [v.encode() if isinstance(v, str) else v or b"" for v in values]
        ends = np.cumsum([0, *map(len, data)], dtype=np.int32)
        content = [pa.py_buffer(ends), pa.py_buffer(b"".join(data))]
    else:
        numbers = np.array([value or 0 for value in values], kind.to_pandas_dtype())
        bits = np.packbits(numbers, bitorder="little") if pa.types.is_boolean(kind) else numbers
        content = [pa.py_buffer(bits)]
    return pa.Array.from_buffers(kind, len(values), [valid, *content])


def read_rows(path: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """The table's rows in file order, one row group in memory at a time."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            yield from file.read_row_group(group, columns=columns).to_pylist()


def read_rows_where(
    path: Path, column: str, wanted: Callable[[Any], bool]
) -> Iterator[dict[str, Any]]:
    """The rows whose `column` is wanted; row groups without any are not read."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            values = file.read_row_group(group, columns=[column]).column(column).to_pylist()
            rows = [index for index, value in enumerate(values) if wanted(value)]
            if rows:
                yield from take(file.read_row_group(group), rows).to_pylist()


def take(table: Any, rows: Sequence[int]) -> Any:
    """These rows of an Arrow table, in this order."""
    import pyarrow as pa

    # Arrow's own `take` would be shorter, but importing its functions takes 0.05 s.
    return pa.concat_tables([table.slice(row, 1) for row in rows]) if rows else table.slice(0, 0)


def lengths_of(column: Any) -> list[int]:
    """The bytes of every value of an Arrow column of strings, in UTF-8."""
    lengths: list[int] = []
    for chunk in column.chunks:
        ends = np.frombuffer(chunk.buffers()[1], np.int32)[chunk.offset :][: len(chunk) + 1]
        lengths += np.diff(ends).tolist()
    return lengths
