"""Files as rows: JSON arrays, JSON lines, CSV, Parquet, Arrow and plain text, all as streams."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from codetune.dataset.formats.arrow import arrow_rows, parquet_rows
from codetune.dataset.formats.rows import File, Row
from codetune.dataset.formats.text import LONGEST_ROW, open_text, undecoded
from codetune.errors import DatasetError

_BLANK, _BETWEEN = re.compile(r"[ \t\r\n]*"), re.compile(r"[ \t\r\n,]*")
_CHUNK = 1 << 18  # characters read at a time from a JSON array
_TEXT = (".txt", ".md", ".rst", ".text")
_TABLES = (".csv", ".tsv")


def rows_of(file: File) -> Iterator[Row]:
    """The rows of one file; what its content is decides, then its name.

    Raises:
        DatasetError: it cannot be read at all, or has too many problems.
    """
    yield from _reader_of(file.path)(file)


Reader = Callable[[File], Iterator[Row]]


def _reader_of(path: Path) -> Reader:
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error}.") from error
    if head[:4] == b"PAR1" or suffix == ".parquet":
        return parquet_rows
    if head[:6] == b"ARROW1" or suffix == ".arrow":
        return arrow_rows
    if suffix in _TABLES:
        return _csv
    return _text if suffix in _TEXT else _json


def _json(file: File) -> Iterator[Row]:
    """A JSON array, JSON lines, or one object."""
    with open_text(file.path, file.encoding) as stream:
        first = _first_letter(stream)
    if not first:
        return
    if first not in ("[", "{"):
        raise DatasetError(
            f"{file.path} begins with {first!r}: this is not JSON.",
            advice="Known: .json, .jsonl, .csv, .tsv, .parquet, .arrow, .txt, and folders of "
            "the datasets library.",
        )
    if first == "[":
        yield from _json_array(file)
        return
    with open_text(file.path, file.encoding) as stream:
        lines = iter(lambda: stream.readline(LONGEST_ROW), "")
        whole = next(line.strip() for line in lines if line.strip()) == "{"
    if whole:
        raise DatasetError(
            f"{file.path} holds one object, not rows.",
            advice="Write a list of rows ([{…}, {…}]), or one row a line (JSON lines).",
        )
    yield from _json_lines(file)


def _first_letter(file: IO[str]) -> str:
    while part := file.read(_CHUNK):
        if part := part.lstrip():
            return part[0]
    return ""


def _json_lines(file: File) -> Iterator[Row]:
    with open_text(file.path, file.encoding) as stream:
        number, parser = 0, _Parser()
        while line := stream.readline(LONGEST_ROW):
            number += 1
            if len(line) >= LONGEST_ROW and not line.endswith("\n"):
                file.bad(number, "", f"is longer than {LONGEST_ROW >> 20} MB")
                while (rest := stream.readline(_CHUNK)) and not rest.endswith("\n"):
                    pass
                continue
            if not line.strip():
                continue
            if wrong := undecoded(line):
                file.bad(number, "", wrong)
                continue
            yield from _parsed(file, number, line, parser)


def _parsed(file: File, number: int, line: str, parser: _Parser) -> Iterator[Row]:
    try:
        value = parser.parse_all(line.rstrip("\r\n"))
    except RecursionError:
        file.bad(number, "", "is nested too deeply")
    except json.JSONDecodeError as error:
        message = f"is not JSON: {error.msg} at character {error.pos + 1}"
        file.bad(number, "", message)
    except ValueError as error:  # a number of thousands of digits
        file.bad(number, "", f"is not JSON: {error}")
    else:
        yield from _object(file, number, value, parser.repeated)


def _object(file: File, number: int, value: Any, repeated: str | None) -> Iterator[Row]:
    if repeated is not None:
        file.bad(number, repeated, "stands more than once in an object")
    elif isinstance(value, dict):
        yield Row(number, value)
    else:
        kind = type(value).__name__
        file.bad(number, "", f"is a {kind}, and an object was expected")


def _json_array(file: File) -> Iterator[Row]:
    """The objects of one long array, parsed one at a time."""
    with open_text(file.path, file.encoding) as stream:
        reading = _Array(stream)
        while True:
            line = reading.skip_to_value()
            if line is None:
                if beyond := reading.beyond():
                    file.bad(beyond, "", "stands behind the end of the array")
                return
            try:
                value, raw = reading.value()
            except RecursionError:
                file.bad(line, "", "is nested too deeply")
                return
            except ValueError as error:
                why = error.msg if isinstance(error, json.JSONDecodeError) else error
                file.bad(line, "", f"is not JSON: {why}")
                return
            if wrong := undecoded(raw):
                file.bad(line, "", wrong)
            else:
                yield from _object(file, line, value, reading.parser.repeated)


class _Parser:
    """Parses JSON values; `repeated` is a key that the last one's objects hold twice."""

    def __init__(self) -> None:
        self._decoder = json.JSONDecoder(object_pairs_hook=self._object)
        self.repeated: str | None = None

    def parse(self, text: str, at: int) -> tuple[Any, int]:
        """The value that begins at `at`, and where it ends.

        Raises:
            ValueError: it is broken.
        """
        self.repeated = None
        return self._decoder.raw_decode(text, at)

    def parse_all(self, text: str) -> Any:
        """The one value of a text; raises as `parse` does."""
        self.repeated = None
        return self._decoder.decode(text)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            ((self.repeated, _),) = Counter(key for key, _ in pairs).most_common(1)
        return value


class _Array:
    """Reads a JSON array value by value; `_buffer` is what was read, `_at` the place in it."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self.parser = _Parser()
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
                value, end = self.parser.parse(self._buffer, self._at)
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


def _csv(file: File) -> Iterator[Row]:
    """Rows by the names in the first line; separated by the sign that is most frequent there."""
    csv.field_size_limit(LONGEST_ROW)
    with open_text(file.path, file.encoding, newline="") as stream:
        header = stream.readline(LONGEST_ROW)
        sign = max(",;\t", key=header.count)
        stream.seek(0)
        reader = csv.reader(stream, delimiter=sign, strict=True)
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
                left = sum(1 for _ in stream)
                behind = f"; the {left} lines behind it are not read" if left else ""
                file.bad(line, "", f"is not CSV: {error}{behind}")
                return
            if wrong := next(filter(None, map(undecoded, values)), ""):
                file.bad(line, "", wrong)
            elif names is None:
                names = [name.strip() for name in values]
                if file.refuses(names, line):
                    return
            elif len(values) not in (0, len(names)):
                message = f"has {len(values)} fields, the first line names {len(names)}"
                file.bad(line, "", message)
            elif values:
                yield Row(line, dict(zip(names, values, strict=True)))


def _text(file: File) -> Iterator[Row]:
    """One row: the whole text."""
    with open_text(file.path, file.encoding) as stream:
        text = stream.read(LONGEST_ROW + 1)
    if len(text) > LONGEST_ROW:
        file.bad(0, "", f"is longer than {LONGEST_ROW >> 20} MB; cut it into files")
    elif wrong := undecoded(text):
        file.bad(0, "", wrong)
    else:
        yield Row(1, {"text": text})
