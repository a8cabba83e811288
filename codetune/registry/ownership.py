"""Whose the registry's models are: which names an actor sees, and under which they save."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sqlalchemy import select, true
from sqlalchemy.orm import Session

from codetune.errors import ConflictError
from codetune.registry.access import Actor, Ownership, Resource, allow, reaches, readable
from codetune.store.database import Database
from codetune.store.models import Model

# A model that somebody made with the command line on this machine has no row: it is the
# administrator's until they share it.
UNCLAIMED = Ownership()
_FEW = 500  # names that one statement takes


class Owners:
    """The owners of the registry's names, as the database has them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def visible(self, actor: Actor, names: Iterable[str]) -> set[str]:
        """Those of the registry's `names` that are the actor's, or shared with them."""
        wanted = set(names)
        few = Model.name.in_(wanted) if len(wanted) <= _FEW else true()
        with self._database.session() as session:
            mine = set(session.scalars(select(Model.name).where(few, readable(actor, Model))))
            if not reaches(actor, "read", UNCLAIMED):
                return mine & wanted
            claimed = set(session.scalars(select(Model.name).where(few)))
        return (mine & wanted) | (wanted - claimed)

    def of(self, names: Iterable[str]) -> Mapping[str, Resource]:
        """The owner of each name."""
        wanted = set(names)
        with self._database.session() as session:
            rows = session.scalars(select(Model).where(Model.name.in_(wanted)))
            found: dict[str, Resource] = {row.name: row for row in rows}
        return {name: found.get(name, UNCLAIMED) for name in wanted}


def saved_as(actor: Actor, label: str) -> str:
    """The registry's name for what the actor calls `label`: two users may call theirs the same."""
    return (
        label if actor.is_local or label.startswith(f"{actor.name}/") else f"{actor.name}/{label}"
    )


def claim(session: Session, actor: Actor, name: str) -> Model:
    """The row of `name`, made for the actor if there is none; inside `Database.write`.

    Raises:
        ConflictError: the name is somebody else's.
    """
    row = session.scalar(select(Model).where(Model.name == name))
    if row is None:
        row = Model(name=name, owner_id=actor.id)
        session.add(row)
        session.flush()
    elif not allow(actor, "write", row):
        raise ConflictError(f"The name '{name}' is taken.", advice="Choose another name.")
    return row
