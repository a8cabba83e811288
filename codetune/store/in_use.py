"""Who uses a home folder: servers and workers beside each other, or a restore alone."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from codetune.errors import ConflictError

_FILE = ".in-use.lock"


@contextmanager
def serving_from(home: Path) -> Iterator[None]:
    """Hold `home` for a server or a worker; the kernel lets go of it however they end.

    Raises:
        ConflictError: a backup is being restored to it.
    """
    with _held(home, fcntl.LOCK_SH) as held:
        if not held:
            raise ConflictError(
                f"A backup is being restored to {home}.", advice="Start again when that is done."
            )
        yield


@contextmanager
def restoring_to(home: Path) -> Iterator[None]:
    """Hold `home` for a restore.

    Raises:
        ConflictError: a server or worker that this machine can see uses it.
    """
    with _held(home, fcntl.LOCK_EX) as held:
        if not held:
            raise ConflictError(
                f"A server or a worker uses {home}.",
                advice="Stop it first (Ctrl-C, or systemctl stop codetune), then restore again.",
            )
        yield


@contextmanager
def _held(home: Path, kind: int) -> Iterator[bool]:
    """Try to lock the file that says it; whether that was possible."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / _FILE).open("w") as file:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
