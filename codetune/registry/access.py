"""The ONE authorisation function: who may do what with which thing.

Everything is refused unless a rule here allows it. Routes, dialects and jobs ask `allow`,
`require` or `readable`; nothing else compares owners, roles or scopes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from sqlalchemy import ColumnElement, and_, false, or_, true

from codetune.errors import ForbiddenError, NotFoundError
from codetune.store.owned import Owned
from codetune.store.users import LOCAL_USER

Action = Literal["read", "use", "create", "write", "delete", "share", "observe", "manage"]
Role = Literal["admin", "member", "viewer"]

# What each role may do at all. "use" is to ask a model; "observe" to read the server's metrics;
# "manage" is the server itself: users,
# teams, audit, settings of all, and what belongs to others.
ROLES: Mapping[str, frozenset[Action]] = {
    "viewer": frozenset({"read", "use"}),
    "member": frozenset({"read", "use", "create", "write", "delete", "share"}),
    "admin": frozenset({"read", "use", "create", "write", "delete", "share", "observe", "manage"}),
}
# What a token of each scope may be used for. An editor needs "complete" alone, which also lists
# the models that may be asked.
SCOPES: Mapping[str, frozenset[Action]] = {
    "complete": frozenset({"use"}),
    "read": frozenset({"read"}),
    "write": frozenset({"create", "write", "delete", "share"}),
    "metrics": frozenset({"observe"}),  # all that a scraper needs
    "admin": frozenset({"observe", "manage"}),
}
ALL_SCOPES = frozenset(SCOPES)
_SHARED: frozenset[Action] = frozenset({"read", "use"})  # what sharing gives to others

T = TypeVar("T", bound="Resource | None")


@dataclass(frozen=True)
class Actor:
    """Somebody who asks: an account, seen through the scopes of what they logged in with."""

    id: str
    name: str
    role: Role
    teams: frozenset[str] = frozenset()
    scopes: frozenset[str] = ALL_SCOPES
    token_id: str | None = None

    @property
    def is_local(self) -> bool:
        """Whoever uses this machine without logging in."""
        return self.id == LOCAL_USER


LOCAL = Actor(LOCAL_USER, "local", "admin")


class Resource(Protocol):
    """What the rules look at: the columns of `Owned`."""

    @property
    def owner_id(self) -> str: ...
    @property
    def team_id(self) -> str | None: ...
    @property
    def visibility(self) -> str: ...


@dataclass(frozen=True)
class Ownership:
    """Whose something is, where it has no row of its own."""

    owner_id: str = LOCAL_USER
    team_id: str | None = None
    visibility: str = "private"


def may(actor: Actor | None, action: Action) -> bool:
    """Do the actor's role and scopes allow the action with anything at all?"""
    if actor is None or action not in ROLES.get(actor.role, frozenset()):
        return False
    return any(action in SCOPES.get(scope, frozenset()) for scope in actor.scopes)


def allow(actor: Actor | None, action: Action, resource: Resource) -> bool:
    """May the actor do this with this thing?

    Their own: what their role and scopes allow. Shared with their team or with everyone: read
    and use. Whoever manages the server: what their scopes allow.
    """
    return may(actor, action) and actor is not None and reaches(actor, action, resource)


def require(actor: Actor | None, action: Action, resource: T, what: str) -> T:
    """The thing itself, if the actor may do this with it; `what` is a phrase: "model 'x'".

    Raises:
        NotFoundError: it is None, or not for this actor: both look the same.
        ForbiddenError: it is shared with them, but not for this; or it is theirs, and their
            role or token does not allow it.
    """
    if actor is None or resource is None or not reaches(actor, "read", resource):
        raise NotFoundError(f"There is no {what}.")
    if not reaches(actor, action, resource):
        raise ForbiddenError(f"The {what} is shared with you; only its owner may do this.")
    require_role(actor, action)
    return resource


def require_role(actor: Actor, action: Action) -> None:
    """Refuse what the actor's role or token does not allow with anything.

    Raises:
        ForbiddenError
    """
    if action not in ROLES.get(actor.role, frozenset()):
        raise ForbiddenError(
            f"The role '{actor.role}' does not allow this.",
            advice="An administrator can change it: codetune users role NAME ROLE",
        )
    if not may(actor, action):
        scope = next(scope for scope, actions in SCOPES.items() if action in actions)
        raise ForbiddenError(
            f"This token does not have the scope '{scope}'.",
            advice=f"Make one that has it: codetune users token {actor.name} --scope {scope}",
        )


def readable(actor: Actor | None, table: type[Owned]) -> ColumnElement[bool]:
    """The same rule as a condition on rows, for lists: what the actor may read."""
    if actor is None:
        return false()
    if may(actor, "manage"):
        return true()
    rules: list[ColumnElement[bool]] = [
        table.owner_id == actor.id,
        table.visibility == "everyone",
    ]
    if actor.teams:
        rules.append(and_(table.visibility == "team", table.team_id.in_(sorted(actor.teams))))
    return or_(*rules)


def reaches(actor: Actor, action: Action, resource: Resource) -> bool:
    """Is the thing within the actor's reach, whatever their role and scopes allow?"""
    if resource.owner_id == actor.id or may(actor, "manage"):
        return True
    if action not in _SHARED:
        return False
    if resource.visibility == "everyone":
        return True
    return resource.visibility == "team" and resource.team_id in actor.teams


def public(actor: Actor) -> dict[str, Any]:
    """What an actor is told of themselves."""
    return {
        "id": actor.id,
        "name": actor.name,
        "role": actor.role,
        "teams": sorted(actor.teams),
        "scopes": sorted(actor.scopes),
    }
