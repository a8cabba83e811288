"""Fixtures of the queue's tests."""

from __future__ import annotations

import pytest

from codetune.jobs.queue import Member
from codetune.store.database import Database
from tests.unit.jobs.office import Office


@pytest.fixture
def office(database: Database) -> Office:
    return Office(database)


@pytest.fixture
def member() -> Member:
    return Member("worker", "this-machine", "host", 1, 4)
