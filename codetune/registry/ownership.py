"""Whose the registry's models are: which names an actor sees, and under which they save."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import select, true
from sqlalchemy.orm import Session

from codetune.artifacts import home
from codetune.errors import ConfigError, ConflictError, ModelError, RegistryError
from codetune.registry.access import Actor, Ownership, Resource, allow, may, readable
from codetune.registry.cards import Registry
from codetune.store.database import Database
from codetune.store.models import Model
from codetune.store.owned import VISIBILITIES
from codetune.store.teams import Team
from codetune.store.users import User

# A model that somebody made with the command line on this machine has no row: it is for
# administrators until one of them shares it.
UNCLAIMED = Ownership()
_FEW = 500  # names that one statement takes


class Owners:
    """The owners of the registry's names, as the database has them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def visible(self, actor: Actor, names: Iterable[str]) -> set[str]:
        """Those of the registry's `names` that are the actor's, or shared with them."""
        wanted = set(names)
        if may(actor, "manage"):
            return wanted
        few = Model.name.in_(wanted) if len(wanted) <= _FEW else true()
        rows = self._database.rows(select(Model.name).where(few, readable(actor, Model)))
        return wanted.intersection(name for (name,) in rows)

    def of(self, names: Iterable[str]) -> Mapping[str, Resource]:
        """The owner of each name."""
        wanted = set(names)
        with self._database.session() as session:
            rows = session.scalars(select(Model).where(Model.name.in_(wanted)))
            found: dict[str, Resource] = {row.name: row for row in rows}
        return {name: found.get(name, UNCLAIMED) for name in wanted}

    def another(self, actor: Actor, name: str) -> bool:
        """Whether `name` stands below another user's, whose models the actor is not to know of."""
        user, below, _ = name.partition("/")
        if not below or user == actor.name or may(actor, "manage"):
            return False
        return bool(self._database.rows(select(User.id).where(User.name == user)))


def saved_as(actor: Actor, label: str) -> str:
    """The registry's name for what the actor calls `label`: two users may call theirs the same."""
    return (
        label if actor.is_local or label.startswith(f"{actor.name}/") else f"{actor.name}/{label}"
    )


def claim(session: Session, actor: Actor, name: str) -> Model:
    """The row of `name`, made for the actor if there is none; inside `Database.write`.

    A model that is there without a row is an administrator's: whoever is called as it begins
    ("ada" for "ada/shop") does not get it by saving one of that name.

    Raises:
        ConflictError: the name is somebody else's.
    """
    row = session.scalar(select(Model).where(Model.name == name))
    if row is None:
        if not allow(actor, "write", UNCLAIMED) and _is_registered(name):
            raise ConflictError(f"The name '{name}' is taken.", advice="Choose another name.")
        row = Model(name=name, owner_id=actor.id)
        session.add(row)
        session.flush()
    elif not allow(actor, "write", row):
        raise ConflictError(f"The name '{name}' is taken.", advice="Choose another name.")
    return row


def _is_registered(name: str) -> bool:
    try:
        Registry(home()).get(name)
    except ModelError:
        return True  # and damaged
    except RegistryError:
        return False
    return True


def share_model(row: Model, visibility: str, team: Team | None = None) -> None:
    """Show a model to a team or to everyone, or to nobody else any more.

    Raises:
        ConfigError: there is no such visibility, or no team where one is needed.
    """
    if visibility not in VISIBILITIES or (visibility == "team") != (team is not None):
        raise ConfigError(
            f"A model cannot be shared as '{visibility}' {'with' if team else 'without'} a team.",
            advice=f"One of {', '.join(VISIBILITIES)}; 'team' with a team's name.",
        )
    row.visibility, row.team_id = visibility, team.id if team else None


def shared_with(session: Session, team_id: str) -> Sequence[Model]:
    """The models that are shared with a team, by name."""
    rows = select(Model).where(Model.visibility == "team", Model.team_id == team_id)
    return session.scalars(rows.order_by(Model.name)).all()
