"""Who asks, and whether they may ask this at all: before the router, the body and the handlers.

Handlers find the actor with `actor_of(request)` and ask `codetune.registry.access` about the
single things that they touch.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from codetune.api.errors import failure_of
from codetune.api.guard import answer
from codetune.api.permissions import Level, Permissions
from codetune.errors import AccessError, ForbiddenError, LoginError, NotFoundError, StoreError
from codetune.registry.access import LOCAL, Actor, may, require_role

if TYPE_CHECKING:
    from codetune.accounts.audit import Origin
    from codetune.accounts.logins import Logins

_HEADERS = (b"x-api-key", b"api-key")  # besides `Authorization: Bearer …`


class Gate:
    """ASGI middleware: names the actor of a request, and refuses what they may not call.

    As long as no administrator has shut the door, whoever reaches the server is this machine's
    user, unless they bring a login or a token that is known; editors send any key.
    """

    def __init__(self, app: ASGIApp, *, permissions: Permissions, logins: Logins | None) -> None:
        self._app, self._permissions, self._logins = app, permissions, logins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket" and await self._must_log_in(scope, None):
                await send({"type": "websocket.close", "code": 1008})
                return
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        level = self._permissions.of(scope["method"], scope["path"])
        try:
            login = await self._must_log_in(scope, level)
            state["actor"] = await self._actor(scope, level, login)
            self._check(state["actor"], level, scope, login)
        except (AccessError, StoreError) as error:
            await answer(failure_of(error, state.get("request_id", "")), scope, send)
            return
        await self._app(scope, receive, send)

    async def _must_log_in(self, scope: Scope, level: Level | None) -> bool:
        if self._logins is None:
            return False
        door = self._logins.door
        if door.is_due and (level != "public" or _is_remote(scope)):
            return await run_in_threadpool(door.look)
        return door.shut  # /health answers here while the database is away

    async def _actor(self, scope: Scope, level: Level | None, login: bool) -> Actor | None:
        credential = _credential(scope) if level != "public" else None
        if credential is not None and self._logins is not None:
            try:
                return await run_in_threadpool(self._logins.identify, credential)
            except LoginError:
                if login:
                    raise
        return None if login else LOCAL

    def _check(self, actor: Actor | None, level: Level | None, scope: Scope, login: bool) -> None:
        if not login and _is_remote(scope):
            raise ForbiddenError(
                "This server has no accounts, so it answers its own machine only.",
                advice="Make one: codetune users add NAME",
            )
        if level == "public":
            return
        if actor is None:
            raise LoginError(
                "This server wants to know who asks.",
                advice="Send a personal token: `Authorization: Bearer ct_…`",
            )
        if level is None:
            if not may(actor, "manage"):
                raise NotFoundError(f"There is no {scope['method']} {scope['path']}.")
            return
        if level == "account":
            if actor.token_id is not None and "write" not in actor.scopes:
                raise ForbiddenError("This token does not have the scope 'write'.")
        elif level != "login":
            require_role(actor, level)


def actor_of(request: Request) -> Actor:
    """Who asks.

    Raises:
        LoginError: nobody has said so; only public routes see that.
    """
    actor: Actor | None = getattr(request.state, "actor", None)
    if actor is None:
        raise LoginError("This needs a login.")
    return actor


def origin_of(request: Request) -> Origin:
    """Where a request came from, for the audit log."""
    from codetune.accounts.audit import Origin

    return Origin(
        request.client.host if request.client else "", getattr(request.state, "request_id", "")
    )


def _is_remote(scope: Scope) -> bool:
    """Does the request come from elsewhere, by what a proxy on this machine says?"""
    client = scope.get("client")
    try:
        return client is not None and not ipaddress.ip_address(client[0]).is_loopback
    except ValueError:
        return True


def _credential(scope: Scope) -> str | None:
    headers = dict(scope["headers"])
    scheme, _, value = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return str(value.strip())
    for name in _HEADERS:
        if value := headers.get(name, b"").decode("latin-1").strip():
            return str(value)
    return None
