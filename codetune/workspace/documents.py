"""The documents of somebody: texts in one folder, which grows with each that is sent."""

from __future__ import annotations

import codecs
import shutil
from collections.abc import Sequence
from pathlib import Path

from codetune.errors import DatasetError, StoreError
from codetune.registry.access import Actor, require_role
from codetune.store.base import now
from codetune.store.sources import Source
from codetune.workspace.sources import Sources
from codetune.workspace.uploads import Sent, received, safe_name
from codetune.workspace.workspace import Workspace

KIND = "documents"


def add_documents(workspace: Workspace, actor: Actor, sent: Sequence[Sent]) -> tuple[Source, int]:
    """Keep texts beside those that the actor has sent before; and how many there are now.

    Raises:
        BadRequestError: there is none.
        DatasetError: one of them is no text; none is kept.
    """
    require_role(actor, "create")
    for one in sent:
        _check(one)
    sources = Sources(workspace)
    source = sources.newest(actor, (KIND,))
    if source is None:
        source = sources.send(actor, KIND, sent, KIND)
    else:
        folder = Path(sources.place(source))
        with received(workspace.home, f"uploads/{source.id}.more", sent) as new:
            try:
                folder.mkdir(exist_ok=True)
                for path in sorted(new.iterdir()):
                    path.replace(folder / path.name)
            except OSError as error:
                raise StoreError(f"The documents cannot be kept: {error.strerror}.") from error
        shutil.rmtree(workspace.home / f"uploads/{source.id}.more", ignore_errors=True)
        with workspace.database.write() as session:
            row = session.get(Source, source.id)
            if row is not None:
                row.updated = now()
    return source, sum(1 for _ in Path(sources.place(source)).iterdir())


def _check(one: Sent) -> None:
    decoder, piece = codecs.getincrementaldecoder("utf-8")(), b"-"
    try:
        while piece:
            piece = one.file.read(1 << 20)
            if "\0" in decoder.decode(piece, final=not piece):
                raise UnicodeDecodeError("utf-8", b"\0", 0, 1, "a null character")
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{safe_name(one.name)} is no text in UTF-8.",
            advice="Send plain text or Markdown; take the text out of a PDF first.",
        ) from error
    one.file.seek(0)
