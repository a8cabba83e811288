"""Who has asked what of which model: counted in memory, written down every few seconds."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Self

from codetune.errors import CodetuneError

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from codetune.store.database import Database

_log = logging.getLogger(__name__)
EVERY = 2.0  # seconds between two writes: what a server that is killed forgets
_LONGEST_NAME = 128  # characters; as the column has them
_AT_ONCE = 500  # rows of one statement


@dataclass
class Asked:
    """Requests of one user to one model and what they took; the columns of the table."""

    requests: int = 0
    cancelled: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    answered: int = 0
    first_seconds: float = 0.0

    def add(self, other: Asked) -> None:
        """Count `other` in."""
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))


_Key = tuple[date, str, str]  # day (UTC), owner's id, model


class UsageBook:
    """Adds up usage for one database; a context manager, which writes all of it at its end.

    `add` costs a lock and a few additions, whatever the database is doing. While it cannot be
    reached the counts wait here, one row for each user, model and day.
    """

    def __init__(self, database: Database, every: float = EVERY) -> None:
        self._database, self._every = database, every
        self._lock = threading.Lock()  # of the counts
        self._writing = threading.Lock()
        self._counts: dict[_Key, Asked] = {}
        self._ends = threading.Event()
        self._fails = False
        self._thread = threading.Thread(target=self._loop, name="codetune-usage", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()
        self.flush()

    def add(self, owner: str, model: str, asked: Asked) -> None:
        """Count a request of the user with the id `owner`; never waits for the database."""
        # A model of an engine elsewhere is called what the client likes.
        name = model.replace("\0", "")[:_LONGEST_NAME]
        key = (datetime.now(UTC).date(), owner, name)
        with self._lock:
            self._counts.setdefault(key, Asked()).add(asked)

    def flush(self) -> bool:
        """Write what has been counted; False if the database did not take it: it waits here."""
        with self._writing:
            with self._lock:
                counts, self._counts = self._counts, {}
            if not counts:
                return True
            try:
                with self._database.write() as session:
                    _write(session, counts)
            except CodetuneError as error:
                with self._lock:
                    for key, asked in counts.items():
                        self._counts.setdefault(key, Asked()).add(asked)
                if not self._fails:  # said once, not every two seconds
                    _log.error("Usage cannot be written and waits in memory: %s", error)
                self._fails = True
                return False
            self._fails = False
            return True

    def _loop(self) -> None:
        while not self._ends.wait(self._every):
            self.flush()


def _write(session: Session, counts: Mapping[_Key, Asked]) -> None:
    """Add to the rows that are there, and make the others."""
    from sqlalchemy import select
    from sqlalchemy.dialects import postgresql, sqlite

    from codetune.store.usage import Usage
    from codetune.store.users import User

    # Whoever is gone since takes their usage along, as with all of their rows.
    owners = {owner for _, owner, _ in counts}
    known = set(session.scalars(select(User.id).where(User.id.in_(owners))))
    # In one order for all servers: two of them never wait for each other's rows.
    rows = [
        {"day": day, "owner_id": owner, "model": model, **vars(asked)}
        for (day, owner, model), asked in sorted(counts.items(), key=lambda item: item[0])
        if owner in known
    ]
    is_sqlite = session.get_bind().dialect.name == "sqlite"
    for start in range(0, len(rows), _AT_ONCE):
        values = rows[start : start + _AT_ONCE]
        insert = (
            sqlite.insert(Usage).values(values)
            if is_sqlite
            else postgresql.insert(Usage).values(values)
        )
        sums = {
            one.name: getattr(Usage, one.name) + getattr(insert.excluded, one.name)
            for one in fields(Asked)
        }
        session.execute(
            insert.on_conflict_do_update(index_elements=["day", "owner_id", "model"], set_=sums)
        )
