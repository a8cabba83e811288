"""Every test may send Ctrl-C to the processes it starts, and may ask for a database."""

import os

# Two test processes on two cores: with two threads each they would wait for each other. Before
# anything imports torch.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import signal

from tests.accounts import cheap_passwords, people
from tests.databases import database, database_url, postgres

__all__ = ["cheap_passwords", "database", "database_url", "people", "postgres"]

# A shell that runs the suite in the background has it ignore SIGINT, and children inherit that:
# with a handler of our own they start with the default again.
signal.signal(signal.SIGINT, signal.default_int_handler)
