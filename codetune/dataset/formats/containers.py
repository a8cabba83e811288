"""Files as rows: JSON arrays, JSON lines, CSV, Parquet, Arrow and plain text, all as streams."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from codetune.dataset.formats.problems import Problems
from codetune.dataset.formats.text import LONGEST_ROW, open_text, undecoded
from codetune.errors import DatasetError

_BLANK, _BETWEEN = re.compile(r"[ \t\r\n]*"), re.compile(r"[ \t\r\n,]*")
_CHUNK = 1 << 18  # characters read at a time from a JSON array
_BATCH = 128  # rows of a table in memory at a time
_TEXT = (".txt", ".md", ".rst", ".text")
_TABLES = (".csv", ".tsv")


class Row(NamedTuple):
    """One row's values; `number` as in Problem."""

    number: int
    values: dict[str, Any]


def rows_of(path: Path, encoding: str | None, problems: Problems) -> Iterator[Row]:
    """The rows of one file; what its content is decides, then its name.

    Raises:
        DatasetError: it cannot be read at all, or has too many problems.
    """
    yield from _reader_of(path)(path, encoding, problems)


Reader = Callable[[Path, str | None, Problems], Iterator[Row]]


def _reader_of(path: Path) -> Reader:
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error}.") from error
    if head[:4] == b"PAR1" or suffix == ".parquet":
        return _parquet
    if head[:6] == b"ARROW1" or suffix == ".arrow":
        return _arrow
    if suffix in _TABLES:
        return _csv
    return _text if suffix in _TEXT else _json


def _json(path: Path, encoding: str | None, problems: Problems) -> Iterator[Row]:
    """A JSON array, JSON lines, or one object."""
    with open_text(path, encoding) as file:
        first = _first_letter(file)
    if first not in ("[", "{"):
        begins = "is empty" if not first else f"begins with {first!r}: this is not JSON"
        raise DatasetError(
            f"{path} {begins}.",
            advice="Known: .json, .jsonl, .csv, .tsv, .parquet, .arrow, .txt, and folders of "
            "the datasets library.",
        )
    if first == "[":
        yield from _json_array(path, encoding, problems)
        return
    with open_text(path, encoding) as file:
        lines = iter(lambda: file.readline(LONGEST_ROW), "")
        whole = next(line.strip() for line in lines if line.strip()) == "{"
    if whole:
        raise DatasetError(
            f"{path} holds one object, not rows.",
            advice="Write a list of rows ([{…}, {…}]), or one row a line (JSON lines).",
        )
    yield from _json_lines(path, encoding, problems)


def _first_letter(file: IO[str]) -> str:
    while part := file.read(_CHUNK):
        if part := part.lstrip():
            return part[0]
    return ""


def _json_lines(path: Path, encoding: str | None, problems: Problems) -> Iterator[Row]:
    with open_text(path, encoding) as file:
        number = 0
        while line := file.readline(LONGEST_ROW):
            number += 1
            if len(line) >= LONGEST_ROW and not line.endswith("\n"):
                problems.add(path.name, number, "", f"is longer than {LONGEST_ROW >> 20} MB")
                while (rest := file.readline(_CHUNK)) and not rest.endswith("\n"):
                    pass
                continue
            if not line.strip():
                continue
            if wrong := undecoded(line):
                problems.add(path.name, number, "", wrong)
                continue
            yield from _parsed(path, number, line, problems)


def _parsed(path: Path, number: int, line: str, problems: Problems) -> Iterator[Row]:
    try:
        value = json.loads(line.rstrip("\r\n"))
    except RecursionError:
        problems.add(path.name, number, "", "is nested too deeply")
    except json.JSONDecodeError as error:
        message = f"is not JSON: {error.msg} at character {error.pos + 1}"
        problems.add(path.name, number, "", message)
    except ValueError as error:  # a number of thousands of digits
        problems.add(path.name, number, "", f"is not JSON: {error}")
    else:
        yield from _object(path, number, value, problems)


def _object(path: Path, number: int, value: Any, problems: Problems) -> Iterator[Row]:
    if isinstance(value, dict):
        yield Row(number, value)
    else:
        kind = type(value).__name__
        problems.add(path.name, number, "", f"is a {kind}, and an object was expected")


def _json_array(path: Path, encoding: str | None, problems: Problems) -> Iterator[Row]:
    """The objects of one long array, parsed one at a time."""
    with open_text(path, encoding) as file:
        reading = _Array(file)
        while True:
            line = reading.skip_to_value()
            if line is None:
                if beyond := reading.beyond():
                    problems.add(path.name, beyond, "", "stands behind the end of the array")
                return
            try:
                value, raw = reading.value()
            except RecursionError:
                problems.add(path.name, line, "", "is nested too deeply")
                return
            except ValueError as error:
                why = error.msg if isinstance(error, json.JSONDecodeError) else error
                problems.add(path.name, line, "", f"is not JSON: {why}")
                return
            if wrong := undecoded(raw):
                problems.add(path.name, line, "", wrong)
            else:
                yield from _object(path, line, value, problems)


class _Array:
    """Reads a JSON array value by value; `_buffer` is what was read, `_at` the place in it."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._decoder = json.JSONDecoder()
        self._buffer, self._at = "", 0
        self._line, self._opened = 1, False

    def skip_to_value(self) -> int | None:
        """Go over blanks and separators; the next value's line, None at the array's end."""
        while True:
            if self._at == len(self._buffer) and not self._more(_CHUNK):
                return self._line  # value() says that something is missing
            match = (_BETWEEN if self._opened else _BLANK).match(self._buffer, self._at)
            assert match is not None
            self._go_to(match.end())
            here = self._buffer[self._at : self._at + 1]
            if here == "[" and not self._opened:
                self._opened = True
                self._at += 1
            elif here:
                return None if here == "]" else self._line

    def beyond(self) -> int | None:
        """The line of the first text behind the array's end; None where there is none."""
        self._at += 1  # over the bracket
        while True:
            match = _BLANK.match(self._buffer, self._at)
            assert match is not None
            self._go_to(match.end())
            if self._at < len(self._buffer):
                return self._line
            if not self._more(_CHUNK):
                return None

    def value(self) -> tuple[Any, str]:
        """The next value and its text.

        Raises:
            ValueError: it is broken, or the file ends within it.
        """
        size = _CHUNK
        while True:
            try:
                value, end = self._decoder.raw_decode(self._buffer, self._at)
            except ValueError:
                if len(self._buffer) - self._at > LONGEST_ROW or not self._more(size):
                    raise
                size *= 2  # so that a long value is not parsed again and again
                continue
            if end == len(self._buffer) and self._more(size):
                continue  # a number may go on
            raw = self._buffer[self._at : end]
            self._go_to(end)
            return value, raw

    def _go_to(self, place: int) -> None:
        self._line += self._buffer.count("\n", self._at, place)
        self._at = place

    def _more(self, size: int) -> bool:
        part = self._file.read(size)
        self._buffer, self._at = self._buffer[self._at :] + part, 0
        return bool(part)


def _csv(path: Path, encoding: str | None, problems: Problems) -> Iterator[Row]:
    """Rows by the names in the first line; separated by the sign that is most frequent there."""
    csv.field_size_limit(LONGEST_ROW)
    with open_text(path, encoding, newline="") as file:
        header = file.readline(LONGEST_ROW)
        sign = max(",;\t", key=header.count)
        file.seek(0)
        reader = csv.reader(file, delimiter=sign, strict=True)
        names: list[str] | None = None
        line = 1
        while True:
            line = reader.line_num + 1
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                # Where the next row begins is not known: a line of it may look like one.
                left = sum(1 for _ in file)
                behind = f"; the {left} lines behind it are not read" if left else ""
                problems.add(path.name, line, "", f"is not CSV: {error}{behind}")
                return
            if wrong := next(filter(None, map(undecoded, values)), ""):
                problems.add(path.name, line, "", wrong)
            elif names is None:
                names = [name.strip() for name in values]
            elif len(values) not in (0, len(names)):
                message = f"has {len(values)} fields, the first line names {len(names)}"
                problems.add(path.name, line, "", message)
            elif values:
                yield Row(line, dict(zip(names, values, strict=True)))


def _text(path: Path, encoding: str | None, problems: Problems) -> Iterator[Row]:
    """One row: the whole text."""
    with open_text(path, encoding) as file:
        text = file.read(LONGEST_ROW + 1)
    if len(text) > LONGEST_ROW:
        problems.add(path.name, 0, "", f"is longer than {LONGEST_ROW >> 20} MB; cut it into files")
    elif wrong := undecoded(text):
        problems.add(path.name, 0, "", wrong)
    else:
        yield Row(1, {"text": text})


def _parquet(path: Path, _: str | None, __: Problems) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(number, values)
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{path} is not a whole Parquet file: {error}.") from error


def _arrow(path: Path, _: str | None, __: Problems) -> Iterator[Row]:
    """Arrow's stream form (what the datasets library writes), or its file form."""
    import pyarrow as pa

    number = 0
    try:
        with pa.memory_map(str(path)) as source:
            is_file = source.read(6) == b"ARROW1"
            source.seek(0)
            reader = pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)
            batches: Any = reader
            if is_file:
                batches = map(reader.get_batch, range(reader.num_record_batches))
            for batch in batches:
                for start in range(0, batch.num_rows, _BATCH):
                    for values in batch.slice(start, _BATCH).to_pylist():
                        number += 1
                        yield Row(number, values)
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{path} is not a whole Arrow file: {error}.") from error
