"""A job's events and log as one stream that can be joined again where it was left.

An event's id is "NUMBER-BYTES": the number of the last event's row and the bytes of the log that
have been told up to here. A client that names it (Last-Event-ID) misses nothing and is told
nothing twice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select

from codetune.errors import BadRequestError
from codetune.jobs.process import LOG
from codetune.store.database import Database
from codetune.store.jobs import ENDED, Job, JobEvent

_ID = re.compile(r"(\d{1,9})-(\d{1,15})")
_CHUNK = 1 << 16  # bytes of the log in one event, at most
_ROWS = 500


@dataclass(frozen=True)
class Event:
    """One thing that happened: "state", "stage", "progress", "say", or "log" (more lines)."""

    id: str
    kind: str
    data: dict[str, Any]
    at: datetime | None = None  # a log's lines have no time


@dataclass(frozen=True)
class Place:
    """How far a follower has come."""

    number: int = 0
    bytes: int = 0

    def __str__(self) -> str:
        return f"{self.number}-{self.bytes}"


def place_of(event_id: str | None) -> Place:
    """The place that an event's id stands for; the beginning for None.

    Raises:
        BadRequestError: no event can have had it.
    """
    if not event_id:
        return Place()
    found = _ID.fullmatch(event_id)
    if found is None:
        raise BadRequestError(
            f"'{event_id[:40]}' is no event's id.",
            param="Last-Event-ID",
            advice="Send the id of the last event that came, or none to begin anew.",
        )
    return Place(int(found[1]), int(found[2]))


def read_on(database: Database, folder: Path, job: str, place: Place) -> tuple[list[Event], bool]:
    """What has happened to a job since `place`, and whether that is the end of it."""
    with database.session() as session:  # state and events of one moment
        state = session.execute(select(Job.state).where(Job.id == job)).scalar_one()
        rows = session.execute(
            select(JobEvent)
            .where(JobEvent.job_id == job, JobEvent.number > place.number)
            .order_by(JobEvent.number)
            .limit(_ROWS)
        ).scalars()
        found = list(rows)
    ended = state in ENDED
    events: list[Event] = []
    text, size = _lines(folder / LOG, place.bytes, whole=ended)
    if size:
        place = Place(place.number, place.bytes + size)
        events.append(Event(str(place), "log", {"text": text}))
    for row in found:
        place = Place(row.number, place.bytes)
        events.append(Event(str(place), row.kind, row.data, row.at))
    return events, ended and not events


def _lines(path: Path, start: int, *, whole: bool) -> tuple[str, int]:
    """Whole lines of a log from byte `start` on, and how many bytes they are."""
    try:
        with path.open("rb") as file:
            file.seek(start)
            data = file.read(_CHUNK)
    except FileNotFoundError:
        return "", 0
    cut = data.rfind(b"\n") + 1
    if cut == 0 and (whole or len(data) == _CHUNK):
        cut = len(data)  # a line that does not end, or not here
    return data[:cut].decode(errors="replace"), cut
