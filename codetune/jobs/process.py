"""A job's processes as their worker holds them: started, heard, and ended."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from codetune.jobs.reports import Report
from codetune.jobs.work import Work

LOG = "log"
# What a job may see of the worker's environment: the system's, the libraries' and this
# product's folder. Not among them: database URLs, signing keys, tokens of hubs and clouds.
_SEEN = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|TERM|TZ|LANG|LC_\w+|TMPDIR|VIRTUAL_ENV|PYTHON\w*|LD_LIBRARY_PATH"
    r"|XDG_\w+|CODETUNE_HOME|(?:OMP|GOMP|MKL|OPENBLAS|GOTO|KMP|TORCH|PYTORCH|CUDA|CUBLAS|NCCL|NVIDIA)_\w+"
    r"|HF_(?:HOME|HUB_(?:CACHE|OFFLINE|DISABLE_TELEMETRY)|ENDPOINT)|TRANSFORMERS_OFFLINE"
    r"|(?:https?|all|no)_proxy|SSL_CERT_(?:FILE|DIR)|REQUESTS_CA_BUNDLE|GIT_SSL_CAINFO",
    re.IGNORECASE,
)
_READ = 1 << 16
_PATIENCE = 15.0  # seconds; the keeper's own is shorter


class Child:
    """One attempt at a job, in a session of its own."""

    def __init__(
        self,
        job: str,
        work: Work,
        folder: Path,
        *,
        environment: Mapping[str, str],
        nice: int = 0,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.reports, reports = os.pipe()
        life, ours = os.pipe()
        self._life: int | None = ours
        os.set_blocking(self.reports, False)
        self._rest = b""
        self._kill_at: float | None = None
        with (folder / LOG).open("ab") as log:
            # -P: the current folder, which a user may fill, is nowhere modules are looked for.
            program = [sys.executable, "-P", "-m", "codetune.jobs.child", job]
            self._process = subprocess.Popen(
                [*program, f"--reports={reports}", f"--life={life}", f"--nice={nice}"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(reports, life),
                start_new_session=True,
                cwd=folder,
                env=dict(environment),
            )
        os.close(reports)
        os.close(life)
        assert self._process.stdin is not None
        with suppress(BrokenPipeError), self._process.stdin as stdin:
            stdin.write(json.dumps(asdict(work)).encode())

    @property
    def pid(self) -> int:
        """The keeper of the job, and the group that it leads."""
        return self._process.pid

    def heard(self) -> tuple[list[Report], bool]:
        """The reports that have come since the last call, and whether more can; never waits."""
        more = False
        try:
            while data := os.read(self.reports, _READ):
                self._rest += data
        except BlockingIOError:
            more = True
        *lines, self._rest = self._rest.split(b"\n")
        return [_storable(json.loads(line)) for line in lines], more

    def stop(self, grace: float) -> None:
        """Ask the job to end; after `grace` seconds `ended` no longer asks."""
        if self._kill_at is None:
            self._kill_at = time.monotonic() + grace
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGTERM)

    def ended(self) -> int | None:
        """The exit status (128 + a signal's number), once the job has ended; else None.

        Nothing that it has started is left by then.
        """
        status = self._process.poll()
        if status is None and self._kill_at is not None and time.monotonic() > self._kill_at:
            self._cut()
        return status

    def kill(self) -> None:
        """End the job and all that it has started, at once."""
        self._cut()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:  # a process that the kernel itself cannot end
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """Let go of the pipes; what still runs ends."""
        self._cut()
        os.close(self.reports)

    def _cut(self) -> None:
        """Tell the keeper what it would be told if this process died."""
        if self._life is not None:
            os.close(self._life)
            self._life = None


def _storable(value: Any) -> Any:
    """The same without what PostgreSQL does not take: null characters, NaN."""
    if isinstance(value, str):
        return value.replace("\0", "")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {_storable(key): _storable(one) for key, one in value.items()}
    return [_storable(one) for one in value] if isinstance(value, list) else value


def scrubbed(environment: Mapping[str, str], also: Iterable[str] = ()) -> dict[str, str]:
    """What a job may see of `environment`: the system's variables and those named in `also`."""
    named = set(also)
    return {k: v for k, v in environment.items() if k in named or _SEEN.fullmatch(k)}
