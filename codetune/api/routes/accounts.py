"""Making an account, logging in, one's own account, and its tokens."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, NoReturn

from fastapi import APIRouter, Form, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field, ValidationError
from starlette.responses import JSONResponse

from codetune.accounts import audit, tokens
from codetune.accounts.logins import Logins
from codetune.accounts.passwords import LONGEST, matches
from codetune.accounts.users import set_password
from codetune.api.auth import actor_of, origin_of
from codetune.api.permissions import Access
from codetune.api.routes.shapes import refusals
from codetune.errors import BadRequestError, ForbiddenError, LoginError
from codetune.registry.access import SCOPES, Actor, public
from codetune.store.database import Database
from codetune.store.tokens import Token
from codetune.store.users import User

ACCESS: Access = {
    "POST /register/": "public",
    "POST /token": "public",
    "GET /api/v1/me": "login",
    "PUT /api/v1/me/password": "account",
    "GET /api/v1/tokens": "account",
    "POST /api/v1/tokens": "account",
    "DELETE /api/v1/tokens/{token_id}": "account",
}
_NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}


class Registration(BaseModel):
    """A name and a password; what else a client sends is not kept."""

    username: str = Field(max_length=64)
    password: str = Field(max_length=LONGEST)


_SCHEMA = {"schema": Registration.model_json_schema()}
_KINDS = ("application/json", "application/x-www-form-urlencoded")
_REGISTRATION = {"requestBody": {"required": True, "content": dict.fromkeys(_KINDS, _SCHEMA)}}


class NewPassword(BaseModel):
    """The password as it was, and as it shall be."""

    old: str = Field(max_length=LONGEST)
    new: str = Field(max_length=LONGEST)


class NewToken(BaseModel):
    """What a token is for."""

    name: str = Field("token", max_length=128)
    scopes: list[str] = Field(
        default_factory=list,
        max_length=len(SCOPES),
        description=f"Of {', '.join(SCOPES)}; all but admin where none is named.",
    )
    expires: str | None = Field(
        None, max_length=40, description="12h, 90d, 2w or an ISO date; null: never."
    )


class TokenSeen(BaseModel):
    """A token without its secret."""

    id: str
    name: str
    hint: str
    scopes: list[str]
    created: datetime
    expires: datetime | None
    revoked: datetime | None
    last_used: datetime | None


class TokenMade(TokenSeen):
    """A token with its secret, which is shown this once."""

    token: str


def routes(logins: Logins) -> APIRouter:
    """The routes of everybody's own account."""
    router = APIRouter(tags=["accounts"], responses=refusals(409, 429))
    _logging_in(router, logins)
    _account(router, logins.database)
    _tokens(router, logins.database)
    return router


def _logging_in(router: APIRouter, logins: Logins) -> None:
    """Making an account, and saying who one is."""

    @router.post("/register/", status_code=201, openapi_extra=_REGISTRATION)
    async def register(request: Request) -> Response:
        """Make oneself an account, where that is allowed; JSON or a form."""
        if not logins.options.registration and await run_in_threadpool(logins.door.look):
            raise ForbiddenError(
                "Nobody can register here.", advice="Ask an administrator for an account."
            )
        body = await _registration(request)
        user = await run_in_threadpool(
            logins.register, body.username, body.password, origin_of(request)
        )
        made = {"id": user.id, "username": user.name, "role": user.role}
        return JSONResponse(made, 201)

    @router.post("/token")
    def token(
        request: Request,
        username: Annotated[str, Form(max_length=64)],
        password: Annotated[str, Form(max_length=LONGEST)],
        grant_type: Annotated[str, Form(max_length=32)] = "password",
    ) -> Response:
        """OAuth2's password form (RFC 6749, 4.3)."""
        if grant_type != "password":
            raise BadRequestError("'grant_type' has to be 'password'.", param="grant_type")
        _, signed, seconds = logins.log_in(username, password, origin_of(request))
        made = {"access_token": signed, "token_type": "bearer", "expires_in": seconds}
        return JSONResponse(made, headers=_NO_STORE)


def _account(router: APIRouter, database: Database) -> None:
    """One's own account."""

    @router.get("/api/v1/me")
    def me(request: Request) -> dict[str, Any]:
        return public(actor_of(request))

    @router.put("/api/v1/me/password", status_code=204)
    def password(request: Request, body: NewPassword) -> None:
        actor = _with_account(actor_of(request))
        if actor.token_id is not None:
            raise ForbiddenError("A token cannot change the password.", advice="Log in instead.")
        with database.session() as session:
            kept = session.get_one(User, actor.id).password_hash
        if not matches(body.old, kept):
            raise LoginError("The old password is another one.")
        with database.write() as session:
            set_password(session.get_one(User, actor.id), body.new)
            audit.record(session, actor, "user.password", actor.name, origin_of(request))


def _tokens(router: APIRouter, database: Database) -> None:
    """One's own tokens."""

    @router.get("/api/v1/tokens")
    def listed(request: Request) -> list[TokenSeen]:
        actor = actor_of(request)
        if actor.is_local:
            return []
        with database.session() as session:
            user = session.get_one(User, actor.id)
            return [_seen(row) for row in tokens.tokens_of(session, user)]

    @router.post("/api/v1/tokens", status_code=201)
    def make(request: Request, body: NewToken) -> TokenMade:
        actor = _with_account(actor_of(request))
        if actor.token_id is not None:  # the other would outlive it, its end and its revocation
            raise ForbiddenError(
                "A token cannot make another.",
                advice=f"Log in instead (POST /token), or: codetune users token {actor.name}",
            )
        with database.write() as session:
            user = session.get_one(User, actor.id)
            row, secret = tokens.make_token(
                session, user, body.name, body.scopes, tokens.expiry(body.expires)
            )
            audit.record(session, actor, "token.add", row.id, origin_of(request), scopes=row.scopes)
            return TokenMade(**_seen(row).model_dump(), token=secret)

    @router.delete("/api/v1/tokens/{token_id}", status_code=204)
    def revoke(request: Request, token_id: str) -> None:
        actor = _with_account(actor_of(request))
        with database.write() as session:
            row = tokens.revoke(session, session.get_one(User, actor.id), token_id)
            audit.record(session, actor, "token.revoke", row.id, origin_of(request))


async def _registration(request: Request) -> Registration:
    """JSON, or the same fields as a form."""
    try:
        body = await request.body()
        form = request.headers.get("content-type", "").startswith("application/x-www-form")
        if form and not body.lstrip().startswith(b"{"):  # curl -d calls JSON a form, too
            return Registration.model_validate(dict(await request.form()))
        return Registration.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BadRequestError(
            f"{where or 'The body'}: {first['msg']}.",
            param=where or None,
            advice='Send {"username": …, "password": …}.',
        ) from None  # the error holds the password


def _with_account(actor: Actor) -> Actor:
    if actor.is_local:
        _no_account()
    return actor


def _no_account() -> NoReturn:
    raise ForbiddenError(
        "You have not logged in: this machine's own user has no password and no tokens.",
        advice="Make an account: codetune users add NAME",
    )


def _seen(row: Token) -> TokenSeen:
    return TokenSeen.model_validate(row, from_attributes=True)
