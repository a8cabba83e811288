"""Text files in the encodings that occur, decoded without guessing."""

from __future__ import annotations

import codecs
import gzip
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from codetune.errors import DatasetError

LONGEST_ROW = 32 << 20  # characters: a row of more is a broken file, not an example
_PROBE = 4096  # bytes
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark is its beginning
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_UNDECODED = re.compile("[\udc80-\udcff]")


@contextmanager
def open_text(path: Path, encoding: str | None, newline: str = "\n") -> Iterator[IO[str]]:
    """The file's text; bytes that are not UTF-8 become what `undecoded` finds.

    Raises:
        DatasetError: it cannot be opened, is binary, or is UTF-16 that does not say so.
    """
    try:
        with _open(path) as probe:
            head = probe.read(_PROBE)
    except (OSError, EOFError) as error:
        raise DatasetError(f"{path} cannot be read: {error}.") from error
    chosen = _normal(encoding) or _encoding_of(path, head)
    errors = "surrogateescape" if chosen.startswith("utf-8") else "strict"
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding=chosen, errors=errors, newline=newline) as file:
            yield cast(IO[str], file)
    except LookupError as error:  # a codec, but not of text
        raise _unknown(encoding) from error
    except UnicodeError as error:
        raise DatasetError(f"{path} is not {chosen}: {error}.") from error
    except (gzip.BadGzipFile, EOFError) as error:
        raise DatasetError(f"{path} is not a whole gzip file: {error}.") from error


def undecoded(text: str) -> str:
    """What is wrong with text whose bytes were not UTF-8; empty if nothing is."""
    found = _UNDECODED.search(text)
    if found is None:
        return ""
    byte = ord(found[0]) - 0xDC00
    return (
        f"byte 0x{byte:02x} at character {found.start() + 1} is not UTF-8; "
        "if the file is Latin-1, say so (encoding: latin-1; --encoding latin-1)"
    )


def _normal(encoding: str | None) -> str:
    """The encoding's usual name; "" for UTF-8, which is looked for in any case."""
    try:
        name = codecs.lookup(encoding).name if encoding else "utf-8"
    except LookupError as error:
        raise _unknown(encoding) from error
    return "" if name == "utf-8" else name


def _unknown(encoding: str | None) -> DatasetError:
    return DatasetError(
        f"There is no encoding '{encoding}'.", advice="Known: utf-8, utf-16, latin-1 …"
    )


def _open(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path) if path.suffix == ".gz" else path.open("rb"))


def _encoding_of(path: Path, head: bytes) -> str:
    for mark, name in _BOMS:
        if head.startswith(mark):
            return name
    if head.count(0) * 10 > len(head):
        # ASCII letters in UTF-16 have a zero byte each, always on the same side.
        for name, zeros in (("utf-16-le", head[1::2]), ("utf-16-be", head[0::2])):
            if zeros.count(0) > 0.4 * max(1, len(zeros)):
                raise DatasetError(
                    f"{path} looks like UTF-16 without a byte order mark.",
                    advice=f"Say encoding: {name} (--encoding {name}), or save it as UTF-8.",
                )
        raise DatasetError(f"{path} is not a text file: it holds zero bytes.")
    return "utf-8"
