"""A job's process: `python -P -m codetune.jobs.child JOB_ID --reports FD --life FD`.

It reads its work from standard input, tells of it through the pipe `reports`, and knows neither
the database nor the server's secrets. The pipe `life` is never written to: its other end is open
in the worker alone, and when the worker is gone, however it ended, the kernel closes it. Then
this process and all that it has started end at once, whatever they are doing: another worker
goes on with the job, and two must not.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import signal
import sys
import threading
import traceback
from typing import TextIO

from codetune.errors import CodetuneError
from codetune.interrupt import ends_soon, exit_status, terminate
from codetune.jobs.reports import Reporter
from codetune.jobs.work import Work, do

FAILED, CRASHED = 2, 1  # exit codes; 143 after SIGTERM


def main() -> None:
    """Do the job that standard input describes and exit."""
    parser = argparse.ArgumentParser()
    parser.add_argument("job")  # for those who look at the list of processes
    parser.add_argument("--reports", type=int, required=True)
    parser.add_argument("--life", type=int, required=True)
    parser.add_argument("--nice", type=int, default=0)
    arguments = parser.parse_args()
    end_with_worker(arguments.life)
    os.nice(arguments.nice)
    signal.signal(signal.SIGTERM, terminate)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    with os.fdopen(arguments.reports, "w", encoding="utf-8") as stream:
        status = _run(stream)
    sys.stdout.flush()
    sys.stderr.flush()
    # At once: to take torch apart can last seconds, and the outcome has been told.
    os._exit(status)


def _run(stream: TextIO) -> int:
    reporter = Reporter(stream)
    try:
        with ends_soon():
            work = Work(**json.load(sys.stdin))
            reporter.tell("result", result=do(work, reporter))
        return 0
    except CodetuneError as error:
        print(f"codetune: {error}", file=sys.stderr)  # noqa: T201 - the job's log
        reporter.tell("failed", message=error.message, advice=error.advice)
        return FAILED
    except KeyboardInterrupt as error:
        return exit_status(error)
    except BaseException as error:  # the boundary: what is no error of ours is a crash
        traceback.print_exc()
        reporter.tell("crashed", message=f"{type(error).__name__}: {error}")
        return CRASHED


def end_with_worker(life: int) -> None:
    """Kill this process group when the other end of the pipe `life` closes.

    Linux does it by a signal to the whole group, so that a long call into C code delays nothing
    (fcntl(2): F_SETOWN, F_SETSIG, O_ASYNC); a thread does it everywhere.
    """
    if sys.platform == "linux":
        # Where a kernel will not, the thread below remains.
        with contextlib.suppress(OSError):
            fcntl.fcntl(life, fcntl.F_SETOWN, -os.getpgrp())
            fcntl.fcntl(life, fcntl.F_SETSIG, signal.SIGKILL)
            flags = fcntl.fcntl(life, fcntl.F_GETFL)
            fcntl.fcntl(life, fcntl.F_SETFL, flags | os.O_ASYNC)
    threading.Thread(target=_watch, args=(life,), daemon=True).start()


def _watch(life: int) -> None:
    os.read(life, 1)  # returns when there is nobody left who could write
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    main()
