"""The server's own worker: a process beside it, started again when it dies."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from codetune.store.database import VARIABLE, Database

_PATIENCE = 0.3  # seconds for an idle worker to end; a busy one ends its jobs without us
_STEADY = 60.0  # seconds that a worker has to live for the next to be started at once
_MOST = 60.0  # seconds between two starts
_log = logging.getLogger(__name__)


class WorkerProcess:
    """A worker for as long as the block lasts.

    It ends by itself when this process does, however that happens, and puts its jobs back into
    the queue: its standard input is a pipe that closes then. What it says goes to
    `home`/jobs/worker.log, which it keeps small. None is started once `ending` says so: a service
    manager ends the worker and the server at the same moment, and the server still drains.
    """

    def __init__(
        self,
        database: Database,
        home: Path,
        slots: int | None = None,
        *,
        ending: Callable[[], bool] = lambda: False,
    ) -> None:
        self._log = home / "jobs" / "worker.log"
        self._command = [sys.executable, "-m", "codetune", "worker", "--with-parent"]
        self._command += ["--log", str(self._log)]
        if slots is not None:
            self._command += ["--slots", str(slots)]
        self._environment = {**os.environ, VARIABLE: database.secret_url}
        self._process: subprocess.Popen[bytes] | None = None
        self._ending, self._asked = threading.Event(), ending
        self._thread = threading.Thread(target=self._keep_alive, name="worker", daemon=True)

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def __enter__(self) -> WorkerProcess:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ending.set()
        process = self._process
        if process is not None and process.stdin is not None:
            process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_PATIENCE)
        self._thread.join(_PATIENCE)

    def _keep_alive(self) -> None:
        pause = 1.0
        while not self._is_ending():
            began = time.monotonic()
            self._process = self._start()
            status = self._process.wait()
            assert self._process.stdin is not None
            self._process.stdin.close()
            if self._is_ending():
                return
            pause = 1.0 if time.monotonic() - began > _STEADY else min(2 * pause, _MOST)
            _log.warning(
                "The worker ended with status %d; another one starts. See %s", status, self._log
            )
            self._ending.wait(pause)

    def _is_ending(self) -> bool:
        return self._ending.is_set() or self._asked()

    def _start(self) -> subprocess.Popen[bytes]:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            # A session of its own: Ctrl-C in the server's terminal is the server's to pass on.
            return subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )
