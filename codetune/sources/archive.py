"""Zip and tar archives, read member by member without writing anything to disk.

An archive is hostile until read: its sizes may lie, its names may climb, its members may be
links and devices, and a few kilobytes may unpack to terabytes. Nothing is extracted, so names
are only labels; every byte that leaves a decompressor is counted against a limit.
"""

from __future__ import annotations

import bz2
import functools
import gzip
import hashlib
import io
import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, cast

from codetune.errors import SourceError, UnsafeSourceError
from codetune.sources.folder import OWN_BUSINESS, Found

LARGEST_UNPACKED = 16_000_000_000  # bytes
_FREE = 256_000_000  # bytes that any archive may unpack to, however small it is
_HIGHEST_RATIO = 200  # source code packs 3 to 20 times; zeros pack 1000 times
_LARGEST_DIRECTORY = 32_000_000  # bytes of a zip's table of contents: about 350,000 members

Read = Callable[[int], bytes]  # the member's first n bytes


def is_archive(path: Path) -> bool:
    """Whether the file's first bytes are those of a zip or of a (compressed) tar."""
    with path.open("rb") as file:
        start = file.read(512)
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return True
    return start.startswith(tuple(_DECOMPRESSORS)) or start[257:262] == b"ustar"


def digest_of_archive(path: Path) -> str:
    """SHA-256 of the archive's own bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def members(path: Path) -> Iterator[tuple[Found, Read]]:
    """Every member in the archive's order; content is read only when asked for, right then.

    What a version store keeps for itself is left out, as in a folder: an archive of a checkout
    holds its `.git`.

    Raises:
        UnsafeSourceError: it unpacks to far more than an archive of code would.
        SourceError: it is damaged or of an unknown kind.
    """
    with _renamed(path):
        with path.open("rb") as file:
            start = file.read(4)
        for found, read in _zip_members(path) if start[:2] == b"PK" else _tar_members(path):
            if OWN_BUSINESS.isdisjoint(found.path.split("/")):
                yield found, functools.partial(_read, path, read)


def _read(path: Path, read: Read, limit: int) -> bytes:
    with _renamed(path):  # the reader is called outside of `members`
        return read(limit)


@contextmanager
def _renamed(path: Path) -> Iterator[None]:
    """Name the errors of a damaged archive."""
    try:
        yield
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError) as error:
        raise _damaged(path, error) from error
    except (OSError, NotImplementedError, struct.error, ValueError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> SourceError:
    return SourceError(
        f"{path.name} cannot be read as an archive: {error}.",
        advice="Pass a zip, tar, tar.gz, tar.bz2 or tar.xz that other programs can open.",
    )


def _zip_members(path: Path) -> Iterator[tuple[Found, Read]]:
    _check_directory(path)
    meter = Meter(path.stat().st_size, path.name)
    with zipfile.ZipFile(path) as archive:
        seen: set[str] = set()
        for info in archive.infolist():
            if info.is_dir():
                continue
            mode = info.external_attr >> 16
            found = _judge(info.filename, info.file_size, seen)
            if not found.reason and stat.S_ISLNK(mode):
                found = Found(found.path, 0, "symlink", "a link in an archive")
            elif not found.reason and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                found = Found(found.path, 0, "special", "a device, pipe or socket")
            elif not found.reason and info.flag_bits & 0x1:
                found = Found(found.path, info.file_size, "encrypted", "needs a password")

            def read(limit: int, info: zipfile.ZipInfo = info) -> bytes:
                with archive.open(info) as member:
                    content = member.read(limit)
                meter.count(len(content))
                return content

            yield found, read


def _check_directory(path: Path) -> None:
    """Refuse a table of contents that alone would fill the memory, before it is loaded."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - 65_557 - 76))
        tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < 22:
        raise zipfile.BadZipFile("it has no table of contents")
    directory = struct.unpack("<L", tail[at + 12 : at + 16])[0]
    zip64 = tail.rfind(b"PK\x06\x06")
    if zip64 >= 0 and len(tail) - zip64 >= 48:
        large = struct.unpack("<Q", tail[zip64 + 40 : zip64 + 48])[0]
        directory = large if directory == 0xFFFFFFFF else max(directory, large)
    if directory > _LARGEST_DIRECTORY:
        raise UnsafeSourceError(
            f"{path.name} lists more members than an archive of code has.",
            advice="If you trust it, unpack it and pass the folder.",
        )


def _tar_members(path: Path) -> Iterator[tuple[Found, Read]]:
    with _tar_stream(path) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        seen: set[str] = set()
        for info in archive:
            if info.isdir():
                continue
            found = _judge(info.name, info.size, seen)
            if not found.reason and info.issym():
                found = Found(found.path, 0, "symlink", f"points to {info.linkname}"[:300])
            elif not found.reason and info.islnk():
                found = Found(found.path, 0, "hard_link", f"to {info.linkname}"[:300])
            elif not found.reason and not info.isreg():
                found = Found(found.path, 0, "special", "a device, pipe or socket")

            def read(limit: int, info: tarfile.TarInfo = info) -> bytes:
                member = archive.extractfile(info)
                return member.read(limit) if member else b""

            yield found, read
            # In stream mode tarfile keeps every member it has passed; none is needed again.
            cast(Any, archive).members = []


def _judge(name: str, size: int, seen: set[str]) -> Found:
    """A member's path as a label, or the reason why its name cannot be one."""
    path = name.replace("\\", "/").removeprefix("./")
    parts = path.split("/")
    if path.startswith("/") or ".." in parts or ":" in parts[0] or "\0" in path or not path:
        return Found(path or "?", size, "unsafe_path", "climbs out of the archive")
    path = "/".join(part for part in parts if part not in ("", "."))
    if path in seen:
        return Found(path, size, "repeated_name", "the archive's first member of this name is used")
    seen.add(path)
    return Found(path, size)


class Meter:
    """Counts unpacked bytes against what an honest archive of this size could hold."""

    def __init__(self, packed: int, name: str) -> None:
        self._limit = min(LARGEST_UNPACKED, max(_FREE, packed * _HIGHEST_RATIO))
        self._name = name
        self._total = 0

    def count(self, amount: int) -> None:
        self._total += amount
        if self._total > self._limit:
            raise UnsafeSourceError(
                f"{self._name} unpacks to more than {self._limit // 1_000_000} MB: "
                "it looks like a decompression bomb.",
                advice="If you trust it, unpack it and pass the folder.",
            )


class _Metered(io.RawIOBase):
    """A decompressed stream whose every read is counted."""

    def __init__(self, stream: IO[bytes], meter: Meter) -> None:
        self._stream, self._meter = stream, meter

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._meter.count(len(data))
        return data


@contextmanager
def _tar_stream(path: Path) -> Iterator[IO[bytes]]:
    with ExitStack() as stack:
        file = stack.enter_context(path.open("rb"))
        start = file.read(8)
        file.seek(0, os.SEEK_SET)
        opener = next(
            (opener for magic, opener in _DECOMPRESSORS.items() if start.startswith(magic)), None
        )
        stream = stack.enter_context(opener(file)) if opener else file
        yield cast(IO[bytes], _Metered(stream, Meter(path.stat().st_size, path.name)))


_DECOMPRESSORS: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
}
