"""Whether everybody logs in."""

from __future__ import annotations

import math
import time

from codetune.accounts.users import have_admin
from codetune.store.database import Database

_LOOK = 1.0  # seconds between two looks, as long as there is no administrator


class Door:
    """Open on one's own machine; shut from the first administrator on, and never open again.

    Another process may make that account (`codetune users add`), so the database is asked again
    and again, until it is there.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._looked = -math.inf
        self.shut = False

    @property
    def is_due(self) -> bool:
        """Is it time to `look`?"""
        return not self.shut and time.monotonic() - self._looked >= _LOOK

    def look(self) -> bool:
        """Ask the database; returns whether the door is shut.

        Raises:
            StoreError: the database cannot be reached.
        """
        if not self.shut:
            self._looked = time.monotonic()
            try:
                with self._database.session() as session:
                    found = have_admin(session)
            except BaseException:
                self.look_again()  # nobody is let in because somebody else has asked just now
                raise
            if found:  # and not `shut = found`: an earlier, slower look opens nothing
                self.shut = True
        return self.shut

    def look_again(self) -> None:
        """There may be an administrator now: the next who asks does not wait for the time."""
        self._looked = -math.inf
