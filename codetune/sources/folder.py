"""A plain folder without history, read without following any link."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from codetune.errors import SourceError
from codetune.sources.ignore import Ignored

LARGEST_IGNORE_FILE = 1_000_000
OWN_BUSINESS = frozenset({".git", ".hg", ".svn", ".bzr"})  # a version store is no source file
_GONE = (FileNotFoundError, NotADirectoryError)


@dataclass(frozen=True)
class Found:
    """A file of a folder or an archive; `reason` is set when it will not be read."""

    path: str  # with "/" between parts, relative to the root; a folder ends with "/"
    size: int
    reason: str = ""
    detail: str = ""


def walk(root: Path) -> Iterator[Found]:
    """Every file below `root`, sorted; an ignored folder is one entry and is not entered.

    Raises:
        SourceError: `root` itself cannot be read.
    """
    ignored = Ignored()
    try:
        yield from _walk(root, "", ignored)
    except (PermissionError, *_GONE) as error:
        raise SourceError(
            f"{error.filename} cannot be read.", advice="Check the path and the folder's rights."
        ) from error


def _walk(root: Path, folder: str, ignored: Ignored) -> Iterator[Found]:
    with os.scandir(root / folder) as entries:
        listing = sorted(entries, key=lambda entry: entry.name)
    for entry in listing:
        if entry.name == ".gitignore" and entry.is_file(follow_symlinks=False):
            with suppress(OSError):
                text = read_regular(root / folder / entry.name, LARGEST_IGNORE_FILE)
                ignored.learn(folder, text.decode("utf-8", "replace"))
    for entry in listing:
        if entry.name not in OWN_BUSINESS:
            with suppress(*_GONE):  # since it was listed
                yield from _met(root, entry, folder + entry.name, ignored)


def _met(root: Path, entry: os.DirEntry[str], path: str, ignored: Ignored) -> Iterator[Found]:
    """What one entry of a folder is, and what is below it."""
    if entry.is_symlink():
        yield Found(path, 0, "symlink", f"points to {Path(entry.path).readlink()}"[:300])
    elif entry.is_dir(follow_symlinks=False):
        if f"{path}/" in ignored:
            yield Found(f"{path}/", 0, "ignored", "folder named by .gitignore, not entered")
        else:
            try:
                yield from _walk(root, f"{path}/", ignored)
            except PermissionError:
                yield Found(f"{path}/", 0, "unreadable", "no right to read the folder")
    else:
        facts = entry.stat(follow_symlinks=False)
        if not stat.S_ISREG(facts.st_mode):
            yield Found(path, 0, "special", "a device, pipe or socket")
        elif path in ignored:
            yield Found(path, facts.st_size, "ignored", "named by .gitignore")
        else:
            yield Found(path, facts.st_size)


def read_regular(path: Path, limit: int) -> bytes:
    """A regular file's first `limit` bytes; refuses links, and never waits on a pipe.

    Raises:
        OSError: it is a link by now, is no regular file, or cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{path} is not a regular file")
        return file.read(limit)


def digest_of_files(root: Path, paths: list[str]) -> str:
    """SHA-256 over the names and contents of what will be read: the folder's version."""
    total = hashlib.sha256()
    for path in paths:
        total.update(os.fsencode(path) + b"\0")
        with suppress(OSError):  # gone by now: `collect` will list it as unreadable
            total.update(hashlib.sha256(read_regular(root / path, -1)).digest())
    return total.hexdigest()
