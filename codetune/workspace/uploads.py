"""Files that people send: received piece by piece, bounded, and put in place as a whole."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from codetune.errors import BadRequestError, StoreError

_PIECE = 1 << 20  # bytes


@dataclass(frozen=True)
class Sent:
    """A file as a client sends it; `name` is the client's word."""

    name: str
    file: BinaryIO


@contextmanager
def received(home: Path, folder: str, sent: Sequence[Sent]) -> Iterator[Path]:
    """The files in a new folder, which becomes `home`/`folder` when the block ends well.

    Raises:
        BadRequestError: two files have one name.
        StoreError: the disk cannot be written.
    """
    target = home / folder
    new = target.parent / f".new-{secrets.token_hex(8)}"
    try:
        new.mkdir(parents=True, mode=0o700)
        for one in sent:
            path = new / safe_name(one.name)
            if path.exists():
                raise BadRequestError(f"Two files are called '{path.name}'.", param="file")
            with path.open("wb") as file:
                shutil.copyfileobj(one.file, file, _PIECE)
                file.flush()
                os.fsync(file.fileno())
        yield new
        new.rename(target)
    except OSError as error:
        raise StoreError(
            f"The upload cannot be kept in {target.parent}: {error.strerror or error}."
        ) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def safe_name(name: str) -> str:
    """A file's name that is a name in any folder, with its suffix; never a path."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip(".-")[-96:] or "file"


def digest_of_file(file: BinaryIO) -> str:
    """SHA-256 of a file that was sent; it is at its beginning again afterwards."""
    digest = hashlib.sha256()
    file.seek(0)
    while piece := file.read(_PIECE):
        digest.update(piece)
    file.seek(0)
    return digest.hexdigest()
