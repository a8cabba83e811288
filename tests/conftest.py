"""Every test may send Ctrl-C to the processes it starts, and may ask for a database."""

import signal

from tests.accounts import cheap_passwords, people
from tests.databases import database, database_url, postgres

__all__ = ["cheap_passwords", "database", "database_url", "people", "postgres"]

# A shell that runs the suite in the background has it ignore SIGINT, and children inherit that:
# with a handler of our own they start with the default again.
signal.signal(signal.SIGINT, signal.default_int_handler)
