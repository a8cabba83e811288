"""A job's process: `python -P -m codetune.jobs.child JOB_ID --reports FD --life FD`.

It reads its work from standard input, tells of it through the pipe `reports`, and knows neither
the database nor the server's secrets. A keeper stands above it: see there.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import traceback
from typing import TextIO

from codetune.errors import CodetuneError
from codetune.interrupt import ends_soon, exit_status, terminate
from codetune.jobs.keeper import keep
from codetune.jobs.reports import Reporter, lenient
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
    os.nice(arguments.nice)
    keep(arguments.life)
    signal.signal(signal.SIGTERM, terminate)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    lenient(sys.stdout)
    with os.fdopen(arguments.reports, "w", encoding="utf-8") as stream:
        status = _run(lenient(stream))
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


if __name__ == "__main__":
    main()
