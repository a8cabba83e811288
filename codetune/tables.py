"""Parquet tables that are written and read as a stream: memory holds one row group at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROW_GROUP_BYTES = 8_000_000
_ROW_GROUP_ROWS = 4096


class TableWriter:
    """Writes rows to a Parquet file in row groups of about `ROW_GROUP_BYTES`.

    `columns` maps a column's name to its pyarrow type's name ("string", "binary", "bool",
    "int64", "double"). The file is complete only when the `with` block ends without an error.
    """

    def __init__(self, path: Path, columns: Mapping[str, str]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        make = {"string": pa.string, "binary": pa.binary, "bool": pa.bool_}
        make |= {"int64": pa.int64, "double": pa.float64}
        self._schema = pa.schema([(name, make[kind]()) for name, kind in columns.items()])
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd", compression_level=1)
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
            import pyarrow as pa

            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
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
                yield from file.read_row_group(group).take(rows).to_pylist()
