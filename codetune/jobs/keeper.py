"""The process above a job: whatever happens, nothing that the job has started outlives it.

A process group is not enough: git, among others, is started in a session of its own. The keeper
is the reaper of all its descendants (prctl(2), PR_SET_CHILD_SUBREAPER): who loses their parent
becomes the keeper's child, and can be found. It waits for two things: the end of the job, and
the end of the worker, which the kernel tells it by closing the pipe `life`, however the worker
ended. Then it kills what is left.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import time

_SUBREAPER, _DEATH_SIGNAL = 36, 1  # PR_SET_CHILD_SUBREAPER, PR_SET_PDEATHSIG
_PATIENCE = 10.0  # seconds for what does not die of SIGKILL at once


def keep(life: int) -> None:
    """Split in two: returns in the process that is kept; the keeper ends with its status."""
    _control(_SUBREAPER, 1)
    keeper = os.getpid()
    kept = os.fork()
    if kept == 0:
        os.close(life)
        _control(_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != keeper:  # it died before it could say so
            os._exit(1)
        return
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the group's: it is meant for the job
    status = _wait(kept, life)
    os._exit(128 - status if status < 0 else status)


def _wait(kept: int, life: int) -> int:
    """The job's exit status; by then nothing of it is left."""
    reading, writing = os.pipe()
    for descriptor in (reading, writing):
        os.set_blocking(descriptor, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    status = None
    while status is None:
        status = _reap().get(kept)
        if status is not None:
            break
        ready, _, _ = select.select([life, reading], [], [])
        if life in ready:
            status = -signal.SIGKILL
        with contextlib.suppress(BlockingIOError):
            os.read(reading, 4096)
    _kill_all()
    return status


def _reap() -> dict[int, int]:
    """Collect every child that has ended: the exit status of each."""
    ended = {}
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0] != 0:
            ended[found[0]] = os.waitstatus_to_exitcode(found[1])
    return ended


def _kill_all() -> None:
    """Kill all descendants, and those that they have started meanwhile."""
    import psutil

    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.005)
        except ChildProcessError:  # there is none left
            return


def _control(option: int, value: int) -> None:
    """prctl(2). Elsewhere than on Linux the job's descendants are found by their parents."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
