"""Every test may send Ctrl-C to the processes it starts, and may ask for a database."""

import os

# Two test processes on two cores: with two threads each they would wait for each other. Before
# anything imports torch.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import gc
import signal

import pytest

from tests.accounts import cheap_passwords, people
from tests.databases import database, database_url, postgres

__all__ = ["cheap_passwords", "database", "database_url", "people", "postgres"]

# A shell that runs the suite in the background has it ignore SIGINT, and children inherit that:
# with a handler of our own they start with the default again.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module", autouse=True)
def few_objects_to_look_through() -> None:
    """What is loaded by now stays: the collector need not look through it again and again.

    A process of tests has millions of objects, and one `gc.collect()` (training frees what its
    trial passes leave) took half a second of each test.
    """
    gc.collect()
    gc.freeze()
