"""Users, teams and the audit log, for administrators."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from codetune.accounts import audit, teams, users
from codetune.accounts.door import Door
from codetune.accounts.logins import Logins
from codetune.accounts.passwords import LONGEST
from codetune.api.auth import actor_of, origin_of
from codetune.api.permissions import Access
from codetune.api.routes.shapes import refusals
from codetune.registry.access import may
from codetune.store.database import Database
from codetune.store.teams import Team
from codetune.store.users import User

ACCESS: Access = {
    "GET /api/v1/users": "manage",
    "POST /api/v1/users": "manage",
    "PATCH /api/v1/users/{user_id}": "manage",
    "GET /api/v1/teams": "read",
    "POST /api/v1/teams": "manage",
    "PUT /api/v1/teams/{team_id}/members/{user_id}": "manage",
    "DELETE /api/v1/teams/{team_id}/members/{user_id}": "manage",
    "GET /api/v1/audit": "manage",
}
RoleName = Literal["admin", "member", "viewer"]


class NewUser(BaseModel):
    """An account; without a password it is reached by tokens alone."""

    name: str = Field(max_length=64)
    password: str | None = Field(None, max_length=LONGEST)
    role: RoleName = "member"


class UserChange(BaseModel):
    """What shall be different; null: as it is."""

    role: RoleName | None = None
    disabled: bool | None = None
    password: str | None = Field(None, max_length=LONGEST)


class UserSeen(BaseModel):
    """An account without its secrets."""

    id: str
    name: str
    role: str
    disabled: bool
    created: datetime
    last_login: datetime | None


class NewTeam(BaseModel):
    """A team."""

    name: str = Field(max_length=64)


class TeamSeen(BaseModel):
    """A team and the names of its members."""

    id: str
    name: str
    members: list[str]


class Entry(BaseModel):
    """One act in the audit log."""

    id: int
    at: datetime
    actor: str
    action: str
    subject: str
    address: str
    request_id: str
    details: dict[str, Any]


def routes(logins: Logins) -> APIRouter:
    """The routes of an administrator."""
    router = APIRouter(prefix="/api/v1", tags=["people"], responses=refusals(409, 429))
    _users(router, logins.database, logins.door)
    _teams(router, logins.database)
    _audit(router, logins.database)
    return router


def _users(router: APIRouter, database: Database, door: Door) -> None:
    """Accounts; the first administrator among them shuts the door."""

    @router.get("/users")
    def list_users(request: Request) -> list[UserSeen]:
        with database.session() as session:
            return [_user(row) for row in users.people(session)]

    @router.post("/users", status_code=201)
    def add_user(request: Request, body: NewUser) -> UserSeen:
        with database.write() as session:
            row = users.add_user(session, body.name, body.password, body.role)
            _record(session, request, "user.add", row.name, role=row.role)
        door.look_again()
        return _user(row)

    @router.patch("/users/{user_id}")
    def change_user(request: Request, user_id: str, body: UserChange) -> UserSeen:
        with database.write() as session:
            row = users.get_user(session, user_id)
            if body.role is not None and body.role != row.role:
                users.set_role(session, row, body.role)
                _record(session, request, "user.role", row.name, role=row.role)
            if body.disabled is not None and body.disabled != row.disabled:
                users.set_disabled(session, row, body.disabled)
                _record(session, request, f"user.{_word(row)}", row.name)
            if body.password is not None:
                users.set_password(row, body.password)
                _record(session, request, "user.password", row.name)
            session.flush()
        door.look_again()
        return _user(row)


def _teams(router: APIRouter, database: Database) -> None:
    """Teams and who is in them."""

    @router.get("/teams")
    def list_teams(request: Request) -> list[TeamSeen]:
        """One's own teams; all of them for administrators."""
        actor = actor_of(request)
        with database.session() as session:
            return [
                _team(session, row)
                for row in teams.teams(session)
                if row.id in actor.teams or may(actor, "manage")
            ]

    @router.post("/teams", status_code=201)
    def add_team(request: Request, body: NewTeam) -> TeamSeen:
        with database.write() as session:
            row = teams.add_team(session, body.name)
            _record(session, request, "team.add", row.name)
            return _team(session, row)

    @router.put("/teams/{team_id}/members/{user_id}")
    def join(request: Request, team_id: str, user_id: str) -> TeamSeen:
        with database.write() as session:
            team, user = teams.get_team(session, team_id), users.get_user(session, user_id)
            teams.join(session, team, user)
            _record(session, request, "team.join", team.name, user=user.name)
            session.flush()
            return _team(session, team)

    @router.delete("/teams/{team_id}/members/{user_id}")
    def leave(request: Request, team_id: str, user_id: str) -> TeamSeen:
        with database.write() as session:
            team, user = teams.get_team(session, team_id), users.get_user(session, user_id)
            teams.leave(session, team, user)
            _record(session, request, "team.leave", team.name, user=user.name)
            session.flush()
            return _team(session, team)


def _audit(router: APIRouter, database: Database) -> None:
    """Who did what."""

    @router.get("/audit")
    def log(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        before: Annotated[int | None, Query(ge=1, lt=2**63)] = None,
        action: Annotated[str | None, Query(max_length=64)] = None,
        actor: Annotated[str | None, Query(max_length=64)] = None,
    ) -> list[Entry]:
        """The newest acts; `before` is the id of the last one that was seen."""
        with database.session() as session:
            rows = audit.entries(session, limit=limit, before=before, action=action, actor=actor)
            return [Entry.model_validate(row, from_attributes=True) for row in rows]


def _record(session: Session, request: Request, action: str, subject: str, **details: str) -> None:
    audit.record(session, actor_of(request), action, subject, origin_of(request), **details)


def _user(row: User) -> UserSeen:
    return UserSeen.model_validate(row, from_attributes=True)


def _team(session: Session, row: Team) -> TeamSeen:
    names = [user.name for user in teams.members(session, row)]
    return TeamSeen(id=row.id, name=row.name, members=names)


def _word(row: User) -> str:
    return "disable" if row.disabled else "enable"
