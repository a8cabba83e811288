"""Examples written as JSON, JSON lines, CSV, Parquet, text, or a folder of the datasets library."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from codetune.artifacts import write_json
from codetune.dataset.formats.layouts import LAYOUTS, LayoutName
from codetune.errors import DatasetError
from codetune.records import Example

Row = dict[str, Any]
Write = Callable[[Row], None]

_BATCH = 1000  # rows of a table written at a time
_KNOWN = ".jsonl, .json, .csv, .parquet, .txt (one text), or a folder's name without a suffix"


def write_set(path: Path, examples: Iterable[Example], format: LayoutName) -> int:
    """Write the examples in this layout; the name's suffix says which kind of file. How many.

    The file appears when it is complete.

    Raises:
        DatasetError: the suffix is not known, an example has no such form, or the file cannot be
            written.
    """
    if path.suffix not in _WRITERS:
        raise DatasetError(f"{path} has no known suffix.", advice=f"Known: {_KNOWN}.")
    try:
        if path.exists():
            raise DatasetError(f"{path} exists already.", advice="Name a new file.")
        path.parent.mkdir(parents=True, exist_ok=True)
        return _write_rows(path, (_row(example, format) for example in examples))
    except OSError as error:
        raise DatasetError(f"{path} cannot be written: {error.strerror or error}.") from error


def _write_rows(path: Path, rows: Iterable[Row]) -> int:
    temporary = path.with_name(f".{path.name}.partial")
    _remove(temporary)  # left by a run that was killed
    count = 0
    try:
        with _WRITERS[path.suffix](temporary) as write:
            for row in rows:
                write(row)
                count += 1
        temporary.rename(path)
    finally:
        _remove(temporary)
    return count


def _remove(path: Path) -> None:
    if path.is_dir():
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


def _row(example: Example, format: LayoutName) -> Row:
    if example.text is not None:
        if format != "text":
            raise DatasetError(
                f"A text without messages has no {format} form.", advice="Write it as text."
            )
        return {"text": example.text}
    if example.messages is None:
        raise DatasetError(
            "A fill-in-the-middle example has no form that other tools read.",
            advice="examples.parquet of a dataset holds them as prefix, middle and suffix.",
        )
    return LAYOUTS[format].write(example.messages)


@contextmanager
def _json_lines(path: Path) -> Iterator[Write]:
    with path.open("w", encoding="utf-8") as file:
        yield lambda row: print(json.dumps(row, ensure_ascii=False), file=file)


@contextmanager
def _json(path: Path) -> Iterator[Write]:
    with path.open("w", encoding="utf-8") as file:
        lead = "[\n"

        def write(row: Row) -> None:
            nonlocal lead
            file.write(lead + json.dumps(row, ensure_ascii=False))
            lead = ",\n"

        yield write
        file.write(("[" if lead == "[\n" else "\n") + "]\n")


@contextmanager
def _csv(path: Path) -> Iterator[Write]:
    """Lists are written as JSON, which reading understands."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        names: list[str] = []

        def write(row: Row) -> None:
            if not names:
                names.extend(row)
                writer.writerow(names)
            writer.writerow(
                value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
                for value in (row[name] for name in names)
            )

        yield write


@contextmanager
def _text(path: Path) -> Iterator[Write]:
    with path.open("w", encoding="utf-8", newline="") as file:
        written = False

        def write(row: Row) -> None:
            nonlocal written
            if written or "text" not in row:
                raise DatasetError(
                    "A text file holds one text.", advice="Write .jsonl, .csv or .parquet."
                )
            file.write(row["text"])
            written = True

        yield write


@contextmanager
def _batches(open_writer: Callable[[Any], Any]) -> Iterator[Write]:
    """Rows as Arrow tables of one schema, which the first row's layout decides."""
    import pyarrow as pa

    rows: list[Row] = []
    writer: Any = None

    def flush() -> None:
        nonlocal writer
        if rows:
            schema = _schema(rows[0])
            writer = writer or open_writer(schema)
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            rows.clear()

    def write(row: Row) -> None:
        rows.append(row)
        if len(rows) >= _BATCH:
            flush()

    try:
        yield write
        flush()
        writer = writer or open_writer(pa.schema([]))
    finally:
        if writer is not None:
            writer.close()


def _schema(row: Row) -> Any:
    import pyarrow as pa

    turn = {
        "messages": pa.struct([("role", pa.string()), ("content", pa.string())]),
        "conversations": pa.struct([("from", pa.string()), ("value", pa.string())]),
        "history": pa.list_(pa.string()),
    }
    return pa.schema(
        [(name, pa.list_(turn[name]) if name in turn else pa.string()) for name in row]
    )


@contextmanager
def _parquet(path: Path) -> Iterator[Write]:
    import pyarrow.parquet as pq

    with _batches(lambda schema: pq.ParquetWriter(path, schema, compression="zstd")) as write:
        yield write


@contextmanager
def _folder(path: Path) -> Iterator[Write]:
    """As `datasets.Dataset.save_to_disk` writes it."""
    import pyarrow as pa

    path.mkdir()
    name = "data-00000-of-00001.arrow"
    with _batches(lambda schema: pa.ipc.new_stream(path / name, schema)) as write:
        yield write
    state: Row = {
        "_data_files": [{"filename": name}],
        "_fingerprint": "0" * 16,
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": "train",
    }
    write_json(path / "state.json", state)
    write_json(path / "dataset_info.json", {})


_WRITERS = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".txt": _text,
    ".parquet": _parquet,
    "": _folder,
}
