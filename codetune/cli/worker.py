"""`codetune worker`: does the jobs of the queue."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option(
    "--slots",
    type=click.IntRange(1, 256),
    help="Jobs at the same time; each has a GPU of its own, or its share of the cores.  "
    "[one for each GPU, else 1]",
)
@click.option("--once", is_flag=True, help="End when no job is ready.")
@click.option(
    "--with-parent",
    is_flag=True,
    hidden=True,
    help="End when standard input closes: how `codetune serve` holds its worker.",
)
@click.option(
    "--log",
    type=click.Path(path_type=Path),
    hidden=True,
    help="Write here, not to the terminal, and begin anew when it is large.",
)
def worker(slots: int | None, once: bool, with_parent: bool, log: Path | None) -> None:
    """Do the jobs of the queue.

    Each runs in a process of its own. `codetune serve` has a worker already; this one helps
    it, on this machine or on another that shares $CODETUNE_HOME and names the same PostgreSQL
    in $CODETUNE_DATABASE. Ctrl-C puts running jobs back into the queue: whoever takes one next
    goes on at the interrupted step.

    \b
    Examples:
      codetune worker
      codetune worker --slots 2
      codetune worker --once
    """
    import logging
    import os
    import signal

    from codetune.artifacts import home
    from codetune.interrupt import unhurried
    from codetune.jobs.config import job_options
    from codetune.jobs.logfile import WorkerLog
    from codetune.jobs.worker import Worker, ends_on_signals, ends_with_parent, gpus
    from codetune.store.database import Database
    from codetune.store.in_use import serving_from

    options = job_options(home())
    handlers = [WorkerLog(log, int(options.log_megabytes * 1e6))] if log else None
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO, handlers=handlers)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    with serving_from(home()), Database.open() as database:
        database.bind()
        one = Worker(
            database,
            home(),
            options,
            slots=slots or max(1, len(gpus(os.environ))),
        )
        ends_on_signals(one)
        if with_parent:
            ends_with_parent(one)
        with unhurried(signal.SIGTERM), unhurried(signal.SIGINT):
            one.run(once=once)
