"""The repositories, folders, archives and documents that somebody tunes on."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from codetune.errors import BadRequestError, ConflictError, SourceError
from codetune.jobs.limits import label_of, refuse_credentials, settled_source
from codetune.registry.access import Actor, readable, require, require_role
from codetune.sources.archive import is_archive
from codetune.sources.identity import looks_remote
from codetune.sources.opening import UPLOADS
from codetune.store.base import new_id
from codetune.store.jobs import ENDED, Job
from codetune.store.sources import Source
from codetune.workspace.pages import Page, Window, page_of
from codetune.workspace.uploads import Sent, received, safe_name
from codetune.workspace.workspace import Workspace

UPLOADED = ("upload", "documents", "project")  # kinds that lie below the home
_SHOWN = 80  # characters of a path that cannot be


class Sources:
    """What the actors of one server have named or sent."""

    def __init__(self, workspace: Workspace) -> None:
        self._work = workspace

    def add(self, actor: Actor, location: str, name: str | None = None) -> Source:
        """Name a repository's address, or a path of this machine where that is allowed.

        The same place again is the same source.

        Raises:
            UnsafeSourceError, SourceError: it cannot be read, or not by the actor.
            ConfigError: the address holds a password.
        """
        require_role(actor, "create")
        location = settled_source(actor, location, self._work.jobs.options)
        if looks_remote(location) and not Path(location).is_absolute():
            refuse_credentials(location)
            kind = "git"
        else:
            kind = _kind_of(Path(location))
        found = select(Source).where(Source.owner_id == actor.id, Source.location == location)
        with self._work.database.write() as session:
            self._work.database.turn(session, f"sources {actor.id}")
            row = session.scalar(found)
            if row is None:
                row = Source(owner_id=actor.id, kind=kind, location=location, name="")
                session.add(row)
            row.name = name or row.name or label_of(location)
            session.flush()
            return row

    def send(
        self, actor: Actor, kind: str, sent: Sequence[Sent], name: str | None = None
    ) -> Source:
        """Keep what somebody sends: an archive ("upload"), or "documents".

        Raises:
            BadRequestError: there is no file, or it is no archive.
        """
        require_role(actor, "create")
        if not sent:
            raise BadRequestError("There is no file.", param="file")
        source_id, folder = new_id("src"), None
        first = safe_name(sent[0].name)
        with received(self._work.home, f"{UPLOADS}/{source_id}", sent) as new:
            if kind == "upload":
                if not is_archive(new / first):
                    raise BadRequestError(
                        f"'{first}' is no archive.", param="file", advice="Send a zip or a tar."
                    )
                folder = f"{UPLOADS}/{source_id}/{first}"
        return self._keep(actor, source_id, kind, folder, name or _stem(first))

    def write(self, actor: Actor, kind: str, files: Mapping[str, str], name: str) -> Source:
        """Keep texts by their paths as a source.

        Raises:
            BadRequestError: a path leads out of the project or is git's own, or there is no text.
        """
        require_role(actor, "create")
        source_id = new_id("src")
        with received(self._work.home, f"{UPLOADS}/{source_id}", ()) as new:
            for path, text in files.items():
                _write(new.resolve(), path, text)
        return self._keep(actor, source_id, kind, None, name)

    def get(self, actor: Actor, source_id: str) -> Source:
        """One source.

        Raises:
            NotFoundError: there is none, or it is not the actor's.
        """
        with self._work.database.session() as session:
            return _source(session, actor, source_id)

    def list(self, actor: Actor, window: Window, kind: str | None = None) -> Page[Source]:
        """What the actor may see, the newest first."""
        found = select(Source).where(readable(actor, Source))
        if kind is not None:
            found = found.where(Source.kind == kind)
        with self._work.database.session() as session:
            return page_of(session, found, window, Source.created.desc(), Source.id.desc())

    def newest(self, actor: Actor, kinds: Sequence[str] = ()) -> Source | None:
        """The actor's own source that was named or used last."""
        found = select(Source).where(Source.owner_id == actor.id)
        if kinds:
            found = found.where(Source.kind.in_(kinds))
        with self._work.database.session() as session:
            return session.scalar(found.order_by(Source.updated.desc(), Source.id.desc()).limit(1))

    def delete(self, actor: Actor, source_id: str) -> None:
        """Forget a source; what was sent is deleted. Models that were tuned on it stay.

        Raises:
            NotFoundError, ForbiddenError: it is not the actor's.
            ConflictError: a job that has not ended needs it.
        """
        with self._work.database.write() as session:
            row = _source(session, actor, source_id)
            require(actor, "delete", row, f"source '{source_id}'")
            refuse_in_use(session, self.place(row), f"source '{row.name}'")
            session.delete(row)
        if row.kind in UPLOADED:
            shutil.rmtree(self._work.home / UPLOADS / row.id, ignore_errors=True)

    def place(self, row: Source) -> str:
        """The address or path that jobs read."""
        if row.kind in UPLOADED:
            return str((self._work.home / row.location).resolve())
        return row.location

    def _keep(
        self, actor: Actor, source_id: str, kind: str, location: str | None, name: str
    ) -> Source:
        place = location or f"{UPLOADS}/{source_id}"
        row = Source(id=source_id, owner_id=actor.id, kind=kind, location=place, name=name)
        try:
            with self._work.database.write() as session:
                session.add(row)
        except BaseException:
            shutil.rmtree(self._work.home / UPLOADS / source_id, ignore_errors=True)
            raise
        return row


def _write(folder: Path, path: str, text: str) -> None:
    named = path if len(path) <= _SHOWN else f"{path[:_SHOWN]}…"
    wrong = BadRequestError(f"'{named}' is no path in a project.", param=path[:_SHOWN])
    try:
        place = (folder / path).resolve()
        if place == folder or not place.is_relative_to(folder):
            raise wrong
        if ".git" in map(str.lower, place.relative_to(folder).parts):
            raise BadRequestError(
                f"'{named}' is git's own, and no file of a project.",
                param=path[:_SHOWN],
                advice="Leave .git out: only the files themselves are read.",
            )
        if place.exists() or any(parent.is_file() for parent in place.parents):
            raise BadRequestError(f"'{named}' is there twice.", param=path[:_SHOWN])
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8", errors="replace")
    except ValueError as error:  # null characters
        raise wrong from error
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise wrong from error


def refuse_in_use(session: Session, place: str, what: str) -> None:
    """Refuse to delete what a job that has not ended reads.

    Raises:
        ConflictError
    """
    for job in session.scalars(select(Job).where(Job.state.not_in(ENDED))):
        if place in texts_of(job.parameters):
            raise ConflictError(
                f"The job {job.id} needs the {what}.", advice="Cancel the job, or wait for its end."
            )


def texts_of(value: Any) -> set[str]:
    """Every text in a JSON value."""
    if isinstance(value, Mapping):
        return set().union(*(texts_of(one) for one in value.values()))
    if isinstance(value, list | tuple):
        return set().union(*map(texts_of, value))
    return {value} if isinstance(value, str) else set()


def _source(session: Session, actor: Actor, source_id: str) -> Source:
    row = session.get(Source, source_id)
    found = require(actor, "read", row, f"source '{source_id}'")
    assert found is not None
    return found


def _kind_of(path: Path) -> str:
    if path.is_file() and is_archive(path):
        return "archive"
    if path.is_dir():
        return "git" if (path / ".git").exists() else "folder"
    raise SourceError(
        f"{path} is neither a folder nor an archive.",
        advice="Pass an address, a folder of this machine, or a zip or tar archive.",
    )


def _stem(name: str) -> str:
    return name.split(".", maxsplit=1)[0] or "upload"
