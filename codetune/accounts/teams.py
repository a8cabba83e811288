"""Teams and who is in them. Always inside one transaction."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from codetune.errors import ConfigError, ConflictError, NotFoundError, nearest
from codetune.store.teams import Membership, Team
from codetune.store.users import User

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,38}")
_ID = "team_"  # ids begin so, and names do not: one must never be read as the other


def teams(session: Session) -> Sequence[Team]:
    """All teams, by name."""
    return session.scalars(select(Team).order_by(Team.name)).all()


def add_team(session: Session, name: str) -> Team:
    """Make a team without members.

    Raises:
        ConfigError: the name cannot be used.
        ConflictError: it is taken.
    """
    name = name.strip().lower()
    if not _NAME.fullmatch(name) or name.startswith(_ID):
        raise ConfigError(
            f"{name[:60]!r} cannot be a team's name.",
            advice="Use letters, digits, '.', '_' and '-', at most 39 of them, beginning with a "
            f"letter or digit, but not with '{_ID}'.",
        )
    if session.scalar(select(Team.id).where(Team.name == name)):
        raise ConflictError(f"There is a team '{name}' already.")
    team = Team(name=name)
    session.add(team)
    session.flush()
    return team


def get_team(session: Session, name: str) -> Team:
    """The team of this id, else of this name.

    Raises:
        NotFoundError: there is none.
    """
    for which in (Team.id == name, Team.name == name.lower()):
        found = session.scalar(select(Team).where(which))
        if found is not None:
            return found
    known = session.scalars(select(Team.name)).all()
    raise NotFoundError(f"There is no team '{name}'.", advice=nearest(name, known))


def members(session: Session, team: Team) -> Sequence[User]:
    """The team's members, by name."""
    joined = select(User).join(Membership, Membership.user_id == User.id)
    return session.scalars(joined.where(Membership.team_id == team.id).order_by(User.name)).all()


def join(session: Session, team: Team, user: User) -> None:
    """Take somebody in; who is in already stays in."""
    if session.get(Membership, (team.id, user.id)) is None:
        session.add(Membership(team_id=team.id, user_id=user.id))


def leave(session: Session, team: Team, user: User) -> None:
    """Let somebody go.

    Raises:
        NotFoundError: they are not in the team.
    """
    membership = session.get(Membership, (team.id, user.id))
    if membership is None:
        raise NotFoundError(f"'{user.name}' is not in the team '{team.name}'.")
    session.delete(membership)
