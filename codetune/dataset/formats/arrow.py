"""Parquet and Arrow files as rows, a few of them in memory at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from codetune.dataset.formats.rows import File, Row, check_proportion
from codetune.errors import DatasetError

_BATCH = 128  # rows
_SMALL = 1 << 20  # bytes of a batch that is unpacked at once; a text may be shared by many rows


def parquet_rows(file: File) -> Iterator[Row]:
    """The rows of a Parquet file.

    Raises:
        DatasetError: it is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file.path) as table:
            groups = map(table.metadata.row_group, range(table.num_row_groups))
            check_proportion(file.path, max((group.total_byte_size for group in groups), default=0))
            yield from _rows(file, table.schema_arrow.names, table.iter_batches(batch_size=_BATCH))
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{file.path} is not a whole Parquet file: {error}.") from error


def arrow_rows(file: File) -> Iterator[Row]:
    """The rows of Arrow's stream form (what the datasets library writes), or of its file form.

    Raises:
        DatasetError: it is damaged.
    """
    import pyarrow as pa

    try:
        with pa.memory_map(str(file.path)) as source:
            is_file = source.read(6) == b"ARROW1"
            source.seek(0)
            reader = pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)
            batches: Any = reader
            if is_file:
                batches = map(reader.get_batch, range(reader.num_record_batches))
            yield from _rows(file, reader.schema.names, batches)
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{file.path} is not a whole Arrow file: {error}.") from error


def _rows(file: File, names: list[str], batches: Iterable[Any]) -> Iterator[Row]:
    """Only the wanted columns have values: of others, not every one is a value of Python's."""
    if file.refuses(names, 0):
        return
    places = {name: place for place, name in enumerate(names) if name in file.wanted}
    unread: dict[str, Any] = dict.fromkeys(names)
    first = 1
    for batch in _small_ones(file, batches):
        try:
            columns = {name: batch.column(place).to_pylist() for name, place in places.items()}
        except (ValueError, OverflowError):
            yield from _one_by_one(file, batch, places, unread, first)
        else:
            for at in range(batch.num_rows):
                values = {name: column[at] for name, column in columns.items()}
                yield Row(first + at, unread | values)
        first += batch.num_rows


def _small_ones(file: File, batches: Iterable[Any]) -> Iterator[Any]:
    for batch in batches:
        check_proportion(file.path, batch.nbytes)
        step = _BATCH if batch.nbytes <= _SMALL else 1
        for start in range(0, batch.num_rows, step):
            yield batch.slice(start, step)


def _one_by_one(
    file: File, batch: Any, places: dict[str, int], unread: dict[str, Any], first: int
) -> Iterator[Row]:
    """The rows of a batch in which a value is damaged, without the rows that hold such."""
    for at in range(batch.num_rows):
        values = dict(unread)
        for name, place in places.items():
            try:
                values[name] = batch.column(place)[at].as_py()
            except (ValueError, OverflowError) as error:
                file.bad(first + at, name, f"cannot be read: {error}")
                break
        else:
            yield Row(first + at, values)
