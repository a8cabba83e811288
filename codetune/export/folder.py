"""The place an export goes to: checked for room, written beside, renamed when it is whole."""

from __future__ import annotations

import errno
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from codetune.errors import ExportError
from codetune.registry.store import sync_tree

_SPARE = 1.05  # of the bytes that are written, for headers, tokenizer and card


@contextmanager
def written_beside(target: Path) -> Iterator[Path]:
    """An empty folder beside `target` that takes its name when the block has ended well.

    Whatever ends the block otherwise leaves nothing behind.

    Raises:
        ExportError: there is something at `target` already, or the disk cannot be written.
    """
    if target.exists() or target.is_symlink():
        raise ExportError(
            f"{target} is there already.", advice="Name a folder that is not there: --out FOLDER"
        )
    partial = target.with_name(f".{target.name}.partial-{secrets.token_hex(4)}")
    try:
        with naming_errors(target):
            partial.mkdir(parents=True)
            yield partial
            sync_tree(partial)
            partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_room(place: Path, wanted: int) -> None:
    """Refuse to begin what the disk cannot hold; `wanted` in bytes.

    Raises:
        ExportError
    """
    parent = next(folder for folder in (place, *place.absolute().parents) if folder.is_dir())
    free, needed = shutil.disk_usage(parent).free, int(wanted * _SPARE)
    if free < needed:
        raise ExportError(
            f"The export takes about {_gigabytes(needed)}, and the disk that holds {parent} has "
            f"{_gigabytes(free)} left.",
            advice="Free some space, or write to another disk with --out.",
        )


@contextmanager
def naming_errors(place: Path) -> Iterator[None]:
    """Name the errors of a disk that is full or cannot be written."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise ExportError(
            f"{place} cannot be written: {error.strerror or error}.",
            advice="Free some space and run again." if full else "Name another one with --out.",
        ) from error


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
