"""The log of a server's own worker, which does not grow without bounds."""

from __future__ import annotations

import os
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path

_OLDER = 3  # files that are kept beside the current one


class WorkerLog(RotatingFileHandler):
    """A log of `size` bytes, and three older ones; what is printed goes there, too.

    A crash speaks through the standard output and error: they follow the file.
    """

    def __init__(self, path: Path, size: int) -> None:
        super().__init__(path, maxBytes=size, backupCount=_OLDER, encoding="utf-8")
        self._take_output()

    def doRollover(self) -> None:
        super().doRollover()
        self._take_output()

    def _take_output(self) -> None:
        assert self.stream is not None
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(self.stream.fileno(), stream.fileno())
