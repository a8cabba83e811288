"""A worker's death, seen at once by the others on its machine.

A lease says it after half a minute, to every machine. On the same one the kernel knows: a worker
holds a lock on a file, and the kernel lets go of it however the worker ended. A process number
would not do: it is given to others, and means nothing in another container.
"""

from __future__ import annotations

import fcntl
import uuid
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import IO

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def machine() -> str:
    """The running kernel's id: the same in every process that its locks bind."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return f"{uuid.getnode():012x}"


class Presence:
    """A lock below `folder` for as long as its block lasts."""

    def __init__(self, folder: Path, worker: str) -> None:
        self._folder, self._path = folder, folder / worker
        self._file: IO[str] | None = None

    def __enter__(self) -> Presence:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("w")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._file is not None
        self._path.unlink(missing_ok=True)
        self._file.close()

    def sweep(self, known: Collection[str]) -> None:
        """Remove the files of dead workers that nobody lists any more."""
        for path in self._folder.iterdir():
            if path.name not in known and self.is_dead(path.name, machine()):
                path.unlink(missing_ok=True)

    def is_dead(self, worker: str, where: str) -> bool:
        """Whether `worker`, if it is on this machine, no longer runs; False if nobody can know."""
        path = self._folder / worker
        if where != machine() or path == self._path:
            return False
        try:
            with path.open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True  # the file stays until everyone has seen it: `sweep`
        except FileNotFoundError:
            # Another home folder on this machine may hold it: only the lease can tell.
            return False
        except BlockingIOError:
            return False
