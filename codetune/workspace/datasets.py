"""Training data that somebody has sent: checked row by row before it is kept."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from codetune.dataset.formats import check_proportion, digest_of_set, read_set
from codetune.errors import DatasetError
from codetune.records import Example
from codetune.registry.access import Actor, readable, require, require_role
from codetune.store.base import new_id
from codetune.store.datasets import Dataset
from codetune.workspace.pages import Page, Window, page_of
from codetune.workspace.sources import refuse_in_use
from codetune.workspace.uploads import Sent, received, safe_name
from codetune.workspace.workspace import Workspace

_FOLDER = "datasets"
# How advice names options that only the command line and codetune.yaml have.
_NOT_OFFERED = re.compile(r" \((?:skip_bad|--)[^)]*\)|; --[^)]*")
# Characters that a preview shows; a row of a set may have tens of millions.
_MOST_OF_EXAMPLE, _MOST_OF_PAGE = 20_000, 4_000_000


class Datasets:
    """The sets of training data of one server."""

    def __init__(self, workspace: Workspace) -> None:
        self._work = workspace

    def send(
        self,
        actor: Actor,
        sent: Sent,
        *,
        name: str | None = None,
        format: str = "auto",
        columns: Mapping[str, str] | None = None,
        encoding: str | None = None,
        licence: str = "unknown",
    ) -> Dataset:
        """Keep a file of training data in any of the formats of `dataset.formats`.

        Raises:
            DatasetError: it cannot be read; each bad row is named with its field.
        """
        require_role(actor, "create")
        dataset_id, file = new_id("dst"), safe_name(sent.name)
        reading = {
            "format": format,
            "columns": dict(columns or {}),
            "encoding": encoding,
            "licence": licence,
        }
        folder = f"{_FOLDER}/{dataset_id}"
        with received(self._work.home, folder, [sent]) as new:
            rows, characters = _checked(new / file, reading)
            size, digest = (new / file).stat().st_size, digest_of_set(new / file)
        row = Dataset(
            id=dataset_id,
            owner_id=actor.id,
            name=name or file,
            kind="upload",
            format=format,
            location=f"{folder}/{file}",
            digest=digest,
            size=size,
            rows=rows,
            details={"reading": reading, "characters": characters},
        )
        try:
            with self._work.database.write() as session:
                session.add(row)
        except BaseException:
            shutil.rmtree(self._work.home / folder, ignore_errors=True)
            raise
        return row

    def get(self, actor: Actor, dataset_id: str) -> Dataset:
        """One dataset.

        Raises:
            NotFoundError: there is none, or it is not the actor's.
        """
        with self._work.database.session() as session:
            return _dataset(session, actor, dataset_id)

    def list(self, actor: Actor, window: Window) -> Page[Dataset]:
        """What the actor may see, the newest first."""
        found = select(Dataset).where(readable(actor, Dataset))
        with self._work.database.session() as session:
            return page_of(session, found, window, Dataset.created.desc(), Dataset.id.desc())

    def preview(self, actor: Actor, dataset_id: str, window: Window) -> Page[dict[str, Any]]:
        """Some of its examples, as messages or text; where they are long, fewer than `limit`."""
        row = self.get(actor, dataset_id)
        examples = read_set(Path(self.place(row)), name=row.name, **row.details["reading"])
        wanted = islice(examples, window.offset, window.offset + window.limit)
        shown, left = [], _MOST_OF_PAGE
        for example in wanted:
            size, seen = _shown(example)
            shown.append(seen)
            left -= size
            if left < _MOST_OF_EXAMPLE:
                break
        return Page(shown, row.rows, window)

    def delete(self, actor: Actor, dataset_id: str) -> None:
        """Delete a dataset; models that were tuned on it stay.

        Raises:
            NotFoundError, ForbiddenError: it is not the actor's.
            ConflictError: a job that has not ended needs it.
        """
        with self._work.database.write() as session:
            row = _dataset(session, actor, dataset_id)
            require(actor, "delete", row, f"dataset '{dataset_id}'")
            refuse_in_use(session, self.place(row), f"dataset '{row.name}'")
            session.delete(row)
        shutil.rmtree(self._work.home / _FOLDER / row.id, ignore_errors=True)

    def place(self, row: Dataset) -> str:
        """The file that jobs read."""
        return str((self._work.home / row.location).resolve())


def _checked(path: Path, reading: Mapping[str, Any]) -> tuple[int, int]:
    """Rows and characters of a file every row of which can be used."""
    rows = characters = 0
    try:
        for example in read_set(path, **reading):
            rows += 1
            characters += len(example.text or "")
            characters += sum(len(message["content"]) for message in example.messages or ())
            check_proportion(path, characters)
    except DatasetError as error:
        # Where it lies on this server is nobody's business.
        message = _NOT_OFFERED.sub("", error.message.replace(f"{path.parent}/", ""))
        raise DatasetError(message, advice=_NOT_OFFERED.sub("", error.advice)) from error
    return rows, characters


def _shown(example: Example) -> tuple[int, dict[str, Any]]:
    """How many characters of an example are shown, and the example as far as it is."""
    row, text, left = example.source.span[0], example.text, _MOST_OF_EXAMPLE
    if text is not None:
        cut = text[:left]
        return len(cut), {"row": row, "messages": None, "text": cut, "cut": cut != text}
    messages, whole = [], example.messages or ()
    for message in whole:
        left -= len(message["role"])
        if left <= 0:
            break
        messages.append({**message, "content": message["content"][:left]})
        left -= len(messages[-1]["content"])
    seen = {"row": row, "messages": messages, "text": None, "cut": messages != list(whole)}
    return _MOST_OF_EXAMPLE - left, seen


def _dataset(session: Session, actor: Actor, dataset_id: str) -> Dataset:
    row = session.get(Dataset, dataset_id)
    found = require(actor, "read", row, f"dataset '{dataset_id}'")
    assert found is not None
    return found
