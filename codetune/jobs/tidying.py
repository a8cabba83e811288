"""Ended jobs are forgotten after a while: their rows, events and logs."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import ColumnElement, and_, delete, select

from codetune.errors import StoreError
from codetune.jobs.rows import clock
from codetune.registry.files import label_of, model_folders
from codetune.store.database import Database
from codetune.store.jobs import ENDED, Job
from codetune.store.models import Model

_AT_ONCE = 100  # jobs: whoever calls this has leases to keep, too


def forget_ended(database: Database, home: Path, days: float, at_most: int = _AT_ONCE) -> int:
    """Delete jobs that ended more than `days` days ago, `at_most` of them; returns how many.

    Whatever waits or runs stays, however old it is. So does the job that made a model that is
    still registered, or was saved under another name: with its options people go on from it.

    Raises:
        StoreError: the database cannot be used, or a log not deleted.
    """
    with database.session() as session:
        before = clock(session) - timedelta(days=days)
        model = Job.result["model"].as_string()
        rows = session.execute(select(Job.id, model).where(_ended(before))).all()
        saved = {details.get("tuning") for details in session.scalars(select(Model.details))}
    if not rows:
        return 0
    registered = {label_of(folder) for folder in model_folders(home / "models")}
    old = [job for job, made in rows if made not in registered and job not in saved]
    return _forget(database, home / "jobs", old[:at_most], before)


def _ended(before: datetime) -> ColumnElement[bool]:
    return and_(Job.state.in_(ENDED), Job.finished < before)


def _forget(database: Database, folder: Path, jobs: Sequence[str], before: datetime) -> int:
    with database.write() as session:
        # Asked again, and held: somebody may have queued one of them once more meanwhile.
        held = select(Job.id).where(Job.id.in_(jobs), _ended(before))
        found = session.scalars(held.with_for_update(skip_locked=True)).all()
        session.execute(delete(Job).where(Job.id.in_(found)))
        for job in found:
            _remove(folder / job)
    return len(found)


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:  # it never ran
        return
    except OSError as error:
        raise StoreError(f"{folder} cannot be deleted: {error.strerror}.") from error
